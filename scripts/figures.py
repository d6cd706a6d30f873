"""Draws the figures of docs/how-it-works.md from runs of chords_core, on the demo model or on points in the plane.

The model of the points in the plane is known exactly.

    .venv/bin/python scripts/figures.py            all, into docs/images (about two minutes)
    .venv/bin/python scripts/figures.py window     only this one
    .venv/bin/python scripts/figures.py --check    smaller runs, and small figures that are not kept

Needs `python scripts/test.py --setup-only` once.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent
sys.path[:0] = [str(SCRIPTS.parent), str(SCRIPTS)]

import torch
from _figures_animation import draw_animation
from _figures_chords import draw_chain, draw_hits, draw_paper, draw_rounds
from _figures_results import draw_calls, draw_guidance, draw_search, draw_ten, draw_window
from _figures_runs import SMALL, Scale
from _figures_sharing import draw_sharing
from _figures_style import shrink

from benchmarks._report import require_matplotlib

IMAGES = SCRIPTS.parent / "docs" / "images"

DRAWN: dict[str, tuple[str, Callable[[Scale, Path], None]]] = {
    "chain": ("how-chain.png", draw_chain),
    "paper": ("how-paper.png", draw_paper),
    "rounds": ("how-rounds.png", draw_rounds),
    "hits": ("how-hits.png", draw_hits),
    "window": ("how-window.png", draw_window),
    "ten": ("how-ten.png", draw_ten),
    "calls": ("how-calls.png", draw_calls),
    "guidance": ("how-guidance.png", draw_guidance),
    "sharing": ("how-sharing.png", draw_sharing),
    "sdo": ("how-sdo.png", draw_search),
    "chords": ("how-chords.gif", draw_animation),
}


def draw(names: Sequence[str], scale: Scale, folder: Path) -> list[Path]:
    """Draw these figures; returns the files."""
    require_matplotlib()
    files = []
    for name in names:
        file, drawing = folder / DRAWN[name][0], DRAWN[name][1]
        drawing(scale, file)
        if file.suffix == ".png":
            shrink(file)
        files.append(file)
        print(f"{file.name}: {file.stat().st_size / 1e3:.0f} kB", flush=True)
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="name", help=f"one of {', '.join(DRAWN)}; default: all")
    parser.add_argument("--check", action="store_true", help="small, into a folder that is not kept")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(DRAWN):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(DRAWN)}")
    torch.set_num_threads(1)
    names = arguments.names or list(DRAWN)
    if arguments.check:
        with tempfile.TemporaryDirectory() as folder:
            draw(names, SMALL, Path(folder))
    else:
        IMAGES.mkdir(parents=True, exist_ok=True)
        draw(names, Scale(), IMAGES)


if __name__ == "__main__":
    main()
