"""What the emoji model makes of its prompts: a sheet of pictures, with every step and within a tolerance.

    .venv/bin/python benchmarks/emoji.py

Needs the emoji model: scripts/train_emoji.py makes it. Half of the prompts are names with a background, half are kinds
of emoji. Writes benchmarks/results/emoji.jpg.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO)]

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from benchmarks._cells import Cell, Pictures, prompts
from benchmarks._emoji import load_emoji
from benchmarks._report import INK, PAPER, RESULTS
from benchmarks.tolerance import SEED
from chords_core import SOLVERS, Hit, Window, tolerance_window

GUIDANCE = (1.0, 3.5, 8.0)
STEPS, CORES, TOLERANCE = 20, 4, 0.01
TILE, GAP, LABEL, CAPTION = 80, 4, 150, 34


def columns_of(cfg: float, texts: list[str]) -> list[tuple[str, Tensor]]:
    """Captions and pictures [n, 3, 32, 32]: with every step, and within the tolerance."""
    cell = Cell("flow", "simple", STEPS, cfg, "euler", "emoji")
    pictures, sigmas = Pictures(cell, texts, SEED), cell.sigmas(STEPS)
    spec = tolerance_window(sigmas, CORES, SOLVERS[cell.solver], TOLERANCE, flow=True)
    hits = [run.accepted for run in pictures.each(lambda x: Window(x, spec))]
    near = torch.cat([hit.x for hit in hits if isinstance(hit, Hit)])
    decode = load_emoji().latents.decode
    found = (f"CFG {cfg:g},\n{STEPS} steps", pictures.one_core(STEPS)), (f"within {TOLERANCE:g},\n{CORES} cores", near)
    return [(caption, decode(latents).clamp(0, 1)) for caption, latents in found]


def sheet(texts: list[str], columns: list[tuple[str, Tensor]]) -> Image.Image:
    """A row for each prompt."""
    size = (LABEL + len(columns) * (TILE + GAP), CAPTION + len(texts) * (TILE + GAP))
    image, font = Image.new("RGB", size, PAPER), ImageFont.load_default(12)
    draw = ImageDraw.Draw(image)
    for row, text in enumerate(texts):
        draw.multiline_text((GAP, CAPTION + row * (TILE + GAP) + GAP), textwrap.fill(text, 22), INK, font)
    for column, (caption, pictures) in enumerate(columns):
        left = LABEL + column * (TILE + GAP)
        draw.multiline_text((left, GAP), caption, INK, font)
        for row, picture in enumerate(pictures):
            values = (255 * picture).round().byte().movedim(0, -1).contiguous().numpy()
            tile = Image.fromarray(values).resize((TILE, TILE), Image.Resampling.BICUBIC)
            image.paste(tile, (left, CAPTION + row * (TILE + GAP)))
    return image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=10, help="rows, half of them of open prompts (default 10)")
    parser.add_argument("--out", type=Path, default=RESULTS / "emoji.jpg", help="file of the sheet")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    texts = prompts(arguments.pictures, SEED, "emoji")
    columns = [column for cfg in GUIDANCE for column in columns_of(cfg, texts)]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    sheet(texts, columns).save(arguments.out, quality=80)


if __name__ == "__main__":
    main()
