"""Which networks can be split by tokens, and why a call cannot be."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from .adapter import Adapter
from .families import (
    auraflow,
    cosmos,
    flux,
    hidream,
    hunyuan_video,
    joyimage,
    kandinsky5,
    krea2,
    ltx2,
    ltxv,
    lumina,
    qwen_image,
    sd3,
    wan,
)

Family = type[Adapter]

FAMILIES: tuple[Family, ...] = (
    flux.FluxAdapter,
    flux.ChromaAdapter,
    qwen_image.QwenImageAdapter,
    wan.WanAdapter,
    hunyuan_video.HunyuanVideoAdapter,
    lumina.LuminaAdapter,
    sd3.SD3Adapter,
    ltxv.LTXVAdapter,
    ltx2.LTX2Adapter,
    auraflow.AuraFlowAdapter,
    kandinsky5.Kandinsky5Adapter,
    krea2.Krea2Adapter,
    hidream.HiDreamAdapter,
    joyimage.JoyImageAdapter,
    cosmos.CosmosAdapter,
)

_WITHIN_A_BLOCK = frozenset({"attn1_output_patch"})
_PER_TOKEN = frozenset({"comfy_extras.nodes_nag"})  # modules whose attention output patches treat each token by itself
_WHOLE_NETWORK = ("diffusion_model", "apply_model")  # the host's WrappersMP.DIFFUSION_MODEL and APPLY_MODEL


def find_family(network: nn.Module) -> Family | None:
    """The family of a diffusion model of the host, or None.

    A subclass of a known class can mix tokens in ways that nobody has looked at, so the class must be exactly the known
    one.
    """
    for family in FAMILIES:
        for path in family.networks:
            module, _, name = path.rpartition(".")
            if type(network) is getattr(sys.modules.get(module), name, None):
                return family
    return None


def reason_against(network: nn.Module, options: Mapping[str, Any], members: int = 2) -> str | None:
    """Why calls of this network with these ``transformer_options`` cannot be split by tokens, for the user; else None.

    One more reason shows in the call only: a picture with fewer tokens than members (`CannotSplit`).
    """
    family = find_family(network)
    if family is None:
        return f"{type(network).__name__} is not a network that can be shared by tokens"
    if members < 2:
        return "there is one device only"
    for name in _patches_in(options):
        if name not in family.patches and not _is_per_token(name, options["patches"][name]):
            return f"a patch ({name}) of another node works on all tokens at once"
    if not family.blocks and options.get("patches_replace", {}).get("dit"):
        return f"another node replaces blocks of {family.name}"
    for kind in _WHOLE_NETWORK:
        if any(wrappers for wrappers in options.get("wrappers", {}).get(kind, {}).values()):
            return "another node wraps the whole network, and may keep state"
    return None


def _patches_in(options: Mapping[str, Any]) -> Iterator[str]:
    return (name for name, patches in options.get("patches", {}).items() if patches)


def _is_per_token(name: str, patches: list[Any]) -> bool:
    """Whether patches within a block do the same to a token whatever others there are."""
    return name in _WITHIN_A_BLOCK and all(getattr(patch, "__module__", "") in _PER_TOKEN for patch in patches)
