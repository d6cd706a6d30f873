"""Train the emoji model, a test bed for benchmarks, on the pictures of an npm package; runs on a CPU or a GPU.

    .venv/bin/python scripts/train_emoji.py --threads 1

The pictures are Google's Noto emoji (Apache License 2.0), 3,786 of them with names, from the package
emoji-datasource-google. npm downloads it once (75 MB), or name the archive that `npm pack` made with --package. The
model and the archive go to .host/emoji, which git ignores. It prints losses and times; 3,700 steps take 16 minutes of
one CPU core, and the held-out loss falls to 0.546.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import random
import re
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO), str(REPO / "scripts")]

from _flow_training import Batch, FlowRun, train_flow

from benchmarks._emoji import FILE, NETWORK, PICTURE_SIZE, TONES, Emoji, PatchLatents, describe_emoji, extra_content
from demo.flow import Flow
from demo.prompts import encode_prompt
from demo.scenes import COLOURS

PACKAGE = "emoji-datasource-google@16.0.0"
ARCHIVE = f"{PACKAGE.replace('@', '-')}.tgz"
LIST, PICTURES = "package/emoji.json", "package/img/google/64/"
HELD_OUT = 128  # samples
UNCONDITIONAL = 0.12  # share of training prompts left empty, for guidance
ACROSS = 30  # pixels that an emoji has
JITTER = 1  # pixels, of this and of the place


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FILE.parent, help="folder of the model and of the archive")
    parser.add_argument("--package", type=Path, default=None, help=f"the archive of {PACKAGE}, if it is there already")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads; no more than are really free")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--batch", type=int, default=64, help="pictures a step")
    parser.add_argument("--steps", type=int, default=3700, help="the training ends after so many (default 3700)")
    parser.add_argument("--minutes", type=float, default=math.inf, help="the training ends by then (default no limit)")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    torch.manual_seed(arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    everything = read_package(arguments.package or download(arguments.out))
    rng = random.Random(arguments.seed)
    world = EmojiWorld(everything, rng)
    latents = PatchLatents.of(torch.stack([world.draw()[0] for _ in range(1000)]))
    print(f"{len(everything)} pictures", flush=True)

    def draw(count: int) -> Batch:
        pictures, texts = zip(*(world.draw() for _ in range(count)), strict=True)
        context = torch.cat([encode_prompt("" if rng.random() < UNCONDITIONAL else text) for text in texts])
        return latents.encode(torch.stack(pictures)).to(device), context.to(device)

    tensors, metadata = extra_content(latents, [each.emoji for each in everything])
    path, seconds = arguments.out / FILE.name, 60 * arguments.minutes
    run = FlowRun(arguments.steps, path, seconds, tensors, metadata)
    train_flow(Flow(**NETWORK), run, lambda: draw(arguments.batch), draw(HELD_OUT), device)


# --- the package


@dataclass(frozen=True, eq=False)
class EmojiPicture:
    """An emoji, and its picture as the file has it (PNG with transparency)."""

    emoji: Emoji
    png: bytes


def download(folder: Path) -> Path:
    """The package's archive in this folder; npm downloads it if it is not there."""
    if not (folder / ARCHIVE).exists():
        subprocess.run(["npm", "pack", PACKAGE], cwd=folder, check=True)
    return folder / ARCHIVE


def read_package(archive: Path) -> list[EmojiPicture]:
    """All pictures of the package, those of one emoji in its skin tones next to each other."""
    with tarfile.open(archive) as opened:
        needed = (member for member in opened if member.name == LIST or member.name.startswith(PICTURES))
        content = {member.name: file.read() for member in needed if (file := opened.extractfile(member))}
    return [
        EmojiPicture(emoji, content[PICTURES + picture])
        for entry in json.loads(content[LIST])
        for picture, emoji in _emoji_of(entry)
        if PICTURES + picture in content
    ]


def _emoji_of(entry: dict) -> list[tuple[str, Emoji]]:
    """The file names and emoji of an entry of the package's list: itself, and itself in skin tones."""
    name, kind = entry["name"].lower(), " ".join(re.findall(r"\w+", entry["subcategory"]))
    emoji = [(entry["image"], Emoji(name, kind))]
    for tones, variation in entry.get("skin_variations", {}).items():
        both = dict.fromkeys(TONES[tone] for tone in tones.split("-"))
        emoji.append((variation["image"], Emoji(name, kind, " ".join(both))))
    return emoji


# --- pictures and prompts


class EmojiWorld:
    """Emoji on backgrounds of the demo's colours, with prompts that leave something out now and then.

    Every name is as likely as every other, whatever number of skin tones it has.
    """

    def __init__(self, everything: Sequence[EmojiPicture], rng: random.Random) -> None:
        from PIL import Image

        self._rng = rng
        self._groups: dict[tuple[str, str], list[int]] = {}
        for index, each in enumerate(everything):
            self._groups.setdefault((each.emoji.name, each.emoji.kind), []).append(index)
        self._emoji = [each.emoji for each in everything]
        self._names = list(self._groups)
        self._pictures = [Image.open(io.BytesIO(each.png)).convert("RGBA").convert("RGBa") for each in everything]

    def draw(self) -> tuple[Tensor, str]:
        """A picture [3, 32, 32] in 0..1 and its prompt."""
        rng = self._rng
        group = self._groups[rng.choice(self._names)]
        index = group[0] if rng.random() < 0.5 else rng.choice(group)
        colour = rng.choice(list(COLOURS))
        picture = self._composed(index, COLOURS[colour])
        named, said = rng.random() < 0.8, colour if rng.random() < 0.75 else ""
        return picture, describe_emoji(self._emoji[index], said, name=named, kind=rng.random() < 0.4)

    def _composed(self, index: int, colour: tuple[float, float, float]) -> Tensor:
        import numpy as np
        from PIL import Image

        rng = self._rng
        across = ACROSS + rng.randint(-JITTER, JITTER)
        free = PICTURE_SIZE - across
        left, top = (min(max(free // 2 + rng.randint(-JITTER, JITTER), 0), free) for _ in range(2))
        # Colours are premultiplied, or the colours of transparent pixels would show at the outlines.
        small = self._pictures[index].resize((across, across), Image.Resampling.BICUBIC)
        values = torch.from_numpy(np.asarray(small).copy()).movedim(-1, 0).float() / 255
        paint = torch.tensor([channel + rng.uniform(-0.025, 0.025) for channel in colour]).clamp(0, 1)
        picture = paint[:, None, None].repeat(1, PICTURE_SIZE, PICTURE_SIZE)
        place = picture[:, top : top + across, left : left + across]
        place.mul_(1 - values[3]).add_(values[:3])
        return picture.clamp(0, 1)


if __name__ == "__main__":
    main()
