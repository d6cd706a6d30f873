"""What runs in a Ray actor's process: it keeps a `Worker`, and answers one call at a time.

Ray sends this module's class and functions by value, because the package may have another name there, or not
be installed. So they use torch and the standard library only, nothing else of the package.
"""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

Packed = tuple[Any, str, tuple[int, ...]]
"""A tensor on its way: its bytes (a uint8 array, which Ray does not copy into its message), dtype and shape."""

Problem = tuple[str, str, bool]
"""What went wrong in a line, its traceback, and whether it is a `WrongSetup`."""

Reply = tuple[Any, Problem | None]
"""What a call gave, or what kept it from giving anything."""


class WrongSetup(Exception):
    """What a `Worker` raises where only a person can help: its machine lacks something, or has it in another version.

    It ends the run, while any other error of a worker that gets ready only leaves that worker out.
    """

    is_wrong_setup = True  # known by this, not by its type: a worker imports it, the actor has it by value


class Worker(Protocol):
    """What an actor does. Made in its process; all calls but ``stop`` come from one thread, one after another.

    What one of them raises reaches the driver as the text of the error; see `WrongSetup`.
    """

    def load(self, model: Any) -> None:
        """Take the model that the following runs evaluate. Sent once per change, not once per run."""

    def begin(self, run: Any) -> None:
        """Take what all evaluations of the run that begins share."""

    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        """One evaluation: ``x`` lies on the CPU; returns denoised, of x's shape and dtype, on any device."""

    def end(self) -> None:
        """The run is over: let go of what ``begin`` took."""

    def stop(self) -> None:
        """Make the evaluation under way, if there is one, end soon, by raising. Called from another thread;
        the next ``begin`` forgets it."""


def pack(x: Tensor) -> Packed:
    """``x`` of any device, dtype and shape as plain bytes."""
    flat = x.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy(), str(x.dtype).removeprefix("torch."), tuple(x.shape)


def unpack(packed: Packed) -> Tensor:
    """The tensor again, on the CPU, with memory of its own."""
    data, dtype, shape = packed
    return torch.frombuffer(bytearray(data), dtype=getattr(torch, dtype)).reshape(shape)


class RayActor:
    """The actor. Until ``make`` it costs next to nothing, so that where it runs is known early."""

    def __init__(self) -> None:
        self._worker: Worker | None = None

    def about(self) -> dict[str, Any]:
        """Where this is: the node's address, the machine's name, the process."""
        import ray

        address: Any = ray.util.get_node_ip_address  # has no types
        return {"address": address(), "machine": socket.gethostname(), "pid": os.getpid()}

    def make(self, factory: Callable[[], Worker]) -> Reply:
        """Make the worker, unless a former call did."""

        def made() -> None:
            if self._worker is None:
                self._worker = factory()

        return self._tried(made)

    def load(self, model: Any) -> Reply:
        return self._tried(lambda: self._made.load(model))

    def begin(self, run: Any) -> Reply:
        return self._tried(lambda: self._made.begin(run))

    def denoise(self, packed: Packed, sigma: float) -> Reply:
        def evaluated() -> Packed:
            # Sums on a CPU depend on how many threads share them. Not by the environment of the process: for that Ray
            # starts it through a shell, which a Python in a folder with a space in its name does not survive.
            if torch.get_num_threads() != 1:
                torch.set_num_threads(1)
            return pack(self._made.denoise(unpack(packed), sigma))

        return self._tried(evaluated)

    def end(self) -> Reply:
        return self._tried(lambda: self._made.end())

    def stop(self) -> Reply:
        return self._tried(lambda: self._made.stop())

    @property
    def _made(self) -> Worker:
        assert self._worker is not None, "make comes first"
        return self._worker

    @staticmethod
    def _tried(call: Callable[[], Any]) -> Reply:
        try:
            return call(), None
        except BaseException as error:  # a host's interrupt may be no Exception, and Ray would end the process
            wrong_setup, text = getattr(error, "is_wrong_setup", False), str(error)
            if not wrong_setup:
                text = f"{type(error).__name__}: {text}" if text else type(error).__name__
            return None, (text, traceback.format_exc(), wrong_setup)
