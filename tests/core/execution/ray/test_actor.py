"""The class of the Ray actors, in this process: its answers, and how errors reach the driver."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from chords_core.execution.ray.actor import RayActor, WrongSetup
from chords_core.execution.ray.messages import Header, decode, encode, tensor_data, tensor_from, tensor_header


class Doubling:
    """A worker that doubles its input, and records the calls."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def load(self, model: Any) -> None:
        self.told.append(("load", model))

    def begin(self, run: Any) -> None:
        self.told.append(("begin", run))

    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        self.told.append(("threads", torch.get_num_threads()))
        return 2 * x + sigma

    def end(self) -> None:
        self.told.append("end")

    def stop(self) -> None:
        self.told.append("stop")


class HostInterrupt(BaseException):
    """Like ComfyUI's. It is no Exception, but must not end the process."""


class Failing(Doubling):
    """A worker whose calls raise."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        raise self.error


WORKERS: list[Any] = []
"""The last one is made next; a pickled factory cannot hold it."""


def _last() -> Any:
    return WORKERS[-1]


def _broken() -> Any:
    raise OSError("no disk")


FINE = encode({})


def actor(worker: Any) -> RayActor:
    WORKERS.append(worker)
    made = RayActor()
    assert made.make(pickle.dumps(_last)) == FINE
    return made


def request(x: Tensor, sigma: float) -> bytes:
    return encode({**tensor_header(x), "sigma": sigma}, tensor_data(x))


def problem(answer: bytes) -> Header:
    header, data = decode(answer)
    assert "problem" in header and not data
    return header


def test_the_worker_gets_the_calls_of_the_driver() -> None:
    worker, x = Doubling(), torch.arange(6.0).reshape(2, 3)
    there = actor(worker)
    assert there.load(b"model") == there.begin(pickle.dumps("run")) == FINE
    assert torch.equal(tensor_from(*decode(there.denoise(request(x, 0.5)))), 2 * x + 0.5)
    assert there.end() == there.stop() == FINE
    assert worker.told == [("load", b"model"), ("begin", "run"), ("threads", 1), "end", "stop"]


def test_one_thread_computes_however_many_there_were() -> None:
    """Sums depend on the number of threads, and all workers have to give the same result."""
    worker, before = Doubling(), torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        actor(worker).denoise(request(torch.ones(2), 1.0))
    finally:
        torch.set_num_threads(before)
    assert worker.told == [("threads", 1)]


def test_a_worker_is_made_once() -> None:
    worker = Doubling()
    there = actor(worker)
    WORKERS.append(Failing(ValueError("another")))
    assert there.make(pickle.dumps(_last)) == FINE
    there.end()
    assert worker.told == ["end"]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("too hot"), "ValueError: too hot"),
        (HostInterrupt(), "HostInterrupt"),
    ],
)
def test_an_error_is_a_line_and_a_traceback(error: BaseException, text: str) -> None:
    there = actor(Failing(error))
    said = problem(there.denoise(request(torch.ones(2), 1.0)))
    assert said["problem"] == text and not said["wrong_setup"]
    assert "raise self.error" in said["trace"]
    assert there.end() == FINE  # and the worker goes on


def test_a_wrong_setup_is_marked_and_keeps_its_message() -> None:
    said = problem(actor(Failing(WrongSetup("install it there"))).denoise(request(torch.ones(2), 1.0)))
    assert (said["problem"], said["wrong_setup"]) == ("install it there", True)


@pytest.mark.parametrize("wrong", [torch.ones(3), torch.ones(2, dtype=torch.float64), torch.ones(2, 1)])
def test_an_answer_of_another_shape_or_dtype_is_a_problem(wrong: Tensor) -> None:
    class Wrong(Doubling):
        def denoise(self, x: Tensor, sigma: float) -> Tensor:
            return wrong

    said = problem(actor(Wrong()).denoise(request(torch.ones(2), 1.0)))
    assert "TypeError: the model gave" in said["problem"] and "for (2,) in torch.float32" in said["problem"]


def test_a_worker_that_cannot_be_made_is_reported_and_may_be_tried_again() -> None:
    there = RayActor()
    assert problem(there.make(pickle.dumps(_broken)))["problem"] == "OSError: no disk"
    WORKERS.append(Doubling())
    assert there.make(pickle.dumps(_last)) == FINE
    assert there.load(b"model") == FINE
