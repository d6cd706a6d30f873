"""Workers that hang, or a child process that hangs or dies: the others go on, a cancel works, nothing is left over."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor

from chords_core import Cancelled, Evaluated, Event, ModelPayload, RayPool, RayWorkers, WorkersUnavailable, sample
from chords_core.execution import driver
from chords_core.execution.ray.errors import NoWorker
from chords_core.execution.ray.timeouts import RayTimeouts

sys.path.append(str(Path(__file__).parent))

from processes import ENDED_SECONDS, asked, named, started
from workers import factory, inline, remote

REPO = Path(__file__).resolve().parents[2]
SIGMAS = torch.cat([torch.linspace(8.0, 0.5, 12), torch.zeros(1)])
X = 8 * torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(1))
ENOUGH_SECONDS = 120.0
CANCEL_SECONDS = 20.0  # some hundredths on an idle machine; without a cancel it is minutes
LONG = {"silent": 60.0, "answer": 60.0, "place": 120.0, "no_place": 120.0}
TIMEOUTS = {
    "stop": RayTimeouts(hung=10.0, behind=120.0, ping=10.0, **LONG),
    "sleep": RayTimeouts(hung=120.0, behind=3.0, behind_factor=0.0, ping=60.0, **LONG),
}
"""By what happens to a worker. It is found by a timeout, which is short; a worker that is only busy has long ones."""

FINE = ModelPayload("fine", lambda: b"1.0@/dev/null")


@contextlib.contextmanager
def _workers(
    fault: str = "", count: int = 2, timeouts: RayTimeouts = TIMEOUTS["stop"], **options: Any
) -> Iterator[RayWorkers]:
    """Workers of a Ray of their own. The processes that the test has stopped go on at the end, so that they can end."""
    with started(RayWorkers, factory(fault), count=count, timeouts=timeouts, **options) as workers:
        try:
            yield workers
        finally:
            asked(_children(), psutil.Process.resume)


@pytest.fixture(scope="module")
def workers() -> Iterator[RayWorkers]:
    """For all tests that need no factory and no timeouts of their own; each leaves it usable for the next."""
    with _workers() as workers:
        yield workers


@pytest.fixture(autouse=True)
def _watchdog() -> Iterator[None]:
    """No test may wait without end: after this time the test process prints where it is, and fails."""
    import faulthandler

    faulthandler.dump_traceback_later(5 * ENOUGH_SECONDS, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


def _children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def _child(workers: RayWorkers) -> psutil.Process:
    """The child process that uses Ray."""
    return psutil.Process(workers._link._process.pid)


def _wait_until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + ENOUGH_SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def _open_until_all(workers: RayWorkers, model: ModelPayload | None = None, run: Any = None) -> RayPool:
    """A pool of two workers. On a busy machine they may not be ready at the first attempt."""
    end = time.monotonic() + ENOUGH_SECONDS
    while True:
        with contextlib.suppress(NoWorker):
            pool = workers.open(run or remote(), 2, model)
            if pool.lanes == 2:
                return pool
            pool.close()
        assert time.monotonic() < end


def _check(pool: RayPool) -> None:
    with pool:
        assert torch.equal(sample(None, X, SIGMAS, cores=4, pool=pool).x, sample(inline(), X, SIGMAS, cores=4).x)


WHERE = ["make", "load", "begin"]


@contextlib.contextmanager
def _workers_for(where: str, kind: str, file: Path, shared: RayWorkers, count: int = 2) -> Iterator[RayWorkers]:
    """Workers for a run in which one worker hangs. For "make" they are new ones, whose factory hangs, and so they are
    where the timeouts are other ones than those of ``shared``."""
    if where == "make":
        with _workers(f"{kind}:{file}", count, TIMEOUTS[kind]) as workers:
            yield workers
    elif kind == "sleep" and count == 2:
        with _workers(count=count, timeouts=TIMEOUTS[kind]) as workers:
            _check(_open_until_all(workers, FINE))
            yield workers
    else:
        _check(_open_until_all(shared, FINE))
        yield shared


def _opened(where: str, kind: str, file: Path, workers: RayWorkers, count: int = 2, **options: Any) -> RayPool:
    """Open a run in which one worker hangs where it is to ``where``; for "make", the factory does it."""
    fault = f"{kind}:{file}"
    model = ModelPayload(fault, fault.encode) if where == "load" else FINE
    return workers.open((fault, remote()) if where == "begin" else remote(), count, model, **options)


@pytest.mark.parametrize("where", WHERE)
def test_a_worker_whose_process_stops_while_it_gets_ready_is_left_out_and_replaced(
    where: str, workers: RayWorkers, tmp_path: Path
) -> None:
    file = tmp_path / "fault"
    with _workers_for(where, "stop", file, workers) as workers:
        with _opened(where, "stop", file, workers) as pool:
            assert file.exists()
            assert pool.lanes == 1
            (why,) = pool.left_out
            assert "has not answered for 10 s" in why
            _check(pool)
        _check(_open_until_all(workers, FINE))


@pytest.mark.parametrize("where", WHERE)
def test_a_worker_that_takes_too_long_is_left_out_and_takes_part_later(
    where: str, workers: RayWorkers, tmp_path: Path
) -> None:
    """It answers the pings, and keeps the model that it has loaded meanwhile."""
    file = tmp_path / "fault"
    with _workers_for(where, "sleep", file, workers) as workers:
        with _opened(where, "sleep", file, workers) as pool:
            assert pool.lanes == 1
            (why,) = pool.left_out
            assert "goes on, and takes part in a later run" in why
            _check(pool)
        (pid,) = (name.suffix[1:] for name in tmp_path.glob("fault.*"))
        Path(f"{file}.over").touch()
        _check(_open_until_all(workers, FINE))
        assert psutil.pid_exists(int(pid))


@pytest.mark.parametrize("kind", ["stop", "sleep"])
@pytest.mark.parametrize("where", WHERE)
def test_a_cancel_works_while_all_workers_hang(where: str, kind: str, workers: RayWorkers, tmp_path: Path) -> None:
    file, moments = tmp_path / "fault", list[float]()

    def cancelled() -> bool:
        if file.exists():
            moments.append(time.monotonic())
        return bool(moments)

    with _workers_for(where, kind, file, workers, count=1) as workers:
        with pytest.raises(Cancelled):
            _opened(where, kind, file, workers, count=1, cancelled=cancelled)
        assert time.monotonic() - moments[0] < CANCEL_SECONDS
        Path(f"{file}.over").touch()
        _check(workers.open(remote(), 1, FINE))


def test_a_cancel_works_while_a_process_stopped_in_a_call(workers: RayWorkers) -> None:
    """Although its first call may take minutes."""

    def stopping(x: Tensor, sigma: float, stopped: Any) -> Tensor:
        if sigma < 8.0:
            signal.raise_signal(signal.SIGSTOP)
        return x

    moments = list[float]()

    def cancelled() -> bool:
        if psutil.STATUS_STOPPED in asked(_children(), psutil.Process.status):
            moments.append(time.monotonic())
        return bool(moments)

    pool = workers.open(stopping, 2)
    with pytest.raises(Cancelled), pool:
        sample(None, X, SIGMAS, cores=4, pool=pool, cancel=cancelled)
    assert time.monotonic() - moments[0] < CANCEL_SECONDS
    _check(_open_until_all(workers))


def test_a_worker_that_ignores_a_cancel_keeps_its_model(
    workers: RayWorkers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So long it may go on after the cancel. A busy machine may need more than the usual for one second.
    monkeypatch.setattr(driver, "_STOP_SECONDS", ENOUGH_SECONDS)
    over = str(tmp_path / "over")

    def deaf(x: Tensor, sigma: float, stopped: Any) -> Tensor:
        while sigma < 8.0 and not Path(over).exists():
            time.sleep(0.02)
        return x

    def processes(pool: RayPool) -> set[float]:
        def process(x: Tensor, sigma: float, stopped: Any) -> Tensor:
            stopped.wait(0.05)
            return torch.full_like(x, os.getpid())

        pool.close()
        seen = set[float]()
        with _open_until_all(workers, run=process) as pool:
            sample(
                None,
                X.double(),
                SIGMAS,
                cores=4,
                pool=pool,
                on_event=lambda event: seen.add(float(event.denoised.max())) if isinstance(event, Evaluated) else None,
            )
        return seen

    before = processes(_open_until_all(workers))
    moments = list[float]()

    def cancelled() -> bool:
        moments.append(time.monotonic())
        return len(moments) > 20

    with pytest.raises(Cancelled), _open_until_all(workers, run=deaf) as pool:
        sample(None, X, SIGMAS, cores=4, pool=pool, cancel=cancelled)
    assert time.monotonic() - moments[20] < CANCEL_SECONDS
    threading.Timer(1.0, Path(over).touch).start()
    _check(workers.open(remote(), 2))  # waits until it is over
    assert processes(_open_until_all(workers)) == before


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGABRT])
def test_the_child_may_die_between_runs(workers: RayWorkers, signal_number: int) -> None:
    """Ray ends it in this way when the head of the cluster is lost. This process only gets a message."""
    _check(_open_until_all(workers))
    child = _child(workers)
    everybody = [child, *child.children(recursive=True)]
    child.send_signal(signal_number)
    _, alive = psutil.wait_procs(everybody, timeout=ENDED_SECONDS)
    assert not alive  # Ray has ended with it
    assert workers.lanes == 2
    _check(_open_until_all(workers))


def test_the_child_may_die_in_a_run(workers: RayWorkers) -> None:
    child = None

    def kill(event: Event) -> None:
        if isinstance(event, Evaluated):
            child.kill()

    pool = _open_until_all(workers)
    child = _child(workers)
    with pytest.raises(WorkersUnavailable, match="the connection to Ray was lost"), pool:
        sample(None, X, SIGMAS, cores=4, pool=pool, on_event=kill)
    _check(_open_until_all(workers))


def test_a_child_that_stops_is_given_up() -> None:
    """Also in the middle of a run: then the driver loses all workers at once."""
    with _workers(timeouts=dataclasses.replace(TIMEOUTS["stop"], silent=10.0, answer=10.0, hung=60.0)) as workers:
        _check(_open_until_all(workers))
        _child(workers).suspend()
        assert workers.lanes == 2  # from a new child process
        pool, child = _open_until_all(workers), _child(workers)

        def stop(event: object) -> None:
            with contextlib.suppress(psutil.NoSuchProcess):  # it was killed after an earlier event
                child.suspend()

        with pytest.raises(WorkersUnavailable, match="has given no sign of life for 10 s"), pool:
            sample(None, X, SIGMAS, cores=4, pool=pool, on_event=stop)


def test_this_process_is_not_connected_to_ray(workers: RayWorkers) -> None:
    import ray

    _check(_open_until_all(workers))
    assert not ray.is_initialized()


@pytest.mark.parametrize("way", ["SIGKILL", "SIGTERM", "exit", "hung"])
def test_nothing_of_ray_outlives_this_process(way: str, tmp_path: Path) -> None:
    program = f"""
import os, signal, sys, time
sys.path[:0] = [{str(REPO)!r}, {str(Path(__file__).parent)!r}]
from chords_core import RayWorkers
from workers import factory, remote
workers = RayWorkers(factory(), count=1)
pool = workers.open(remote(), 1)
print("ready", flush=True)
if {way!r} != "exit":
    time.sleep(600)
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        everybody = psutil.Process(process.pid).children(recursive=True)
        assert way == "exit" or named(everybody, "raylet")
        if way == "hung":
            named(everybody, "raylet")[0].suspend()
            process.kill()
        elif way != "exit":
            process.send_signal(getattr(signal, way))
    _, alive = psutil.wait_procs(everybody, timeout=ENDED_SECONDS)
    for child in alive:
        child.kill()
    assert not alive
