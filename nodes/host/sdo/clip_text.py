"""The embedding of a text in the space that it shares with CLIP's pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.model_management
import torch
from comfy.clip_model import CLIPTextModel
from comfy.sd1_clip import SDClipModel
from torch import Tensor

from ....chords_core import InvalidInput

PAIRS = (
    "These match: CLIP ViT-L/14 (768) with clip_l of SD1, SDXL, SD3 or Flux; CLIP ViT-H (1024) with the one of SD2; "
    "CLIP ViT-bigG (1280) with clip_g of SDXL or SD3"
)


def text_embedding(clip: Any, text: str, width: int) -> Tensor:
    """The text's embedding [1, width], by the one encoder in ``clip`` of that width.

    This is not what the host calls the pooled output. For SD1, SD3 and Flux that is the state before the projection: it
    has the same width, but pictures do not share its space. For SDXL it is the output of clip_g alone.

    Raises:
        InvalidInput: if no encoder, or more than one, has that width, or if its projection is missing.
    """
    tokens = clip.tokenize(text)
    encoders = _encoders(clip, tokens)
    key = _matching(encoders, width)
    encoder = encoders[key]
    with torch.inference_mode():
        clip.cond_stage_model.reset_clip_options()
        clip.load_model(tokens)
        _check_projection(key, encoder)
        device = clip.patcher.load_device
        encoder.set_clip_options({"projected_pooled": True, "execution_device": device})
        try:
            with comfy.model_management.cuda_device_context(device):
                pooled = encoder.encode_token_weights(tokens[key])[1]
        finally:
            clip.cond_stage_model.reset_clip_options()
        embedding = pooled.float().cpu()
    return embedding.clone()


def _encoders(clip: Any, tokens: Mapping[str, Any]) -> dict[str, SDClipModel]:
    """The CLIP text encoders, by the key of their tokens: l, g or h."""
    modules = clip.cond_stage_model.named_modules()
    named = ((name.removeprefix("clip_"), module) for name, module in modules if isinstance(module, SDClipModel))
    return {key: encoder for key, encoder in named if key in tokens and isinstance(encoder.transformer, CLIPTextModel)}


def _matching(encoders: Mapping[str, SDClipModel], width: int) -> str:
    """The key of the one encoder of that width."""
    matching = [key for key, encoder in encoders.items() if _text_width(encoder) == width]
    if len(matching) == 1:
        return matching[0]
    there = ", ".join(f"clip_{key} with {_text_width(encoder)}" for key, encoder in encoders.items())
    problem = "several encoders fit" if matching else f"it has {there}" if there else "it has no CLIP text encoder"
    raise InvalidInput(
        "clip",
        f"clip_vision gives embeddings of {width} values, so exactly one text encoder of that width is needed, "
        f"but {problem}. {PAIRS}",
    )


def _text_width(encoder: SDClipModel) -> int:
    return encoder.transformer.text_projection.out_features


def _check_projection(key: str, encoder: SDClipModel) -> None:
    """Raise `InvalidInput` if the encoder's projection was not in its file.

    Checkpoints of SD1 and SDXL lack the projection of clip_l; the weight then has whatever its memory had before.
    """
    weight = encoder.transformer.text_projection.weight
    values = None if weight is None else weight.detach().float()
    if values is None or not bool((values.abs().amax(1) > 0).all()) or not bool((values.abs() < 100).all()):
        raise InvalidInput(
            "clip",
            f"its clip_{key} comes without the projection into the space of pictures, as in checkpoints of SD1 and "
            "SDXL; load the text encoder from a file of its own, such as clip_l.safetensors, with Load CLIP",
        )
