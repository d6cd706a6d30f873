"""Settings that nodes of a newer host give to its core, which may then keep state between calls.

A node need not bring a function of its own: it may set an option that the core of its version reads. Where the core is
the one that this pack was run with, it reads no other options than those below. A changed core may read others. A trial
cannot tell what it does then: it may do it late in the steps only.
"""

from __future__ import annotations

import types
from typing import Any

import comfy.ldm.modules.attention
import comfy.samplers
from torch import nn

from .origins import Origin, is_changed, origin_of

_READ_BY_THE_CORE = frozenset(
    """a2v_cross_attn activations_shape ar_config ar_state audio_embeds block block_index block_type callbacks
    chroma_radiance_options cond_or_uncond context_window easycache grid_sizes img_slice minimax_h3_sigma_shift_audio
    minimax_h3_sigma_shift_video model_patch_data multigpu_thread_device optimized_attention_override original_shape
    patches patches_replace prefetch_dynamic_vbars reference_image_num_tokens rope_options run_ax run_vx sample_sigmas
    sigmas total_blocks transformer_index transformer_options uuids v2a_cross_attn wrappers x_ref_attn_map""".split()
)
"""The options of a network in the versions of the host that this pack was run with."""


def new_setting(patcher: Any) -> str | None:
    """The name of an option of this model that a node has set and that the host's core may read, although this pack
    does not know it; None if there is none. A function in an option is not meant: it is read."""
    options = patcher.model_options.get("transformer_options", {})
    found = [str(name) for name, value in options.items() if name not in _READ_BY_THE_CORE and _has_data(value)]
    return found[0] if found and has_changed(patcher.model) else None


def has_changed(model: nn.Module) -> bool:
    """Whether the code of this model and its parts, or of the attention and the calls of all models, is not what this
    pack was run with."""
    attention = comfy.ldm.modules.attention
    functions = [
        getattr(module, name, None)  # a newer host may have them elsewhere
        for module, name in (
            (attention, "optimized_attention"),
            (attention, "attention_basic"),
            (comfy.samplers, "calc_cond_batch"),
        )
    ]
    kinds = {kind for part in {type(part) for part in model.modules()} for kind in part.__mro__}
    functions += [vars(kind)[name] for kind in kinds for name in ("apply_model", "forward") if name in vars(kind)]
    return any(
        origin_of(function) is Origin.NEW_HOST or is_changed(function)
        for function in functions
        if isinstance(function, types.FunctionType)
    )


def _has_data(value: Any) -> bool:
    """Whether an option holds anything else than functions."""
    if isinstance(value, dict | list | tuple):
        return any(map(_has_data, value.values() if isinstance(value, dict) else value))
    return not callable(value)
