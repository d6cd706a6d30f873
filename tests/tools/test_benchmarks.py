"""The benchmarks that need no server run and write what they promise: in small, so that no figure of theirs counts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SMALL = {
    "driver_overhead.py": (["--repeats", "1", "--output", "OUT/driver_overhead.md"], ["driver_overhead.md"]),
    # Its time is up before the first case, which would take too long: it loads ComfyUI and reports what is missing.
    "frontier.py": (["--small", "--limit", "1", "--no-picture", "--out", "OUT"], ["frontier.md", "frontier.json"]),
    "peers.py": (
        ["--small", "--ways", "ours", "LazyCache", "--no-picture", "--out", "OUT"],
        ["peers.md", "peers.json"],
    ),
    "scale.py": (["--small", "--no-picture", "--out", "OUT"], ["scale.md", "scale.json"]),
    "tolerance.py": (["--small", "--out", "OUT"], ["tolerance.md", "tolerance.json"]),
    "sdo.py": (
        "effect --seeds 1 --iterations 2 --steps 3 --random 2 --tasks contrast --out OUT/sdo.md".split()
        + ["--methods", "full", "spread, adaptive"],
        ["sdo.md"],
    ),
}


@pytest.mark.parametrize("name", SMALL)
def test_a_small_run_writes_its_files(repo: Path, tmp_path: Path, name: str) -> None:
    arguments, promised = SMALL[name]
    given = [argument.replace("OUT", str(tmp_path)) for argument in arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(repo / "benchmarks" / name), *given]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(promised)
    for path in tmp_path.glob("*.md"):
        text = path.read_text(encoding="utf-8")
        assert text.startswith("# ") and "Traceback" not in text
        assert "|---|" in text or "cases are left out: the time was up" in text
    for path in tmp_path.glob("*.json"):
        assert json.loads(path.read_text(encoding="utf-8"))


def test_all_benchmarks_say_what_they_do(repo: Path) -> None:
    """Each begins with a text that has the command to run it."""
    for path in sorted((repo / "benchmarks").glob("[!_]*.py")):
        first = path.read_text(encoding="utf-8").split('"""')[1]
        assert f"benchmarks/{path.name}" in first, path.name
