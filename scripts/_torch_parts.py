"""Installs versions of torch, torchvision and torchaudio that belong together, also with a CPU torch.

The Linux wheels of torchvision and torchaudio are linked against CUDA. ComfyUI imports both when it starts, and needs
none of their compiled code on a CPU. Therefore, with a CPU torch, they are installed without their dependencies and
made importable: torchvision gets the operator schemas that its compiled part would register, and the shared libraries
of torchaudio that cannot be loaded are removed.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import json
import runpy
import subprocess
import sys
import sysconfig
from pathlib import Path

from _env import SCRIPTS, SetupError, pip, say

PARTS = ("torch", "torchvision", "torchaudio")
SHIM_NAME = "comfyui_chords_torchvision_shim"
SHIM_SOURCE = '''\
"""Makes a CUDA-linked torchvision importable with a CPU torch; written by scripts/host.py.

torchvision registers Python code for operators that its compiled part defines. Without CUDA libraries that part cannot
be loaded, and the import fails. It succeeds if the schemas of the operators are defined before.
"""

import sys


class _BeforeTorchvision:
    """An import hook that finds nothing itself: it acts before the import of torchvision."""

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            _define_schemas()
        return None


def _define_schemas():
    import torch

    if torch.version.cuda is not None or torch.version.hip is not None:
        return  # the compiled part can be loaded and defines them
    for name in ("nms", "qnms"):
        schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        try:
            torch.library.define("torchvision::" + name, schema)
        except RuntimeError:
            pass  # defined already


sys.meta_path.insert(0, _BeforeTorchvision())
'''

_TRIES = """
import importlib, json, sys, traceback
import torch
problems = {}
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except Exception:
        problems[name] = traceback.format_exc()[-1500:]
print(json.dumps(problems))
"""


def pinned() -> dict[str, str]:
    """The versions in requirements-torch.txt, by name."""
    lines = (SCRIPTS / "requirements-torch.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    return {name.strip(): version.strip() for name, version in pairs}


def installed(name: str) -> str | None:
    """The installed version of a distribution without its local part (+cpu, +cu130); None if it is not installed."""
    importlib.invalidate_caches()
    try:
        return importlib.metadata.version(name).split("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """The installed versions of all three, local part included."""
    importlib.invalidate_caches()
    return {name: importlib.metadata.version(name) for name in PARTS}


def install_torch_parts() -> None:
    """Install what is missing of the three. An installed torch is kept."""
    pins = pinned()
    if installed("torch") is None:
        what = f"installing torch {pins['torch']} (large where it is a CUDA build)"
        pip(what, "install", f"torch=={pins['torch']}")
    torch_version = installed("torch") or pins["torch"]
    wanted = [_companion(name, torch_version, pins) for name in PARTS[1:]]
    missing = [requirement for requirement in wanted if not _satisfied(requirement)]
    if missing:
        extra = ["--no-deps"] if _linux_cpu() else [f"torch=={torch_version}"]
        pip(f"installing {', '.join(missing)}", "install", *missing, *extra)


def check_torch_parts() -> None:
    """Check that all three can be imported; on Linux with a CPU torch, repair those that cannot.

    Raises:
        SetupError: one of them cannot be imported.
    """
    say(f"torch {installed('torch')} for {_accelerator()}")
    problems = _problems()
    if problems and _linux_cpu():
        say(f"making {' and '.join(problems)} importable with a CPU torch")
        if "torchvision" in problems:
            _install_torchvision_shim()
        if "torchaudio" in problems:
            _remove_torchaudio_libraries()
        problems = _problems()
    for name, problem in problems.items():
        raise SetupError(f"{name} cannot be imported, and ComfyUI needs it:\n{problem}")


def _companion(name: str, torch_version: str, pins: dict[str, str]) -> str:
    """The requirement for the version of torchvision or torchaudio that belongs to this version of torch."""
    if torch_version == pins["torch"]:
        return f"{name}=={pins[name]}"
    major, minor = (int(part) for part in torch_version.split(".")[:2])
    if name == "torchvision":  # 0.(n + 15) belongs to 2.n
        return f"torchvision==0.{minor + 15}.*"
    return f"torchaudio=={major}.{min(minor, 11)}.*"  # 2.11 is the last version with the number of torch


def _satisfied(requirement: str) -> bool:
    """Whether name==version or name==1.2.* is installed."""
    name, version = requirement.split("==")
    found = installed(name)
    return found is not None and (found == version or (version.endswith("*") and found.startswith(version[:-1])))


def _linux_cpu() -> bool:
    """Whether this is the case that needs a repair: CUDA-linked wheels with a CPU torch."""
    return sys.platform.startswith("linux") and _accelerator() == "CPU"


@functools.cache
def _accelerator() -> str:
    """The accelerator of the installed torch build: "CUDA 13.0", "ROCm ..." or "CPU"."""
    spec = importlib.util.find_spec("torch")  # not imported: that takes seconds
    if spec is None or spec.origin is None:
        raise SetupError("the torch in .venv cannot be found")
    version = runpy.run_path(str(Path(spec.origin).with_name("version.py")))
    cuda, hip = version.get("cuda"), version.get("hip")
    return f"CUDA {cuda}" if cuda else f"ROCm {hip}" if hip else "CPU"


def _problems() -> dict[str, str]:
    """Which of torchvision and torchaudio cannot be imported, and why. One new interpreter tries both."""
    done = subprocess.run([sys.executable, "-c", _TRIES, *PARTS[1:]], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SetupError(f"the torch in .venv cannot be imported:\n{done.stderr.strip()[-1500:]}")
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


def _install_torchvision_shim() -> None:
    """Add an import hook to `.venv` by a .pth file, which runs at every start of Python."""
    site = Path(sysconfig.get_path("purelib"))
    (site / f"{SHIM_NAME}.py").write_text(SHIM_SOURCE, encoding="utf-8")
    (site / f"{SHIM_NAME}.pth").write_text(f"import {SHIM_NAME}\n", encoding="utf-8")


def _remove_torchaudio_libraries() -> None:
    """Remove the compiled parts of torchaudio, which need CUDA. Its Python part can then be imported."""
    site = Path(sysconfig.get_path("platlib"))
    for library in sorted((site / "torchaudio").rglob("*.so")):
        library.unlink()
