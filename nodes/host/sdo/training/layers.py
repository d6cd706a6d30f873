"""Which linear layers of a network get a LoRA."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

from torch import nn

from .....chords_core import InvalidInput

ATTENTION, ALL_LINEAR, PATTERN = "attention", "all linear", "pattern"
CHOICES = (ATTENTION, ALL_LINEAR, PATTERN)

_COMPILED_PART = "_orig_mod."  # in the paths of parts that are compiled; `get_submodule` does without
_SHOWN = 6  # paths in an error
_ATTENTION_PARTS = re.compile(r"attn|attention")
_NO_ATTENTION_PARTS = re.compile(r"adaln|modulation|norm|(^|_)mod(_|$)")  # modulates or normalises an attention's input
_ATTENTION_LAYERS = frozenset({"to_q", "to_k", "to_v", "to_out", "q_proj", "k_proj", "v_proj", "o_proj", "qkv"})
_FUSED = frozenset({"linear1", "linear2"})  # attention and MLP in one layer: single blocks of Flux and its relatives


def choose_layers(network: nn.Module, choice: str, pattern: str = "") -> dict[str, nn.Linear]:
    """The linear layers of ``network`` that get a LoRA, by their paths, in the network's order.

    Args:
        choice: "attention" (queries, keys, values and outputs of attention; in Flux's single blocks the layers that
            hold these and the MLP's), "all linear" or "pattern".
        pattern: a regular expression that is found in the path, or a pattern with * and ? for the whole path.

    Raises:
        InvalidInput: naming ``layers`` or ``pattern``, if there is no such layer.
    """
    if choice not in CHOICES:
        raise InvalidInput("layers", f"must be one of {', '.join(CHOICES)}, not {choice!r}")
    named = ((path.replace(_COMPILED_PART, ""), module) for path, module in network.named_modules())
    linear = {path: module for path, module in named if _is_linear(module)}
    if not linear:
        raise InvalidInput("model", "has no linear layers, so it can have no LoRA")
    if choice == ALL_LINEAR:
        return linear
    chosen = {path: linear[path] for path in (_matching(linear, pattern) if choice == PATTERN else _attention(linear))}
    if not chosen:
        problem = "no linear layer of this model matches" if choice == PATTERN else "this model has no such layers"
        paths = list(linear)
        shown = ", ".join(paths[:: max(1, len(paths) // _SHOWN)][:_SHOWN])
        raise InvalidInput(
            "pattern" if choice == PATTERN else "layers", f"{problem}. Its layers are, for example: {shown}"
        )
    return chosen


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) and module.weight is not None and module.weight.ndim == 2


def _matching(paths: dict[str, nn.Linear], pattern: str) -> list[str]:
    pattern = pattern.strip()
    if not pattern:
        raise InvalidInput("pattern", f'is empty. It says which layers get a LoRA where layers is "{PATTERN}"')
    try:
        expression = re.compile(pattern)
    except re.error:  # such as *attn*
        expression = None
    return [
        path
        for path in paths
        if fnmatchcase(path, pattern) or (expression is not None and expression.search(path) is not None)
    ]


def _attention(paths: dict[str, nn.Linear]) -> list[str]:
    return [path for path in paths if _belongs_to_attention(path.split("."))]


def _belongs_to_attention(parts: list[str]) -> bool:
    if any(_NO_ATTENTION_PARTS.search(part) for part in parts[-3:]):
        return False
    if any(_ATTENTION_PARTS.search(part) for part in parts):
        return True
    fused = parts[-1] in _FUSED and any("single" in part for part in parts)
    return fused or any(part in _ATTENTION_LAYERS for part in parts[-2:])
