"""`pip install .` gives chords_core alone: it imports, samples, and carries its types."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

SAMPLES = """
import sys, torch, chords_core
from chords_core import ThreadPool, sample
assert "{site}" in chords_core.__file__, chords_core.__file__
def denoise(x, sigma):
    return x / (1 + sigma**2)
with ThreadPool([denoise, denoise]) as pool:
    two = sample(None, torch.ones(4), torch.linspace(10, 0, 21), method="secant", cores=2, pool=pool)
one = sample(denoise, torch.ones(4), torch.linspace(10, 0, 21))
assert two.depth < one.depth == 20
assert float((two.x - one.x).norm() / one.x.norm()) < 0.02
assert not [name for name in sys.modules if name.split(".")[0] in ("comfy", "nodes", "matplotlib", "ray", "PIL")]
print("sampled")
"""


@pytest.fixture(scope="module")
def wheel(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that the clone keeps no build folder."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE", "__init__.py"):
        shutil.copy(repo / name, folder)
    for name in ("chords_core", "nodes", "demo", "scripts"):
        shutil.copytree(repo / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder / "wheels")]
    command = [sys.executable, "-m", "pip", "wheel", *options, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = (folder / "wheels").glob("*.whl")
    return built


def test_it_holds_the_core_with_its_types_and_nothing_of_the_nodes(repo: Path, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    modules = {path.relative_to(repo).as_posix() for path in (repo / "chords_core").rglob("*.py")}
    assert {name for name in names if ".dist-info/" not in name} == modules | {"chords_core/py.typed"}


def test_it_samples_in_an_empty_environment_beside_torch(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    program = f"import sys\nsys.path.insert(0, {str(site)!r})\n" + SAMPLES.format(site=site.as_posix())
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "sampled\n"
