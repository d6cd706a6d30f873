"""Writes the files of a comparison: each is the old file or the complete new one."""

from __future__ import annotations

import contextlib
import os
import tempfile
import uuid
from pathlib import Path

from comfy_client import UsageError


def check_folder(folder: Path) -> None:
    """Make the folder, and see whether files can be written there.

    Raises:
        UsageError: they cannot. The message says why.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(
            f"--output {folder}: no files can be written there ({error.strerror or error}); name another folder"
        ) from error


def write(path: Path, data: bytes) -> None:
    """Write a file beside ``path``, and then put it in its place."""
    beside = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        beside.write_bytes(data)
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
