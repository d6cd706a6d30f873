"""How many bytes are kept for a backward pass at one time."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Peak:
    """``bytes``: the most so far; ``now``: what is kept at this moment."""

    bytes: int = 0
    now: int = 0
    counts: dict[int, int] = field(default_factory=dict)


class _Held:
    """A saved tensor. It counts until nothing of the graph refers to it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


@contextmanager
def peak_saved(parameters: Sequence[Tensor]) -> Iterator[Peak]:
    """Count the distinct storages that are kept for a backward pass within, without those of ``parameters``."""
    peak, frozen = Peak(), {parameter.untyped_storage().data_ptr() for parameter in parameters}

    def release(place: int, size: int) -> None:
        peak.counts[place] -= 1
        if peak.counts[place] == 0:
            del peak.counts[place]
            peak.now -= size

    def pack(tensor: Tensor) -> _Held:
        storage, held = tensor.untyped_storage(), _Held(tensor)
        place, size = storage.data_ptr(), storage.nbytes()
        if place not in frozen:
            if peak.counts.get(place, 0) == 0:
                peak.now += size
                peak.bytes = max(peak.bytes, peak.now)
            peak.counts[place] = peak.counts.get(place, 0) + 1
            weakref.finalize(held, release, place, size)
        return held

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda held: held.tensor):
        yield peak
