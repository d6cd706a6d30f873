"""The networks of an SDO run: loaded as gradients need them, and what to do when that fails."""

from __future__ import annotations

from typing import Any

import comfy.model_management
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ....chords_core import InvalidInput
from .autograd import reason_against, reason_against_loaded
from .context import ObjectiveContext

_GRAPH_MEMORY = 3.0  # the graph of one evaluation, relative to the evaluation's own memory: an estimate


def load_networks(guider: Any, context: ObjectiveContext, x: Tensor, items: int) -> list[nn.Module]:
    """All networks that a run needs, loaded on their devices; the model's is the first.

    Args:
        guider: the host's, in a sampling.
        context: has the networks of the objective.
        x: the state [B, ...].
        items: how many of them have a graph at the same time.

    Raises:
        InvalidInput: for a network that no gradient can be taken through.
    """
    patcher, own = guider.model_patcher, context.patchers
    graph = _GRAPH_MEMORY * (patcher.memory_required([2 * items, *x.shape[1:]]) + context.memory(x[:items]))
    needed = max(graph, patcher.memory_required([2 * len(x), *x.shape[1:]]))
    comfy.model_management.load_models_gpu([patcher, *own], memory_required=needed, force_full_load=True)
    additional = [loaded for loaded in guider.loaded_models if loaded is not patcher]
    for name, loaded in (
        ("model", patcher),
        *(("vae or clip_vision", other) for other in own),
        *(("positive or negative", other) for other in additional),
    ):
        check_gradient(name, loaded, loaded=True)
    networks = [guider.inner_model, *(other.model for other in (*additional, *own))]
    return list({id(network): network for network in networks if isinstance(network, nn.Module)}.values())


def check_gradient(name: str, patcher: ModelPatcher, loaded: bool = False) -> None:
    """Raise `InvalidInput` naming ``name`` if no gradient can be taken through a model, as far as can be seen.

    ``loaded``: whether it is loaded already.
    """
    reason = reason_against(patcher) or (reason_against_loaded(patcher) if loaded else None)
    if reason is not None:
        raise InvalidInput(name, f"no gradient can be taken through {'a model of it' if loaded else 'it'}: {reason}")


def explained(error: Exception) -> Exception | None:
    """An error of the host with a remedy, where one is known."""
    text = str(error)
    if isinstance(error, comfy.model_management.OOM_EXCEPTION):
        return ValueError(
            "out of memory: the models that are used and the graph of one evaluation must fit on the device "
            f"together; use a smaller picture or a smaller model ({text})"
        )
    if "nference tensor" in text or "does not require grad" in text or "autograd" in text or "inplace" in text:
        return ValueError(
            "no gradient can be taken through this model as it is patched: remove patches and attention "
            f"replacements one by one to find which ({text})"
        )
    return None


def raise_if_interrupted() -> bool:
    """False, unless the user has cancelled the prompt: then the host's interrupt is raised."""
    comfy.model_management.throw_exception_if_processing_interrupted()
    return False
