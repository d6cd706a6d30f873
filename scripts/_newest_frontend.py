"""The newest frontend that the pack is tested on, beside the one that the host asks for. Standard library only."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from _env import HOST_DIR, ensure_pip, lock, pip

PACKAGE, VERSION = "comfyui-frontend-package", "1.58.1"
FOLDER = HOST_DIR / f"frontend-{VERSION}"
_STATIC = Path("comfyui_frontend_package", "static")


def newest_frontend() -> Path:
    """The folder for ComfyUI's option `--front-end-root`. It is installed into `.host` if it is missing.

    Raises:
        SetupError: it cannot be installed.
    """
    static = FOLDER / _STATIC
    with lock(HOST_DIR / "lock"):
        if not static.is_dir():
            _install()
    return static


def _install() -> None:
    """Install it in one step, so that an interrupted run leaves no part of it."""
    ensure_pip()
    with tempfile.TemporaryDirectory(dir=HOST_DIR, prefix="unpack-") as folder:
        target = Path(folder) / "frontend"
        what = f"installing the frontend {VERSION} for the browser tests"
        pip(what, "install", "--no-deps", "--target", str(target), f"{PACKAGE}=={VERSION}")
        shutil.rmtree(FOLDER, ignore_errors=True)
        os.replace(target, FOLDER)
