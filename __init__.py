"""ComfyUI-CHORDS: one picture sooner on several devices."""

from .nodes import comfy_entrypoint

__all__ = ["comfy_entrypoint"]
