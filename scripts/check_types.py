"""Check the types of the whole pack with mypy: chords_core strictly, nodes, demo and scripts plainly.

    python scripts/check_types.py

chords_core is checked by the settings in pyproject.toml. The modules of nodes import each other relatively up to the
clone's root, so that the root has to be a package with a name, as it is for ComfyUI. The clone's folder may have any
name; here it gets one by a link. ComfyUI has no types that can be relied on, so that what comes from it is Any.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
TYPES = REPO / ".host" / "types"
PACK = "chords_pack"
TRAINING = ("_flow_training.py", "train_demo.py", "train_emoji.py")
PARTS = ("__init__.py", "chords_core", "demo", "nodes")
PLAIN = ["--ignore-missing-imports", "--explicit-package-bases", "--python-version", "3.10", "--platform", "linux"]
"""Types of the oldest Python that the pack runs on."""


def check_core() -> int:
    """mypy's exit status for chords_core."""
    return subprocess.run([sys.executable, "-m", "mypy"], cwd=REPO, check=False).returncode


def check_nodes() -> int:
    """mypy's exit status for nodes, and for demo, which they import."""
    package = TYPES / PACK
    package.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        if not (package / part).exists():
            (package / part).symlink_to(REPO / part, target_is_directory=(REPO / part).is_dir())
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file",
        "",
        *PLAIN,
        "--cache-dir",
        ".cache",
        "-p",
        f"{PACK}.nodes",
    ]
    environment = {**os.environ, "MYPYPATH": str(TYPES)}
    done = subprocess.run(command, cwd=TYPES, env=environment, capture_output=True, text=True, check=False)
    print(done.stdout.replace(f"{PACK}{os.sep}", ""), done.stderr, sep="", end="")
    return done.returncode


def check_scripts() -> int:
    """mypy's exit status for the scripts. The name `demo` is a package to those that train, a script to the others."""
    scripts = sorted(path for path in (REPO / "scripts").rglob("*.py") if path.name not in TRAINING)
    plain = [sys.executable, "-m", "mypy", "--config-file", "", *PLAIN, "--follow-imports", "silent"]
    statuses = []
    training = [REPO / "scripts" / name for name in TRAINING]
    for place, files in ((REPO / "scripts", scripts), (REPO, training)):
        command = [*plain, "--cache-dir", str(TYPES / f".cache-{place.name}"), *map(str, files)]
        environment = {**os.environ, "MYPYPATH": str(place)}
        statuses.append(subprocess.run(command, cwd=place, env=environment, check=False).returncode)
    return max(statuses)


if __name__ == "__main__":
    sys.exit(max(check_core(), check_nodes(), check_scripts()))
