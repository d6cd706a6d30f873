"""The examples run as a reader runs them, and give what they say."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


def _output(repo: Path, name: str, folder: Path) -> str:
    """What the example prints, run in an empty folder without a network."""
    command = [sys.executable, str(repo / "docs" / "examples" / name)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _calls(output: str, line: str) -> int:
    """The calls in a row that the line of this name tells."""
    found = re.search(rf"^{line}: +(\d+) calls in a row", output, re.MULTILINE)
    assert found, output
    return int(found[1])


def test_two_threads(repo: Path, tmp_path: Path) -> None:
    output = _output(repo, "two_threads.py", tmp_path)
    assert _calls(output, "one thread") == 50
    assert _calls(output, "two threads") <= 35
    off = re.search(r"([\d.]+)% from the result of one thread", output)
    assert off and float(off[1]) < 1.0, output


def test_a_diffusers_pipeline(repo: Path, tmp_path: Path) -> None:
    """One core equals the pipeline's own loop; two cores come near to it in fewer calls in a row."""
    if importlib.util.find_spec("diffusers") is None:
        pytest.skip("the package diffusers is not installed")
    output = _output(repo, "diffusers_flux.py", tmp_path)
    assert _calls(output, "one core") == 20 > _calls(output, "two cores")
    one, two = (float(off) for off in re.findall(r"([\d.e+-]+) from the pipeline's own latents", output))
    assert one < 1e-5 and two < 2e-2
    assert "a picture of (1, 3, 128, 128)" in output
