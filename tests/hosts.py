"""The host of the tests where COMFYUI_PATH or COMFYUI_VERSION names one.

What a host older than the default one lacks skips a test, with the reason; nothing else does.
A test that uses a node or a module of a later host cannot run there. A missing node of this pack is a failure on
each host.
"""

from __future__ import annotations

import functools
import os
import re
import traceback
from pathlib import Path

import host

TESTS = Path(__file__).resolve().parent
_NODE = re.compile(r"Node '([^']+)' not found")
_OURS = re.compile(r"CHORDS|SDO|^Chords|^Test")  # nodes of the pack and of the tests, by type or title


def own_base(folder: Path) -> Path:
    """A base folder for servers, with this pack alone in its custom_nodes.

    Servers of a checkout that COMFYUI_PATH names have it. They load none of the packs and models there, write nothing
    there, and know this pack by its usual name.
    """
    for name in ("custom_nodes", "models", "input"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    host.install_pack(folder)
    return folder


def version() -> str:
    """The version of the host that the tests run on."""
    named = os.environ.get("COMFYUI_PATH", "").strip()
    if named:
        return host.version_of(Path(named).expanduser())
    return host._pin(os.environ.get("COMFYUI_VERSION", "").strip()).comfyui


@functools.cache
def is_older() -> bool:
    """Whether the host is older than the default one. One whose version is unknown is not."""
    return _numbers(version()) < _numbers(host.PINS[0].comfyui)


def lack(error: BaseException) -> str | None:
    """What the host lacks, as the reason to skip a test that raised this error; None for any other error."""
    if isinstance(error, ImportError):
        # Only where a test itself imports it: what the pack imports has to be there.
        importer = [
            frame.filename for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename
        ]
        of_host = (error.name or "").split(".")[0] in ("comfy", "comfy_extras", "comfy_api", "comfy_execution")
        if of_host and importer and Path(importer[-1]).is_relative_to(TESTS):
            return f"ComfyUI {version()} is too old: {error}"
        return None
    found = _NODE.search(str(error))
    if found and not _OURS.search(found[1]):
        return f"ComfyUI {version()} has no node {found[1]}"
    return None


def _numbers(text: str) -> tuple[int, ...]:
    numbers = tuple(int(number) for number in re.findall(r"\d+", text)[:3])
    return numbers or (10**6,)
