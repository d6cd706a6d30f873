"""A LoRA as a part of the model's calls, with its gradients. The model's own weights stay as they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from .lora import Lora, LoraLayer, Part


class AttachedLora:
    """A LoRA in a network: it takes part in calls of the network, unless it is `off`."""

    def __init__(self) -> None:
        self._active = True

    @contextmanager
    def off(self) -> Iterator[None]:
        """Within, the network answers as it does without the LoRA. No gradient may be taken through such a call."""
        self._active = False
        try:
            yield
        finally:
            self._active = True

    def hook(self, layers: Sequence[LoraLayer]) -> Any:
        """A forward hook that adds the updates of one linear layer to its answer."""

        def add(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], answer: Tensor) -> Tensor | None:
            if not self._active:
                return None
            x = args[0] if args else kwargs["input"]
            for layer in layers:
                answer = _updated(answer, x, layer)
            return answer

        return add


@contextmanager
def attached(network: nn.Module, lora: Lora) -> Iterator[AttachedLora]:
    """Within, ``lora`` takes part in each call of ``network``: y + scale * up(down(x)), in the precision of x.

    The LoRA's tensors have to be on the devices of the layers (`Lora.beside`).
    """
    switch = AttachedLora()
    by_path: dict[str, list[LoraLayer]] = {}
    for layer in lora.layers:
        by_path.setdefault(layer.path, []).append(layer)
    with ExitStack() as stack:
        for path, layers in by_path.items():
            handle = network.get_submodule(path).register_forward_hook(switch.hook(layers), with_kwargs=True)
            stack.callback(handle.remove)
        yield switch


def _updated(answer: Tensor, x: Tensor, layer: LoraLayer) -> Tensor:
    """``answer`` [..., out] of the layer at ``x`` [..., in], with the update."""
    part = layer.part
    if part is not None and part.axis == 1:
        x = x.narrow(-1, part.start, part.length)
    update = layer.scale * F.linear(F.linear(x, layer.down.to(x.dtype)), layer.up.to(x.dtype))
    if part is not None and part.axis == 0:
        update = _padded(update, part, answer.shape[-1])
    return answer + update.to(answer.dtype)


def _padded(update: Tensor, part: Part, width: int) -> Tensor:
    return F.pad(update, (part.start, width - part.start - part.length))
