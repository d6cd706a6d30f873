"""How long ComfyUI takes to load the pack, on top of torch and itself: writes benchmarks/results/import_time.md.

    python benchmarks/import_time.py

ComfyUI is started on the CPU with three packs: one that reads the clock, this one, and one that reads the clock again.
The first start compiles the pack's files (Python keeps the result) and does not count. In one more start Python
measures which modules take longest, each without those that it imports (-X importtime). Standard library only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO), str(REPO / "scripts")]

from _env import enter_venv
from host import PACK_NAME, prepare, version_of

from benchmarks._report import RESULTS, table, write

GOAL = 0.5  # seconds
SHOWN = 6
CLOCK = """
import os, time
with open(os.environ["CHORDS_CLOCK"], "a", encoding="utf-8") as file:
    print(time.perf_counter(), time.process_time(), file=file)
NODE_CLASS_MAPPINGS = {}
"""
TIMED = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s+(.+)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=9, help="starts of ComfyUI that count (default 9)")
    parser.add_argument("--output", type=Path, default=RESULTS / "import_time.md")
    arguments = parser.parse_args()
    enter_venv()
    comfy = prepare()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        lay_out(base)
        starts = [start(comfy, base)[0] for _ in range(arguments.starts + 1)][1:]
        modules = slowest(start(comfy, base, "-X", "importtime")[1])
    seconds, computed = zip(*starts, strict=True)
    lines = [
        "# Loading the pack",
        "",
        f"`python benchmarks/import_time.py`, {arguments.starts} starts of ComfyUI {version_of(comfy)} on "
        f"{os.cpu_count()} CPU cores ({platform.machine()}), Python {platform.python_version()}.",
        "",
        f"ComfyUI loads the pack in **{statistics.median(seconds):.2f} s** (median; {min(seconds):.2f} to "
        f"{max(seconds):.2f} s), torch and what ComfyUI itself imports not counted, of which the processor works "
        f"{statistics.median(computed):.2f} s. The goal is at most {GOAL} s.",
        "",
        *table(
            ("the slowest of the modules it imports, each by itself", "ms"),
            [(f"`{name}`", f"{milliseconds:.0f}") for name, milliseconds in modules],
        ),
    ]
    write(arguments.output, lines)
    print("\n".join(lines))


def lay_out(base: Path) -> None:
    """The folder of a ComfyUI whose three packs are loaded in this order: a clock, ours, a clock."""
    for place in ("custom_nodes", "last"):
        (base / place / "clock").mkdir(parents=True)
        (base / place / "clock" / "__init__.py").write_text(CLOCK, encoding="utf-8")
    (base / "ours").mkdir()
    (base / "ours" / PACK_NAME).symlink_to(REPO, target_is_directory=True)
    sections = {name: {"base_path": str(base), "custom_nodes": name} for name in ("ours", "last")}
    (base / "paths.yaml").write_text(json.dumps(sections), encoding="utf-8")  # JSON is YAML


def start(comfy: Path, base: Path, *options: str) -> tuple[tuple[float, float], str]:
    """Seconds and processor seconds between the clocks, and all that ComfyUI wrote: it starts and ends at once."""
    clock = base / "clock.txt"
    clock.unlink(missing_ok=True)
    command = [sys.executable, *options, str(comfy / "main.py"), "--cpu", "--quick-test-for-ci", "--disable-api-nodes"]
    command += ["--base-directory", str(base), "--extra-model-paths-config", str(base / "paths.yaml")]
    command += ["--database-url", f"sqlite:///{(base / 'comfyui.db').as_posix()}"]
    environment = {**os.environ, "CHORDS_CLOCK": str(clock)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=comfy, env=environment, check=True)
    before, after = (tuple(map(float, line.split())) for line in clock.read_text(encoding="utf-8").splitlines())
    return (after[0] - before[0], after[1] - before[1]), done.stdout + done.stderr


def slowest(log: str) -> list[tuple[str, float]]:
    """Modules imported while the pack was loaded, and their own milliseconds, the slowest first."""
    timed = [match.groups() for match in map(TIMED.match, log.splitlines()) if match]
    ours = [place for place, (_, name) in enumerate(timed) if PACK_NAME in name]
    loaded = timed[ours[0] : ours[-1] + 1]
    named = [(name.partition(f"{PACK_NAME}.")[2] or name.strip(), int(micros) / 1000) for micros, name in loaded]
    return sorted(named, key=lambda module: -module[1])[:SHOWN]


if __name__ == "__main__":
    main()
