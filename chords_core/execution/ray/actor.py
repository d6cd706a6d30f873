"""What runs in the process of a Ray actor: it keeps a `Worker` and answers one call at a time.

Ray sends the class and the functions of this module by value, because on another machine the package may have another
name or may not be installed. So they use torch, the standard library and `messages`, and nothing else of the package.
An actor returns one message as plain bytes, which nobody has to unpickle.
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

_MAX_TRACE = 20_000  # characters


class WrongSetup(Exception):
    """A `Worker` raises this where only a person can help: its machine lacks something, or has another version of it.

    It ends the run. After any other error of a worker that gets ready, the run goes on without that worker.
    """

    is_wrong_setup = True  # not isinstance: the worker imports this class, but the actor has a copy of it, by value


class Worker(Protocol):
    """The work of an actor, in the actor's process. All calls come from one thread, one after another, except ``stop``.

    What a method raises reaches the driver as the text of the error; see `WrongSetup`.
    """

    def load(self, model: bytes) -> None:
        """Load the model that the following runs evaluate. It is sent when it has changed, not in each run."""

    def begin(self, run: Any) -> None:
        """Begin a run, with what all of its evaluations share."""

    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        """One evaluation: ``x`` is on the CPU; returns denoised, of x's shape and dtype, on any device."""

    def end(self) -> None:
        """The run is over: free what ``begin`` took."""

    def stop(self) -> None:
        """Make the current evaluation, if there is one, raise as soon as possible. Called from another thread. The next
        ``begin`` resets it."""


class RayActor:
    """The actor. Before ``make`` it needs almost no time and memory, so its place in the cluster is known early.

    Each method returns a message. Its header has the answer, or under ``problem`` the error in a line, with its
    ``trace`` and whether it is a `WrongSetup`.
    """

    def __init__(self) -> None:
        self._worker: Worker | None = None

    def about(self) -> bytes:
        """The address of this actor's node, the name of its machine, and its process id."""
        import ray

        address: Any = ray.util.get_node_ip_address  # has no types
        return encode({"address": address(), "machine": socket.gethostname(), "pid": os.getpid()})

    def make(self, factory: bytes) -> bytes:
        """Make the worker with the pickled factory, unless an earlier call did."""

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

            # The result of a sum on a CPU depends on the number of threads. An environment variable would set it too,
            # but then Ray starts the process through a shell, which fails if the path of Python has a space in it.
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
        assert self._worker is not None, "call make first"
        return self._worker


def _tried(call: Callable[[], bytes | None]) -> bytes:
    try:
        return call() or encode({})
    except BaseException as error:  # a host's interrupt may be no Exception; Ray would then end the process
        wrong_setup, text = getattr(error, "is_wrong_setup", False), str(error)
        if not wrong_setup:
            text = f"{type(error).__name__}: {text}" if text else type(error).__name__
        trace = traceback.format_exc()[-_MAX_TRACE:]
        return encode({"problem": text[:_MAX_TRACE], "trace": trace, "wrong_setup": bool(wrong_setup)})
