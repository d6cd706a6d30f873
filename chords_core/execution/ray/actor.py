"""What runs in a Ray actor's process: it keeps a `Worker`, and answers one call at a time.

Ray sends this module's class and functions by value, because the package may have another name there, or not
be installed. So they use torch, the standard library and `messages`, nothing else of the package.
All that an actor returns is one message as plain bytes, which nobody has to unpickle.
"""

from __future__ import annotations

import os
import pickle
import socket
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from .messages import decode, encode, tensor_data, tensor_from, tensor_header

if TYPE_CHECKING:
    from torch import Tensor

_MOST_TRACE = 20_000  # characters


class WrongSetup(Exception):
    """What a `Worker` raises where only a person can help: its machine lacks something, or has it in another version.

    It ends the run, while any other error of a worker that gets ready only leaves that worker out.
    """

    is_wrong_setup = True  # known by this, not by its type: a worker imports it, the actor has it by value


class Worker(Protocol):
    """What an actor does. Made in its process; all calls but ``stop`` come from one thread, one after another.

    What one of them raises reaches the driver as the text of the error; see `WrongSetup`.
    """

    def load(self, model: bytes) -> None:
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


class RayActor:
    """The actor. Until ``make`` it costs next to nothing, so that where it runs is known early.

    Each method returns a message. Its header holds what was asked for, or under ``problem`` why there is none: the
    error in a line, its ``trace``, and whether it is a `WrongSetup`.
    """

    def __init__(self) -> None:
        self._worker: Worker | None = None

    def about(self) -> bytes:
        """Where this is: the node's address, the machine's name, the process."""
        import ray

        address: Any = ray.util.get_node_ip_address  # has no types
        return encode({"address": address(), "machine": socket.gethostname(), "pid": os.getpid()})

    def make(self, factory: bytes) -> bytes:
        """Make the worker with the pickled factory, unless a former call did."""

        def made() -> None:
            if self._worker is None:
                self._worker = pickle.loads(factory)()

        return _tried(made)

    def load(self, model: bytes) -> bytes:
        return _tried(lambda: self._made.load(model))

    def begin(self, run: bytes) -> bytes:
        """Begin the pickled run."""
        return _tried(lambda: self._made.begin(pickle.loads(run)))

    def denoise(self, request: bytes) -> bytes:
        """One evaluation: the data is x, the header says its dtype and shape, and sigma."""

        def evaluated() -> bytes:
            import torch

            # Sums on a CPU depend on how many threads share them. Not by the environment of the process: for that Ray
            # starts it through a shell, which a Python in a folder with a space in its name does not survive.
            if torch.get_num_threads() != 1:
                torch.set_num_threads(1)
            header, data = decode(request)
            x = tensor_from(header, data)
            denoised = self._made.denoise(x, header["sigma"])
            if denoised.shape != x.shape or denoised.dtype != x.dtype:
                raise TypeError(
                    f"the model gave {tuple(denoised.shape)} in {denoised.dtype} for {tuple(x.shape)} in {x.dtype}"
                )
            return encode(tensor_header(denoised), tensor_data(denoised))

        return _tried(evaluated)

    def end(self) -> bytes:
        return _tried(lambda: self._made.end())

    def stop(self) -> bytes:
        return _tried(lambda: self._made.stop())

    @property
    def _made(self) -> Worker:
        assert self._worker is not None, "make comes first"
        return self._worker


def _tried(call: Callable[[], bytes | None]) -> bytes:
    try:
        return call() or encode({})
    except BaseException as error:  # a host's interrupt may be no Exception, and Ray would end the process
        wrong_setup, text = getattr(error, "is_wrong_setup", False), str(error)
        if not wrong_setup:
            text = f"{type(error).__name__}: {text}" if text else type(error).__name__
        trace = traceback.format_exc()[-_MOST_TRACE:]
        return encode({"problem": text[:_MOST_TRACE], "trace": trace, "wrong_setup": bool(wrong_setup)})
