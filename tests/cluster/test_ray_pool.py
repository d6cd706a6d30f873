"""The Ray pool with a local Ray and two actors: its result is that of the inline pool, whatever happens to an actor."""

from __future__ import annotations

import builtins
import dataclasses
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from chords_core import (
    Cancelled,
    Evaluated,
    Event,
    LaneLost,
    LaneSlow,
    LaneTimeouts,
    ModelPayload,
    RayWorkers,
    Result,
    WorkersUnavailable,
    sample,
)
from chords_core.execution.ray.errors import NoWorker
from chords_core.execution.ray.link import RayLink
from chords_core.execution.ray.messages import Header, encode
from chords_core.execution.ray.timeouts import RayTimeouts

sys.path.append(str(Path(__file__).parent))

from processes import started
from workers import counting, factory, inline, killing, remote

STEPS = 12
SIGMAS = torch.cat([torch.linspace(8.0, 0.5, STEPS), torch.zeros(1)])
LONG_TIMEOUTS = RayTimeouts(
    behind=120.0, place=120.0, no_place=120.0, ping=60.0, hung=60.0, answer=60.0, silent=120.0, stop=60.0
)
"""Only what fails or hangs takes so long. On a busy machine a new worker may need long, and the tests wait for it."""


@pytest.fixture(scope="module")
def workers() -> Iterator[RayWorkers]:
    """Workers of a Ray of their own."""
    with started(RayWorkers, factory(), count=2, timeouts=LONG_TIMEOUTS) as workers:
        yield workers


def _noise(dtype: torch.dtype = torch.float32, side: int = 8) -> Tensor:
    return 8 * torch.randn((1, 4, side, side), generator=torch.Generator().manual_seed(1)).to(dtype)


def _expected(x: Tensor, **options: Any) -> Result:
    return sample(inline(), x, SIGMAS, cores=4, **options)


def _sampled(workers: RayWorkers, run: Any, x: Tensor, model: ModelPayload | None = None, **options: Any) -> Result:
    with workers.open(run, 2, model) as pool:
        assert pool.lanes == 2
        return sample(None, x, SIGMAS, cores=4, pool=pool, **options)


