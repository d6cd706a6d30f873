"""ComfyUI-CHORDS: one picture faster, on several devices."""

import logging
import re

OLDEST = (0, 24, 1)  # of ComfyUI, that the pack is tested on


def _host_version() -> str:
    try:
        from comfyui_version import __version__
    except ImportError:
        return "an older one"  # without a version of its own
    return __version__


try:
    from .nodes import comfy_entrypoint
except Exception as error:
    version = _host_version()
    if tuple(int(number) for number in re.findall(r"\d+", version)[:3]) >= OLDEST:
        raise
    # A word instead of a traceback. ComfyUI goes on without the pack, and lists it as failed.
    logging.error(
        f"ComfyUI-CHORDS needs ComfyUI {'.'.join(map(str, OLDEST))} or newer, and this is {version}: its nodes are "
        f"left out. Update ComfyUI to use them. ({error})"
    )
else:
    WEB_DIRECTORY = "./web"
    __all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
