"""Workers for the tests of the pool. The run that is sent to them is the function that they evaluate."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chords_core import Denoise, Worker
from chords_core.execution.ray.actor import WrongSetup


def _fault_maker() -> Callable[[str], None]:
    """A function within a function, so that it is sent by value."""

    def happen(fault: str) -> None:
        """Stop this process or wait, unless another process was here first. See `factory`."""
        kind, _, file = fault.partition(":")
        try:
            Path(file).touch(exist_ok=False)
        except FileExistsError:
            return
        Path(f"{file}.{os.getpid()}").touch()
        if kind == "stop":
            signal.raise_signal(signal.SIGSTOP)  # after os.kill, this thread may go on until another one gets it
        while kind == "sleep" and not Path(f"{file}.over").exists():
            time.sleep(0.05)

    return happen


def factory(fault: str = "") -> Callable[[], Worker]:
    """A function that makes workers. It is a function within a function, so that it is sent by value: actors cannot
    import the tests.

    ``fault``: what happens to the first process that makes a worker: "stop:FILE" stops the process, and "sleep:FILE"
    lasts until there is a file FILE.over. A model and a run may be such a text as well.
    """
    happen = _fault_maker()

    def make() -> Any:
        class FunctionWorker:
            def __init__(self) -> None:
                if fault:
                    happen(fault)
                self.stopped = threading.Event()
                self.scale = 1.0

            def load(self, model: bytes) -> None:
                kind, _, rest = model.decode().partition(":")
                if kind in ("stop", "sleep"):
                    return happen(model.decode())
                if kind == "missing":
                    raise WrongSetup(f"no file {rest}")
                if kind == "too big":
                    raise MemoryError(f"no room for {rest}")
                if kind == "too big for one":  # the worker that asks first
                    with Path(rest).open("a") as lines:
                        lines.write("asked\n")
                    try:
                        Path(rest + ".one").touch(exist_ok=False)
                    except FileExistsError:
                        self.scale = 1.0
                        return
                    raise MemoryError("no room")
                scale, log = model.decode().split("@")
                self.scale = float(scale)
                with Path(log).open("a") as lines:
                    lines.write("loaded\n")

            def begin(self, run: Callable[..., Tensor] | str) -> None:
                if run == "too big":
                    raise MemoryError("no room for the run")
                if isinstance(run, tuple):  # a fault, and then the run
                    happen(run[0])
                    run = run[1]
                self.run = run
                self.stopped.clear()

            def denoise(self, x: Tensor, sigma: float) -> Tensor:
                return self.scale * self.run(x, sigma, self.stopped)

            def end(self) -> None:
                self.run = None

            def stop(self) -> None:
                self.stopped.set()

        return FunctionWorker()

    return make


def inline() -> Denoise:
    """A model that is not linear. It gives the same bits in every process that computes with one thread."""
    return lambda x, sigma: torch.tanh(0.5 * x + 0.3) * (sigma / (1 + sigma))


def remote(seconds: float = 0.0) -> Callable[..., Tensor]:
    """The same model as a run to send. It takes some seconds, and ends early if it is told to stop."""

    def run(x: Tensor, sigma: float, stopped: Any) -> Tensor:
        if seconds and stopped.wait(seconds):
            raise RuntimeError("told to stop")
        return torch.tanh(0.5 * x + 0.3) * (sigma / (1 + sigma))

    return run


def killing(call: int, folder: Path) -> Callable[..., Tensor]:
    """The same model, but the process that makes the call of this number, counted over all, is killed in it."""
    calls, run = str(folder), remote(0.01)

    def killed(x: Tensor, sigma: float, stopped: Any) -> Tensor:
        made = 0
        while True:
            try:
                os.close(os.open(f"{calls}/{made}", os.O_CREAT | os.O_EXCL))
                break
            except FileExistsError:
                made += 1
        if made == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return run(x, sigma, stopped)

    return killed


def counting(log: Path, seconds: float, below: float) -> Callable[..., Tensor]:
    """The same model, which takes some seconds below that sigma. It writes when an evaluation begins, and when it ends,
    also if it is stopped."""
    path, quick, slow = str(log), remote(), remote(seconds)

    def counted(x: Tensor, sigma: float, stopped: Any) -> Tensor:
        def note(what: str) -> None:
            with open(path, "a") as lines:
                lines.write(f"{what} {time.time()}\n")

        note("began")
        try:
            return (slow if sigma < below else quick)(x, sigma, stopped)
        finally:
            note("ended")

    return counted
