"""The child process with a replacement for Ray: an actor that fails, hangs or is slow does not harm the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from chords_core import (
    Cancelled,
    Evaluation,
    InvalidInput,
    LaneLost,
    ModelPayload,
    RayPool,
    RayWorkers,
    WorkersUnavailable,
    sample,
)
from chords_core.execution.ray.actor import WrongSetup
from chords_core.execution.ray.actors import MAX_CPU_WORKERS
from chords_core.execution.ray.errors import NoWorker
from chords_core.execution.ray.timeouts import RayTimeouts
from tests.core.stand_in_ray import StandInRay, in_threads

SIGMAS = torch.cat([torch.linspace(8.0, 0.5, 12), torch.zeros(1)])
X = 8 * torch.randn((1, 4, 4, 4), generator=torch.Generator().manual_seed(1))
LONG_TIMEOUTS = RayTimeouts(
    answer=60.0, silent=60.0, hung=60.0, behind=60.0, ping=60.0, place=60.0, no_place=60.0, stop=0.2, end=1.0
)
"""So long that on a busy machine no working actor is taken for one that hangs."""


def model(x: Tensor, sigma: float) -> Tensor:
    return torch.tanh(0.5 * x + 0.3) * (sigma / (1 + sigma))


class Told:
    """What all workers have to do, and what they did."""

    def __init__(self) -> None:
        self.over = threading.Event()  # sleeping workers go on
        self.faults: dict[str, list[Any]] = {}  # by call, for the worker that makes it next
        self.loaded: list[bytes] = []

    def happens(self, call: str) -> None:
        fault = self.faults[call].pop(0) if self.faults.get(call) else None
        if fault == "sleep":
            assert self.over.wait(60)
        elif fault is not None:
            raise fault


TOLD = Told()


class FakeWorker:
    def __init__(self) -> None:
        TOLD.happens("make")
        self.stopped = threading.Event()

    def load(self, model: bytes) -> None:
        TOLD.happens("load")
        TOLD.loaded.append(model)

    def begin(self, run: str) -> None:
        TOLD.happens("begin")
        self.stopped.clear()

    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        TOLD.happens("denoise")
        return model(x, sigma)

    def end(self) -> None:
        pass

    def stop(self) -> None:
        self.stopped.set()


@pytest.fixture(autouse=True)
def told() -> Iterator[Told]:
    TOLD.__init__()
    yield TOLD
    TOLD.over.set()


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> StandInRay:
    ray = StandInRay()
    ray.started = in_threads(monkeypatch, ray)
    return ray


@pytest.fixture
def workers(ray: StandInRay) -> Iterator[RayWorkers]:
    with RayWorkers(FakeWorker, count=2, timeouts=LONG_TIMEOUTS) as workers:
        yield workers


def check(pool: RayPool, lanes: int = 2) -> None:
    with pool:
        assert pool.lanes == lanes, pool.left_out
        assert torch.equal(sample(None, X, SIGMAS, cores=4, pool=pool).x, sample(model, X, SIGMAS, cores=4).x)


def check_all_in_time(workers: RayWorkers, payload: ModelPayload | None = None) -> None:
    """Wait until two workers take part."""
    wait_until(lambda: workers.open("run", 2, payload).lanes == 2)
    check(workers.open("run", 2, payload))


def wait_until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_run(ray: StandInRay, workers: RayWorkers) -> None:
    assert workers.lanes == 2
    for _ in range(2):
        check(workers.open("run", 2))
    (init,) = (options for name, options in ray.calls if name == "init")
    assert init["address"] == "local" and init["num_cpus"] >= 2
    assert [options["num_gpus"] for name, options in ray.calls if name == "remote"] == [0, 0]


def test_one_actor_a_gpu_or_some_on_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, gpus, count, lanes in ((64, 0, 0, MAX_CPU_WORKERS), (64, 3, 0, 3), (64, 3, 2, 2), (0, 0, 0, 1)):
        in_threads(monkeypatch, StandInRay(cores, gpus))
        with RayWorkers(FakeWorker, count=count, timeouts=LONG_TIMEOUTS, local_gpus=False) as workers:
            assert workers.lanes == lanes


def test_a_model_is_made_and_sent_once_per_change(workers: RayWorkers, told: Told) -> None:
    made: list[bytes] = []

    def payload(name: bytes) -> ModelPayload:
        return ModelPayload(name.decode(), lambda: made.append(name) or name)

    for name in (b"a", b"a", b"b", b"a"):
        check(workers.open("run", 2, payload(name)))
    assert made == [b"a", b"b", b"a"]
    assert told.loaded == [b"a", b"a", b"b", b"b", b"a", b"a"]


class NotMade(Exception):
    pass


def test_what_making_the_model_raises_reaches_the_caller(workers: RayWorkers) -> None:
    def raising() -> bytes:
        raise NotMade

    with pytest.raises(NotMade):
        workers.open("run", 2, ModelPayload("key", raising))
    check(workers.open("run", 2, ModelPayload("key", lambda: b"model")))


@pytest.mark.parametrize("call", ["make", "load", "begin"])
def test_one_that_cannot_get_ready_is_left_out(ray: StandInRay, workers: RayWorkers, told: Told, call: str) -> None:
    told.faults[call] = [MemoryError("no room")]
    pool = workers.open("run", 2, ModelPayload("key", lambda: b"model"))
    (why,) = pool.left_out
    assert why.startswith("the worker ray:10.0.0.1/") and why.endswith(": MemoryError: no room")
    check(pool, lanes=1)
    with workers.open("run", 2, ModelPayload("key", lambda: b"model")) as pool:
        assert pool.lanes == (2 if call == "begin" else 1)  # it does not try this model again
    check(workers.open("run", 2, ModelPayload("other", lambda: b"other")))
    assert len(ray.handles) == (2 if call == "begin" else 3)


def test_one_that_failed_tries_again_after_some_time(ray: StandInRay, told: Told) -> None:
    told.faults["load"] = [MemoryError("no room")]
    with RayWorkers(FakeWorker, count=2, timeouts=replace(LONG_TIMEOUTS, rest=0.0)) as workers:
        for lanes in (1, 2):
            check(workers.open("run", 2, ModelPayload("key", lambda: b"model")), lanes)


def test_one_that_cannot_begin_twice_is_replaced(ray: StandInRay, workers: RayWorkers, told: Told) -> None:
    for actors in (2, 2, 4):
        told.faults["begin"] = [MemoryError("no room")] * 2
        with pytest.raises(NoWorker, match=r"MemoryError: no room; the worker ray:10.0.0.1/\d: MemoryError: no room"):
            workers.open("run", 2)
        assert len(ray.handles) == actors


def test_a_wrong_setup_ends_the_run_and_the_next_run_checks_again(workers: RayWorkers, told: Told) -> None:
    check(workers.open("run", 2))
    told.faults["load"] = [WrongSetup("copy it there")] * 2
    with pytest.raises(WorkersUnavailable, match=r"^the worker ray:10.0.0.1/\d: copy it there$") as raised:
        workers.open("run", 2, ModelPayload("key", lambda: b"model"))
    assert not isinstance(raised.value, NoWorker)
    told.faults.clear()  # now the file is there; an answer of the other worker may still be an old one
    check(workers.open("run", 2, ModelPayload("key", lambda: b"model")))


@pytest.mark.parametrize("call", ["make", "load", "begin"])
def test_one_that_takes_too_long_takes_part_later(ray: StandInRay, told: Told, call: str) -> None:
    told.faults[call] = ["sleep"]
    payload = ModelPayload("key", lambda: b"model")
    with RayWorkers(
        FakeWorker, count=2, timeouts=replace(LONG_TIMEOUTS, behind=0.3, behind_factor=0.0, ping=5.0)
    ) as workers:
        for _ in range(2):
            pool = workers.open("run", 2, payload)
            (why,) = pool.left_out
            assert "it goes on, and takes part in a later run" in why
            check(pool, lanes=1)
        told.over.set()
        check_all_in_time(workers, payload)
        assert len(ray.handles) == 2 and not any(handle.dead for handle in ray.handles)


def test_one_that_is_busy_for_an_earlier_run_is_not_waited_for_again(ray: StandInRay, told: Told) -> None:
    told.faults["load"] = ["sleep"]
    payload = ModelPayload("key", lambda: b"model")
    with RayWorkers(FakeWorker, count=2, timeouts=replace(LONG_TIMEOUTS, ping=5.0, behind=600.0)) as workers:
        with pytest.raises(Cancelled):
            workers.open("run", 2, payload, cancelled=lambda: len(told.loaded) == 1)
        check(workers.open("run", 2, payload), lanes=1)
        told.over.set()
        check_all_in_time(workers, payload)


def test_one_that_never_gets_ready_is_given_up(ray: StandInRay, told: Told) -> None:
    told.faults["load"] = ["sleep"]
    with RayWorkers(FakeWorker, count=2, timeouts=replace(LONG_TIMEOUTS, give_up=3.0)) as workers:
        pool = workers.open("run", 2, ModelPayload("key", lambda: b"model"))
        (why,) = pool.left_out
        assert why.endswith("it took too long to load the model, and was ended")
        check(pool, lanes=1)
        check(workers.open("run", 2, ModelPayload("key", lambda: b"model")))


def test_without_any_in_time_there_is_no_worker(ray: StandInRay, told: Told) -> None:
    told.faults["load"] = ["sleep", "sleep"]
    with RayWorkers(FakeWorker, count=2, timeouts=replace(LONG_TIMEOUTS, ready=0.5)) as workers:
        with pytest.raises(NoWorker, match="it did not .* within .* s; it goes on"):
            workers.open("run", 2, ModelPayload("key", lambda: b"model"))


@pytest.mark.parametrize("how", ["dead", "deaf"])
def test_one_that_is_gone_between_runs_is_replaced(ray: StandInRay, how: str) -> None:
    with RayWorkers(FakeWorker, count=2, timeouts=replace(LONG_TIMEOUTS, ping=5.0)) as workers:
        check(workers.open("run", 2))
        ray.handles[0].die() if how == "dead" else setattr(ray.handles[0], "deaf", True)
        check(workers.open("run", 2))
        assert len(ray.handles) == 3 and ray.handles[0].dead


@pytest.mark.parametrize(
    ("how", "why"),
    [("dead", "its process or machine was lost: the actor "), ("deaf", "and has not answered for 5 s")],
)
def test_one_that_dies_or_stops_while_it_gets_ready_is_left_out(ray: StandInRay, how: str, why: str) -> None:
    def happen() -> bytes:
        ray.handles[0].die() if how == "dead" else setattr(ray.handles[0], "deaf", True)
        return b"model"

    with RayWorkers(FakeWorker, count=2, timeouts=replace(LONG_TIMEOUTS, hung=5.0)) as workers:
        check(workers.open("run", 2))
        pool = workers.open("run", 2, ModelPayload("key", happen))
        assert why in pool.left_out[0]
        check(pool, lanes=1)
        check(workers.open("run", 2, ModelPayload("key", lambda: b"model")))


def test_one_that_finds_no_place_is_given_up(ray: StandInRay) -> None:
    with RayWorkers(FakeWorker, count=2, timeouts=replace(LONG_TIMEOUTS, place=0.5, no_place=5.0)) as workers:
        ray.cores = 0
        ray.cluster_resources = lambda: {"CPU": 2.0}
        with pytest.raises(NoWorker, match="cluster at local has no room for a worker, which needs one CPU core"):
            workers.open("run", 2)
        ray.cores = 1
        with workers.open("run", 2) as pool:
            assert pool.lanes == 1
            assert pool.left_out == ("a worker has not found a place in the cluster in time, or has not started there",)


def test_a_call_that_fails_costs_its_lane(workers: RayWorkers, told: Told) -> None:
    told.faults["denoise"] = [ZeroDivisionError("on purpose")]
    events: list[Any] = []
    with workers.open("run", 2) as pool:
        result = sample(None, X, SIGMAS, cores=4, pool=pool, on_event=events.append)
    assert torch.equal(result.x, sample(model, X, SIGMAS, cores=4).x)
    (lost,) = (event for event in events if isinstance(event, LaneLost))
    assert str(lost.error).startswith("ray:10.0.0.1/") and "ZeroDivisionError: on purpose" in str(lost.error)


@pytest.mark.parametrize(
    "answer", [b"", b"nonsense", "text", None, {"a": "dictionary"}, torch.zeros(X.shape).numpy(), "other", "huge"]
)
def test_an_answer_that_is_not_valid_costs_its_lane(ray: StandInRay, workers: RayWorkers, answer: Any) -> None:
    """Whatever a cluster sends instead of bytes, or as bytes."""
    from chords_core.execution.ray.messages import encode, tensor_data, tensor_header

    if isinstance(answer, str) and answer in ("other", "huge"):
        x = X.double() if answer == "other" else torch.zeros(500_000)
        answer = encode(tensor_header(x), tensor_data(x))
    with workers.open("run", 1) as pool:
        ray.handles[0]._made.denoise = lambda request: answer
        with pytest.raises(WorkersUnavailable, match="ray:10.0.0.1/"):
            sample(None, X, SIGMAS, cores=4, pool=pool)


@pytest.mark.parametrize("within", [0.0, 60.0])
def test_a_call_that_goes_on_is_given_up_quickly(
    ray: StandInRay, workers: RayWorkers, told: Told, within: float
) -> None:
    """If it may still end in time, its worker is kept for later runs."""
    told.faults["denoise"] = ["sleep"]
    with workers.open("run", 1) as pool:
        pool.submit(0, Evaluation(1, 0, 1, X, 1.0))
        began = time.monotonic()
        assert pool.settle(within) == []
        assert time.monotonic() - began < 30.0  # the call goes on for a minute
        assert pool.next(0.0) is None
    told.over.set()
    check(workers.open("run", 2))
    assert sum(handle.dead for handle in ray.handles) == (0 if within else 1)


def test_a_cancel_works_wherever_it_waits(ray: StandInRay, workers: RayWorkers, told: Told) -> None:
    for call in ("make", "load", "begin"):
        sleeping = told.faults[call] = ["sleep", "sleep"]
        moments = list[float]()

        def cancelled(sleeping: list[Any] = sleeping, moments: list[float] = moments) -> bool:
            if not sleeping:  # both have begun to; one that began later would sleep in a later run
                moments.append(time.monotonic())
            return bool(moments)

        with pytest.raises(Cancelled):
            workers.open("run", 2, ModelPayload(call, lambda: b"model"), cancelled=cancelled)
        assert time.monotonic() - moments[0] < 30.0  # they sleep for a minute
        told.over.set()
        told.over = threading.Event()
    check(workers.open("run", 2, ModelPayload("key", lambda: b"model")))


def test_a_lost_child_is_replaced_once(ray: StandInRay, workers: RayWorkers) -> None:
    check(workers.open("run", 2))
    ray.started[0].end()
    check(workers.open("run", 2))
    ray.started[1].end()
    assert workers.lanes == 2
    with pytest.raises(WorkersUnavailable, match="the connection to Ray was lost"), workers.open("run", 2) as pool:
        sample(None, X, SIGMAS, cores=4, pool=pool, on_event=lambda event: ray.started[2].end())
    ray.started[2].wait(60)
    ray.fails_to_start = RuntimeError("no disk\nat all")
    with pytest.raises(NoWorker, match="^Ray could not be started here: no disk$"):
        _ = workers.lanes
    with pytest.raises(WorkersUnavailable, match="^Ray could not be started here: no disk$") as raised:
        RayWorkers(FakeWorker)
    assert not isinstance(raised.value, NoWorker)


def test_a_child_that_sends_nonsense_is_ended(ray: StandInRay, workers: RayWorkers) -> None:
    check(workers.open("run", 2))
    ray.started[0]._sink.write(b"\x80\x04nonsense that is long enough to be read")
    ray.started[0]._sink.flush()
    wait_until(lambda: ray.started[0].returncode == -9)
    check(workers.open("run", 2))


def test_an_address_where_nothing_listens(ray: StandInRay) -> None:
    with pytest.raises(WorkersUnavailable, match="^nothing answers at 127.0.0.1:9 "):
        RayWorkers(FakeWorker, "127.0.0.1:9")
    with pytest.raises(InvalidInput):
        RayWorkers(FakeWorker, "elsewhere")
    assert not ray.calls
