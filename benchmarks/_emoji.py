"""The emoji model: a second test bed for benchmarks, with finer detail and a richer world than the demo's shapes.

It has learned the 3,786 pictures of an emoji set, each with its name, on coloured backgrounds, 32 x 32 pixels. It is a
model of the demo's class with 2.2 million weights, and its prompts are encoded as the demo's are. It is not shipped:
`scripts/train_emoji.py` makes its file. After 3,700 steps the colours and backgrounds of its pictures are mostly right,
outlines rough; many faces and flags can be recognised, other things often cannot.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F

from benchmarks._report import REPO
from demo.autoencoder import LATENT_CHANNELS
from demo.flow import Flow
from demo.scenes import COLOURS

PICTURE_SIZE = 32
PATCH = 4  # pixels across, of a latent's pixel
LATENT = (LATENT_CHANNELS, PICTURE_SIZE // PATCH, PICTURE_SIZE // PATCH)
TONES = {"1F3FB": "light", "1F3FC": "medium light", "1F3FD": "medium", "1F3FE": "medium dark", "1F3FF": "dark"}
NETWORK = {"width": 128, "double": 2, "single": 3}
FILE = REPO / ".host" / "emoji" / "chords_emoji_flow.safetensors"
LATENTS = "latents."  # before the names of the latents' tensors in the file


@dataclass(frozen=True)
class Emoji:
    """A picture of the set: its name in small letters, its kind ("animal mammal"), its skin tone if it has one."""

    name: str
    kind: str
    tone: str = ""


def describe_emoji(emoji: Emoji, background: str = "", *, name: bool = True, kind: bool = False) -> str:
    """The prompt of an emoji: "hot dog, food prepared, blue background". What is empty or False is left open."""
    said = [emoji.name] if name else []
    said += [f"{emoji.tone} skin"] if name and emoji.tone else []
    said += [emoji.kind] if kind or not name else []
    return ", ".join([*said, *([f"{background} background"] if background else [])])


def emoji_prompts(everything: Sequence[Emoji], count: int, seed: int) -> list[str]:
    """Half of them name the emoji and the background; half name only the kind of emoji."""
    rng = random.Random(seed)
    chosen = [rng.choice(everything) for _ in range(count)]
    named = [describe_emoji(emoji, rng.choice(list(COLOURS))) for emoji in chosen[: count // 2]]
    return [*named, *(describe_emoji(emoji, name=False) for emoji in chosen[count // 2 :])]


@dataclass(frozen=True, eq=False)
class PatchLatents:
    """Latents without a network: the principal components of 4 x 4 pixels.

    The components' standard deviations are reduced to their square root, so that fine detail counts for more than
    in pixels and for less than with unit variance. All channels together have variance 1.

    Attributes:
        mean: of a patch, [48]
        basis: the components as columns, [48, 16], orthonormal
        scale: of each channel, [16]
    """

    mean: Tensor
    basis: Tensor
    scale: Tensor

    @classmethod
    def of(cls, pictures: Tensor) -> PatchLatents:
        """The components of pictures [n, 3, h, w]."""
        patches = F.pixel_unshuffle(pictures.double(), PATCH).movedim(1, -1).flatten(0, 2)
        variances, vectors = torch.linalg.eigh(torch.cov(patches.T))
        deviations = variances[-LATENT_CHANNELS:].flip(0).sqrt()
        scale = deviations.mean().sqrt() * deviations.sqrt()
        return cls(patches.mean(0).float(), vectors[:, -LATENT_CHANNELS:].flip(1).float(), scale.float())

    def encode(self, pictures: Tensor) -> Tensor:
        """Pictures [n, 3, 4h, 4w] in 0..1 to latents [n, 16, h, w]."""
        patches = F.pixel_unshuffle(pictures, PATCH).movedim(1, -1)
        return (((patches - self.mean) @ self.basis) / self.scale).movedim(-1, 1)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [n, 16, h, w] to pictures [n, 3, 4h, 4w]."""
        patches = (latents.movedim(1, -1) * self.scale) @ self.basis.T + self.mean
        return F.pixel_shuffle(patches.movedim(-1, 1), PATCH)


@dataclass(frozen=True, eq=False)
class EmojiModel:
    """What the file of the emoji model has: the network in float32, frozen; its latents; all emoji it has learned."""

    flow: Flow
    latents: PatchLatents
    emoji: tuple[Emoji, ...]


def load_emoji(path: Path = FILE) -> EmojiModel:
    """The emoji model.

    Raises:
        SystemExit: there is no file; the text says how to make it.
    """
    if not path.exists():
        raise SystemExit(f"there is no {path.name}: scripts/train_emoji.py makes it")
    with safe_open(path, "pt") as opened:
        tensors = {name: opened.get_tensor(name).float() for name in opened.keys()}  # noqa: SIM118
        emoji = tuple(Emoji(**each) for each in json.loads(opened.metadata()["emoji"]))
    flow = Flow(**NETWORK).eval().requires_grad_(False)
    flow.load_state_dict({name: value for name, value in tensors.items() if not name.startswith(LATENTS)})
    latents = PatchLatents(*(tensors[LATENTS + name] for name in ("mean", "basis", "scale")))
    return EmojiModel(flow, latents, emoji)


def extra_content(latents: PatchLatents, emoji: Sequence[Emoji]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata that the file has besides the network's own."""
    tensors = {LATENTS + name: getattr(latents, name).contiguous() for name in ("mean", "basis", "scale")}
    return tensors, {"emoji": json.dumps([asdict(each) for each in emoji])}
