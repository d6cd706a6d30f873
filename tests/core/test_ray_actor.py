"""The Ray actor's class, in this process: how tensors travel, and how what goes wrong reaches the driver."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from chords_core.ray_actor import RayActor, WrongSetup, pack, unpack


class Doubling:
    """A worker that doubles, and writes down what it is told."""

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
    """As ComfyUI's, which is no Exception, and must not end the process all the same."""


class Failing(Doubling):
    """A worker whose calls raise."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        raise self.error


def actor(worker: Any) -> RayActor:
    made = RayActor()
    assert made.make(lambda: worker) == (None, None)
    return made


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("shape", [(2, 3, 4), (1,), ()])
def test_a_tensor_travels_as_it_is(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).mul(9).to(dtype)
    for sent in (x, x.mT) if x.ndim > 1 else (x,):
        data, *rest = pack(sent)
        data.flags.writeable = False  # as Ray hands it over
        found = unpack((data, *rest))
        assert found.dtype == dtype and found.shape == sent.shape and torch.equal(found, sent)
        found.zero_()
        assert data.any()  # its memory was its own


def test_the_worker_does_what_the_driver_calls() -> None:
    worker, x = Doubling(), torch.arange(6.0).reshape(2, 3)
    there = actor(worker)
    assert there.load("model") == there.begin("run") == (None, None)
    packed, problem = there.denoise(pack(x), 0.5)
    assert problem is None and torch.equal(unpack(packed), 2 * x + 0.5)
    assert there.end() == there.stop() == (None, None)
    assert worker.told == [("load", "model"), ("begin", "run"), ("threads", 1), "end", "stop"]


def test_one_thread_computes_however_many_there_were() -> None:
    """Sums depend on how many threads share them, and every worker has to give the same."""
    worker, before = Doubling(), torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        actor(worker).denoise(pack(torch.ones(2)), 1.0)
    finally:
        torch.set_num_threads(before)
    assert worker.told == [("threads", 1)]


def test_a_worker_is_made_once() -> None:
    made: list[Doubling] = []

    def factory() -> Doubling:
        made.append(Doubling())
        return made[-1]

    there = RayActor()
    assert there.make(factory) == there.make(factory) == (None, None)
    assert len(made) == 1


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("too hot"), "ValueError: too hot"),
        (HostInterrupt(), "HostInterrupt"),
    ],
)
def test_an_error_is_told_in_a_line_and_as_a_traceback(error: BaseException, text: str) -> None:
    there = actor(Failing(error))
    packed, problem = there.denoise(pack(torch.ones(2)), 1.0)
    assert packed is None and problem is not None
    line, trace, wrong_setup = problem
    assert line == text and not wrong_setup
    assert "raise self.error" in trace
    assert there.end() == (None, None)  # and the worker goes on


def test_a_wrong_setup_is_told_as_such_and_in_its_own_words() -> None:
    _, problem = actor(Failing(WrongSetup("install it there"))).denoise(pack(torch.ones(2)), 1.0)
    assert problem is not None and (problem[0], problem[2]) == ("install it there", True)


def test_a_worker_that_cannot_be_made_is_told_and_may_be_tried_again() -> None:
    def broken() -> Doubling:
        raise OSError("no disk")

    there = RayActor()
    _, problem = there.make(broken)
    assert problem is not None and problem[0] == "OSError: no disk"
    assert there.make(Doubling) == (None, None)
    assert there.load("model") == (None, None)
