"""Files that workflows name, as empty stand-ins: enough for the host to accept a prompt, not to run it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

MODELS = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin")
MEDIA = ("LoadImage", "LoadImageMask", "LoadAudio", "LoadVideo")
PICTURES = (".png", ".jpg", ".jpeg", ".webp")
FOLDERS = {
    "CheckpointLoaderSimple": "checkpoints",
    "ImageOnlyCheckpointLoader": "checkpoints",
    "UNETLoader": "diffusion_models",
    "CLIPLoader": "text_encoders",
    "DualCLIPLoader": "text_encoders",
    "TripleCLIPLoader": "text_encoders",
    "QuadrupleCLIPLoader": "text_encoders",
    "VAELoader": "vae",
    "LoraLoader": "loras",
    "LoraLoaderModelOnly": "loras",
    "CLIPVisionLoader": "clip_vision",
    "StyleModelLoader": "style_models",
    "ControlNetLoader": "controlnet",
    "ModelPatchLoader": "model_patches",
    "UpscaleModelLoader": "upscale_models",
    "AudioEncoderLoader": "audio_encoders",
    "LatentUpscaleModelLoader": "latent_upscale_models",
    "LTXVAudioVAELoader": "checkpoints",
}
IN_TURN = {"LTXAVTextEncoderLoader": ("text_encoders", "checkpoints")}
"""Loaders of two files, with the folder of each."""


def _named(workflow: Any) -> Iterator[tuple[str, list[str]]]:
    """Every node's class with the texts that it holds, of a workflow in either format."""
    if not isinstance(workflow, (dict, list)):
        return
    for value in workflow.values() if isinstance(workflow, dict) else workflow:
        kind = value.get("class_type", value.get("type")) if isinstance(value, dict) else None
        if isinstance(kind, str):
            held = value.get("widgets_values", value.get("inputs")) or []
            texts = held.values() if isinstance(held, dict) else held
            yield kind, [text for text in texts if isinstance(text, str)]
        yield from _named(value)


def files(workflow: Any) -> set[tuple[str, str]]:
    """The files a workflow needs, as (folder, name); pictures, sounds and films are in the folder input."""
    named = list(_named(workflow))
    found = {("input", text) for kind, texts in named if kind in MEDIA for text in texts if Path(text).suffix}
    for kind, texts in named:
        models = [text for text in texts if text.endswith(MODELS)]
        folders = IN_TURN.get(kind) or (FOLDERS.get(kind),) * len(models)
        found |= {(folder, name) for folder, name in zip(folders, models, strict=True) if folder is not None}
    return found


def make(folder: Path, workflows: Iterable[Any]) -> list[str]:
    """Make stand-ins of all that these workflows need; returns what to start ComfyUI with to have the models."""
    for kind, name in sorted({file for workflow in workflows for file in files(workflow)}):
        path = folder / kind / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() in PICTURES:
            Image.new("RGB", (64, 64), "gray").save(path)
        else:
            path.touch()
    paths = folder / "paths.yaml"
    models = {"base_path": str(folder), **{kind: kind for kind in sorted(set(FOLDERS.values()))}}
    paths.write_text(json.dumps({"models": models}), encoding="utf-8")  # JSON is YAML
    return ["--extra-model-paths-config", str(paths)]
