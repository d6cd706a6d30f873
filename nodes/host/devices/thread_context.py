"""What the threads of lanes and of members work in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import torch

from ..interrupts import passed_on
from .thread_state import ended_on_failure


def thread_context(devices: Sequence[torch.device]) -> Callable[[int], Any]:
    """What the thread of each of these devices needs around a call: the current device, one intra-op thread on a CPU,
    that the other threads see a cancel that this one meets, and that a call that fails leaves nothing of the host's.
    The first member of a token split works in its caller's thread, which has all that already."""

    @contextmanager
    def context(number: int) -> Iterator[None]:
        device = devices[number]
        if device.type == "cpu":
            if torch.get_num_threads() != 1:
                torch.set_num_threads(1)
        else:
            comfy.model_management.set_torch_device(device)
        with passed_on(), ended_on_failure():
            yield

    return context
