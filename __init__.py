"""ComfyUI-CHORDS: one picture faster, on several devices."""

import logging
import re

RUN_ON = ("0.24.1", "0.27.0", "0.30.0")
"""The versions of ComfyUI on which the tests run, oldest first. The pack needs the first or a newer one."""


def _host_version() -> str:
    try:
        from comfyui_version import __version__
    except ImportError:
        return "an older one"  # without a version of its own
    return __version__


def _numbers(version: str, count: int = 3) -> tuple[int, ...]:
    """The first numbers of a version; none if it has none."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:count])


_version = _host_version()
try:
    from .nodes import comfy_entrypoint
except Exception as error:
    if _numbers(_version) >= _numbers(RUN_ON[0]):
        raise
    # A word instead of a traceback. ComfyUI goes on without the pack, and lists it as failed.
    logging.error(
        f"ComfyUI-CHORDS needs ComfyUI {RUN_ON[0]} or newer, and this is {_version}: its nodes are left out. "
        f"Update ComfyUI to use them. ({error})"
    )
else:
    WEB_DIRECTORY = "./web"
    __all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
    if _numbers(_version, 2) > _numbers(RUN_ON[-1], 2):  # a newer patch release is no reason for a word
        logging.warning(
            f"ComfyUI-CHORDS has run on ComfyUI {', '.join(RUN_ON[:-1])} and {RUN_ON[-1]}, and this is {_version}. "
            "What may differ: memory that copies of models keep, and pictures of several devices. To check a picture, "
            "compare KSampler with KSampler (CHORDS) at fidelity exact. If they differ, or if something fails, please "
            "report it with this line and the message on the node (docs/compatibility.md, Versions of ComfyUI)."
        )