def _same(result: Result, expected: Result) -> bool:
    return (
        [(hit.core, hit.depth) for hit in result.hits] == [(hit.core, hit.depth) for hit in expected.hits]
        and all(torch.equal(a.x, b.x) for a, b in zip(result.hits, expected.hits, strict=True))
        and result.x.dtype == expected.x.dtype
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m"])
def test_actors_change_no_bit(workers: RayWorkers, dtype: torch.dtype, solver: str) -> None:
    x = _noise(dtype)
    options = {"solver": solver, "accept": "exact"}
    assert _same(_sampled(workers, remote(), x, **options), _expected(x, **options))


def test_a_large_latent_that_is_a_view_arrives_unchanged(workers: RayWorkers) -> None:
    x = _noise(side=256).transpose(2, 3)[:, ::2]
    assert _same(_sampled(workers, remote(), x), _expected(x))


@pytest.mark.parametrize("call", [0, 1, 2, 3, 5, 8, 11, 15, 20, 25])
def test_a_killed_process_costs_time_only(workers: RayWorkers, tmp_path: Path, call: int) -> None:
    x, events = _noise(), list[Event]()
    result = _sampled(workers, killing(call, tmp_path), x, accept="exact", on_event=events.append)
    assert _same(result, _expected(x, accept="exact"))
    (lost,) = (event for event in events if isinstance(event, LaneLost))
    assert "was lost" in str(lost.error) and "ray:" in str(lost.error)
    assert len(os.listdir(tmp_path)) == result.evaluations + 1


def test_a_killed_actor_is_back_in_the_next_run(workers: RayWorkers, tmp_path: Path) -> None:
    x, lanes = _noise(), set[int]()
    _sampled(workers, killing(0, tmp_path), x)
    _sampled(workers, remote(0.02), x, on_event=lambda event: lanes.add(getattr(event, "lane", 0)))
    assert lanes == {0, 1}


def test_the_first_failure_is_raised_when_no_worker_is_left(workers: RayWorkers) -> None:
    def broken(x: Tensor, sigma: float, stopped: Any) -> Tensor:
        raise ZeroDivisionError("broken on purpose")

    with pytest.raises(WorkersUnavailable, match=r"ray:.*/\d+: ZeroDivisionError: broken on purpose"):
        _sampled(workers, broken, _noise())


def test_an_evaluation_may_raise_what_is_no_exception(workers: RayWorkers) -> None:
    """Like a host's interrupt. The actor goes on."""

    def leaving(x: Tensor, sigma: float, stopped: Any) -> Tensor:
        raise SystemExit("left on purpose")

    before = _processes(workers)
    with pytest.raises(WorkersUnavailable, match="SystemExit: left on purpose"):
        _sampled(workers, leaving, _noise())
    assert _processes(workers) == before


def _processes(workers: RayWorkers) -> set[float]:
    def process(x: Tensor, sigma: float, stopped: Any) -> Tensor:
        stopped.wait(0.02)
        return torch.full_like(x, os.getpid())

    seen = set[float]()

    def note(event: Event) -> None:
        if isinstance(event, Evaluated):
            seen.add(float(event.denoised.max()))

    _sampled(workers, process, _noise(torch.float64), on_event=note)
    return seen


def test_a_cancel_stops_the_remote_work_at_once(workers: RayWorkers, tmp_path: Path) -> None:
    log = tmp_path / "log"

    asked = list[float]()

    def begun() -> bool:  # the first evaluation, which is quick, and one on each lane
        if log.exists() and log.read_text().count("began") == 3:
            asked.append(time.monotonic())
        return bool(asked)

    with pytest.raises(Cancelled):
        _sampled(workers, counting(log, 300.0, below=float(SIGMAS[0])), _noise(), cancel=begun)
    assert time.monotonic() - asked[0] < 30.0  # before the timeout of workers that do not stop
    lines = log.read_text().splitlines()
    assert len([line for line in lines if line.startswith("began")]) == 3
    assert len([line for line in lines if line.startswith("ended")]) == 3
    assert _same(_sampled(workers, remote(), _noise()), _expected(_noise()))
    assert log.read_text().splitlines() == lines  # also after what came later on the same workers


def test_a_worker_that_hangs_is_given_up_and_replaced(
    workers: RayWorkers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One evaluation never ends and ignores the request to stop. Another lane makes it, and the run ends."""
    monkeypatch.setattr(workers, "_timeouts", dataclasses.replace(LONG_TIMEOUTS, stop=1.5))
    folder = str(tmp_path)

    def hanging(x: Tensor, sigma: float, stopped: Any) -> Tensor:
        if sigma < 4.0:
            try:
                os.close(os.open(f"{folder}/hangs", os.O_CREAT | os.O_EXCL))
                time.sleep(600)
            except FileExistsError:
                pass
        return torch.tanh(0.5 * x + 0.3) * (sigma / (1 + sigma))

    x, events, began = _noise(), list[Event](), time.monotonic()
    timeouts = LaneTimeouts(floor=1.0, factor=3.0, first=5.0)  # on a busy machine the other worker may be slow, too
    result = _sampled(workers, hanging, x, accept="exact", timeouts=timeouts, on_event=events.append)
    assert _same(result, _expected(x, accept="exact"))
    assert {type(event) for event in events if isinstance(event, LaneSlow | LaneLost)} == {LaneSlow}
    assert time.monotonic() - began < 300
    assert _same(_sampled(workers, remote(), x), _expected(x))  # on two lanes again


def test_a_cancel_works_while_workers_get_ready(workers: RayWorkers) -> None:
    with pytest.raises(Cancelled):
        workers.open(remote(), 2, ModelPayload("cancelled", lambda: b"1.0@/dev/null"), cancelled=lambda: True)
    assert _same(_sampled(workers, remote(), _noise()), _expected(_noise()))


def test_the_model_is_sent_once_per_change(workers: RayWorkers, tmp_path: Path) -> None:
    log, x = tmp_path / "log", _noise()
    first, other = (ModelPayload(key, f"{scale}@{log}".encode) for key, scale in (("a", 1.0), ("b", 0.5)))
    for _ in range(2):
        assert _same(_sampled(workers, remote(), x, first), _expected(x))
    assert log.read_text().count("loaded") == 2  # once an actor
    halved = sample(lambda x, sigma: 0.5 * inline()(x, sigma), x, SIGMAS, cores=4)
    assert _same(_sampled(workers, remote(), x, other), halved)
    assert log.read_text().count("loaded") == 4
    (tmp_path / "calls").mkdir()
    _sampled(workers, killing(2, tmp_path / "calls"), x, other)
    assert _same(_sampled(workers, remote(), x, other), halved)
    assert log.read_text().count("loaded") == 5  # the new actor alone
    _sampled(workers, remote(), x, first)


def test_what_crosses_the_network(workers: RayWorkers, monkeypatch: pytest.MonkeyPatch) -> None:
    """One latent each way per evaluation, and the conditioning once, counted where it enters and leaves this process.
    The child process forwards it unchanged. The actors get a reference to the conditioning; each machine fetches it
    once."""
    x = _noise(side=64)
    latent, conditioning = x.numel() * x.element_size(), 500_000
    ballast = os.urandom(conditioning)  # in place of the conditioning

    def run(x: Tensor, sigma: float, stopped: Any) -> Tensor:
        return x * (len(ballast) / (len(ballast) + sigma))

    sent: dict[str, list[int]] = {}
    received: list[int] = []
    send, receive = RayLink.send, RayLink.receive

    def counted_send(link: RayLink, header: Header, data: bytes = b"", max_data: int = 0) -> None:
        sent.setdefault(header["op"], []).append(len(encode(header, data)))
        send(link, header, data, max_data)

    def counted_receive(link: RayLink, timeout: float, silent: float) -> tuple[Header, bytes] | None:
        message = receive(link, timeout, silent)
        received.append(0 if message is None else len(encode(*message)))
        return message

    monkeypatch.setattr(RayLink, "send", counted_send)
    monkeypatch.setattr(RayLink, "receive", counted_receive)
    evaluations = _sampled(workers, run, x, accept="exact").evaluations
    assert len(sent["call"]) == evaluations
    assert max(sent["call"]) < latent + 1000
    assert len(sent["open"]) == 1 and conditioning < sent["open"][0] < conditioning + 10_000
    everything = sum(map(sum, sent.values())) + sum(received)
    assert everything < 2 * evaluations * (latent + 1000) + conditioning + 100_000
    assert sum(sent["call"]) > evaluations * latent and sum(received) > evaluations * latent


def test_a_machine_that_is_not_set_up_ends_the_run_and_is_named(workers: RayWorkers) -> None:
    """When it is set up, its worker is a new process, which has nothing in memory from before."""
    before = _processes(workers)
    with pytest.raises(WorkersUnavailable, match=r"^the worker ray:[\d.]+/\d+: no file model.safetensors$") as raised:
        workers.open(remote(), 2, ModelPayload("missing", lambda: b"missing:model.safetensors"))
    assert not isinstance(raised.value, NoWorker)
    assert len(_processes(workers) & before) == 1


def test_a_worker_without_memory_for_the_model_is_left_out(workers: RayWorkers, tmp_path: Path) -> None:
    """It does not try this model again in each run, but tries another model."""
    x, log = _noise(), tmp_path / "log"
    big = ModelPayload(str(log), lambda: f"too big for one:{log}".encode())
    for _ in range(2):
        with workers.open(remote(), 2, big) as pool:
            assert pool.lanes == 1
            (why,) = pool.left_out
            assert re.fullmatch(r"the worker ray:[\d.]+/\d+: MemoryError: no room", why)
            assert why.split(": ")[0] != f"the worker {pool.names[0]}"
            assert _same(sample(None, x, SIGMAS, cores=4, pool=pool), _expected(x))
    assert log.read_text().count("asked") == 2  # once an actor
    with workers.open(remote(), 2, ModelPayload("small", lambda: b"1.0@/dev/null")) as pool:
        assert pool.lanes == 2 and not pool.left_out
        assert _same(sample(None, x, SIGMAS, cores=4, pool=pool), _expected(x))


def test_a_run_that_cannot_begin_does_not_affect_the_next(workers: RayWorkers) -> None:
    """If it happens twice in a row the processes may be the cause, so they are replaced."""
    before = _processes(workers)
    for _ in range(2):
        with pytest.raises(NoWorker, match="MemoryError: no room for the run"):
            workers.open("too big", 2)
        assert _processes(workers) == before
    for _ in range(2):
        with pytest.raises(NoWorker, match="MemoryError: no room for the run"):
            workers.open("too big", 2)
    assert not _processes(workers) & before


def test_without_any_worker_that_can_load_the_error_says_so(workers: RayWorkers) -> None:
    with pytest.raises(NoWorker, match=r"worker ray:.*MemoryError: no room for x.*; .*worker ray:.*MemoryError"):
        workers.open(remote(), 2, ModelPayload("too big", lambda: b"too big:x"))


def test_a_slow_worker_that_stops_on_request_is_kept(workers: RayWorkers, tmp_path: Path) -> None:
    folder, quick = str(tmp_path), remote()

    def dawdling(x: Tensor, sigma: float, stopped: Any) -> Tensor:
        if sigma < 4.0:
            try:
                os.close(os.open(f"{folder}/dawdles", os.O_CREAT | os.O_EXCL))
                stopped.wait(600)
                time.sleep(0.5)
            except FileExistsError:
                pass
        return quick(x, sigma, stopped)

    before, events = _processes(workers), list[Event]()
    timeouts = LaneTimeouts(floor=1.0, factor=3.0, first=5.0)
    _sampled(workers, dawdling, _noise(), accept="exact", timeouts=timeouts, on_event=events.append)
    assert any(isinstance(event, LaneSlow) for event in events)
    assert _processes(workers) == before


def test_an_error_of_a_listener_reaches_the_caller(workers: RayWorkers) -> None:
    def listener(event: Event) -> None:
        raise ZeroDivisionError("the listener's own")

    before = _processes(workers)
    with pytest.raises(ZeroDivisionError, match="the listener's own"):
        _sampled(workers, remote(0.05), _noise(), on_event=listener)
    assert _processes(workers) == before


def test_without_ray_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *arguments: Any) -> Any:
        if name.split(".")[0] == "ray":
            raise ModuleNotFoundError("No module named 'ray'")
        return real(name, *arguments)

    monkeypatch.delitem(sys.modules, "ray", raising=False)
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(WorkersUnavailable, match="pip install ray"):
        RayWorkers(factory())
