"""What a Ray worker is sent, as bytes: a model's recipe and weight patches, and a run's conditioning and options.

The network itself is not sent. Each reference to it is replaced by its place in the model, and the worker puts its own
network there. Classes and functions of node packs are sent by name. Those without a name (closures) are sent by value.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterator
from types import FunctionType, ModuleType
from typing import Any

import torch
from comfy.model_base import BaseModel
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ....chords_core import ModelPayload
from ..devices.context_windows import HANDLER
from ..devices.controlnets import controls_in
from ..devices.run_state import RunState
from ..phrases import Phrase, message_of
from .model_files import Recipe
from .pack_modules import can_be_named, is_named_by_path

_SENT_OF_PATCHER = (
    "object_patches",
    "weight_wrapper_patches",
    "force_cast_weights",
    "model_options",
    "wrappers",
    "callbacks",
)


class NotShippable(Exception):
    """This model or this graph cannot be sent to another machine; the message says why."""


def model_payload(patcher: ModelPatcher) -> ModelPayload:
    """What a worker needs to load the model with its weight patches. Its key changes when the weights do.

    Raises:
        NotShippable: if the model's loader does not say how to load the model again.
    """
    if patcher.cached_patcher_init is None:
        raise NotShippable(
            Phrase(
                "the loader of this {model} left no way to load it again on another machine; use one of ComfyUI's own "
                "loaders",
                model=type(patcher.model).__name__,
            )
        )
    recipe = Recipe.of(*patcher.cached_patcher_init)
    patches = patcher.patches if patcher.patches else {}
    content = {
        "recipe": recipe,
        "base_key": recipe.key,
        "patches": patches,
        "patches_uuid": patcher.patches_uuid,
    }
    return ModelPayload(f"{recipe.key} {patcher.patches_uuid if patches else ''}", lambda: packed(content, patcher))


def run_payload(patcher: ModelPatcher, model: Any, extra_args: dict[str, Any], x: Tensor) -> bytes:
    """What all evaluations of a run share. ``model``: the host's KSamplerX0Inpaint; ``x``: the latent.

    Raises:
        NotShippable: naming the part that cannot be sent.
    """
    _check_is_carried(patcher, model.inner_model.conds, extra_args.get("model_options", {}))
    guider = copy.copy(model.inner_model)
    for name in ("loaded_models", "original_conds"):  # the host's own record, and the inputs of guider.conds
        vars(guider).pop(name, None)
    model = copy.copy(model)
    model.inner_model = guider
    own = {name: getattr(patcher, name) for name in _SENT_OF_PATCHER}
    state = vars(RunState.of(patcher))
    content = {"patcher": own, "model": model, "extra_args": extra_args, "shape": tuple(x.shape), "state": state}
    return packed(content, patcher)


def packed(value: Any, patcher: ModelPatcher) -> bytes:
    """``value`` as bytes, with references in place of ``patcher`` and the parts of its model.

    Raises:
        NotShippable: if a part of it cannot be pickled.
    """
    from ray import cloudpickle

    # The parts that a patch brings are sent; the worker's own model does not have them.
    patched = {id(part) for patch in patcher.object_patches.values() for part in _modules_of(patch)}
    parts = {id(part): name for name, part in patcher.model.named_modules() if id(part) not in patched}

    class Packer(cloudpickle.Pickler):
        def persistent_id(self, item: Any) -> tuple[str, ...] | None:
            if isinstance(item, ModelPatcher):
                if item.model is patcher.model:
                    return ("patcher",)
                raise NotShippable(Phrase("a second model takes part"))
            if isinstance(item, nn.Module) and id(item) in parts:
                return "part", parts[id(item)]
            if isinstance(item, BaseModel):
                raise NotShippable(Phrase("a second model takes part"))
            if isinstance(item, type | FunctionType) and can_be_named(item):
                return "global", item.__module__, item.__qualname__
            if isinstance(item, ModuleType) and is_named_by_path(item.__name__):
                return "module", item.__name__
            return None

        def reducer_override(self, item: Any) -> Any:
            if type(item) is Tensor:
                # Copied to the CPU: a view would bring all that it is a view of, and the worker's machine may not have
                # the tensor's device.
                return item.detach().cpu().contiguous().clone().__reduce_ex__(4)
            return super().reducer_override(item)

    file = io.BytesIO()
    try:
        with torch.inference_mode(False):
            Packer(file, protocol=5).dump(value)
    except NotShippable:
        raise
    except Exception as error:
        raise NotShippable(
            Phrase("a part of the graph cannot be sent to another machine ({error})", error=message_of(error))
        ) from error
    return file.getvalue()


def unpacked(data: bytes, patcher: ModelPatcher | None, module: Callable[[str], ModuleType]) -> Any:
    """The value of `packed`, with this ``patcher`` in its references. ``module``: finds a module of a node pack by the
    name that it has on the sender's machine."""
    import pickle

    class Unpacker(pickle.Unpickler):
        def persistent_load(self, reference: tuple[str, ...]) -> Any:
            kind, *rest = reference
            if kind == "patcher":
                return patcher
            if kind == "part":
                return patcher.model.get_submodule(rest[0])  # type: ignore[union-attr]
            found: Any = module(rest[0])
            if kind == "global":
                for name in rest[1].split("."):
                    found = getattr(found, name)
            return found

    return Unpacker(io.BytesIO(data)).load()


def _check_is_carried(patcher: ModelPatcher, conds: dict[str, Any], model_options: dict[str, Any]) -> None:
    """Raise for what takes part in a call beside the model and is not among what a worker is sent.

    Raises:
        NotShippable: naming it.
    """
    if patcher.injections:
        raise NotShippable(Phrase("LoRAs in bypass mode are not sent to other machines"))
    if any(cond.get("hooks") is not None for items in conds.values() for cond in items or ()):
        raise NotShippable(Phrase("hooks of a prompt are not sent to other machines"))
    if any(cond.get("gligen") is not None for items in conds.values() for cond in items or ()):
        raise NotShippable(Phrase("GLIGEN is not sent to other machines"))
    if next(controls_in(conds), None) is not None:
        raise NotShippable(Phrase("a ControlNet takes part, whose network is on this machine"))
    if model_options.get(HANDLER) is not None:
        raise NotShippable(Phrase("context windows are not sent to other machines"))


def _modules_of(patch: Any) -> Iterator[nn.Module]:
    return patch.modules() if isinstance(patch, nn.Module) else iter(())
