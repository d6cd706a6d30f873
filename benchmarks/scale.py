"""Where more devices stop to help, and what a planner should do about it: runs on imagined devices.

    python benchmarks/scale.py [--small]

The real driver and state machine in virtual time (chords_core/simulation.py). Writes scale.md, scale.json and scale.png
to benchmarks/results; the picture needs matplotlib (pip install matplotlib). One section compares the simulator with
threads that sleep, in real time. The last one has models whose costs one GPU has measured: which mixture of token
split, guidance split, cores and calls left out is fastest, and what the pack chooses.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))

import torch

from benchmarks._report import RESULTS, require_matplotlib, write
from benchmarks._scale_report import picture, report
from benchmarks._scale_runs import SECTIONS, Section


def run_all(small: bool) -> dict[str, Section]:
    """All sections."""
    torch.set_num_threads(1)
    sections = {}
    for name, run in SECTIONS.items():
        began = time.perf_counter()
        sections[name] = run(small)
        print(f"{name}: {time.perf_counter() - began:.1f} s", flush=True)
    return sections


def as_json(sections: dict[str, Section]) -> list[str]:
    """The lines of scale.json, one a row of a section."""
    texts = (
        f"{json.dumps(name)}: [\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]"
        for name, rows in sections.items()
    )
    return ["{", ",\n".join(texts), "}"]


def load(path: Path) -> dict[str, Section]:
    """The sections of an earlier run."""
    sections: dict[str, Section] = json.loads(path.read_text(encoding="utf-8"))
    for row in sections["links"]:
        row["speedups"] = {int(count): value for count, value in row["speedups"].items()}  # JSON has texts as keys
    return sections


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="fewer cases and seeds: under a minute")
    parser.add_argument("--no-picture", action="store_true", help="without matplotlib")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder to write to")
    parser.add_argument("--report", action="store_true", help="simulate nothing, write scale.md and the picture anew")
    arguments = parser.parse_args()
    if not arguments.no_picture:
        require_matplotlib()
    if arguments.report:
        sections = load(arguments.out / "scale.json")
    else:
        sections = run_all(arguments.small)
        write(arguments.out / "scale.json", as_json(sections))
    command = "`python benchmarks/scale.py" + (" --small`" if arguments.small else "`")
    write(arguments.out / "scale.md", report(sections, command))
    if not arguments.no_picture:
        picture(sections, arguments.out / "scale.png")


if __name__ == "__main__":
    main()
