"""A Ray of several nodes that another program started: a node ends in the middle of a run, and a new one joins."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
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

from chords_core import (
    Cancelled,
    Evaluated,
    Event,
    LaneLost,
    LaneSlow,
    RayWorkers,
    Result,
    WorkersUnavailable,
    sample,
)
from chords_core.execution.ray.errors import NoWorker
from chords_core.execution.ray.timeouts import RayTimeouts

sys.path.append(str(Path(__file__).parent))

from heads import Head
from processes import ENDED_SECONDS, named, started
from workers import factory, inline, remote

TEN_MOMENTS = (1, 2, 4, 8, 10, 13, 17, 20, 24, 28)  # numbers of evaluations after which a node is removed
SIGMAS = torch.cat([torch.linspace(8.0, 0.5, 16), torch.zeros(1)])
ENOUGH_SECONDS = 120.0
AT_ONCE = 30.0  # a second or two on an idle machine, and less than the timeouts below
BUSY = RayTimeouts(connect=90.0, answer=30.0, place=90.0, no_place=90.0, ping=15.0, hung=60.0, behind=90.0)
"""For a busy machine."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of one core each. The head is node 0. Each test leaves it so for the next."""
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    started(cluster.add_node, wait=False, num_cpus=1, include_dashboard=False)
    started(cluster.add_node, wait=False, num_cpus=1)
    cluster.wait_for_nodes(ENOUGH_SECONDS)
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def one_head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """For `head`."""
    with Head(tmp_path_factory.mktemp("head"), cores=1) as head:
        yield head


@pytest.fixture
def head(one_head: Head) -> Head:
    """A running cluster of one node with one core. A test may kill it."""
    if not one_head.running:
        one_head.start()
    return one_head


def _noise() -> Tensor:
    return 8 * torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(1))


def test_a_removed_node_costs_time_only_and_another_takes_its_place(cluster: Any) -> None:
    x = _noise()
    expected = sample(inline(), x, SIGMAS, cores=4, accept="exact")
    with RayWorkers(factory(), cluster.address, count=2, timeouts=BUSY) as workers:
        losses = list[int]()
        for moment in TEN_MOMENTS:
            _wait_until(lambda: workers.lanes == 2)  # nor that there is a new one
            result, events = _sampled_without_the_second_node(cluster, workers, x, moment)
            # On a busy machine a lane may count as slow before Ray reports that its node has ended.
            losses.append(len({event.lane for event in events if isinstance(event, LaneLost | LaneSlow)}))
            assert torch.equal(result.x, expected.x)
            _wait_until(lambda: workers.lanes == 1)  # Ray does not see at once that a node has ended
            if moment == TEN_MOMENTS[0]:
                with workers.open(remote(), 2) as pool:
                    assert pool.lanes == 1
                    assert torch.equal(sample(None, x, SIGMAS, cores=4, accept="exact", pool=pool).x, expected.x)
            started(cluster.add_node, wait=False, num_cpus=1)
            cluster.wait_for_nodes(ENOUGH_SECONDS)
        assert set(losses) <= {0, 1} and 1 in losses  # 0: the run ended without the evaluation of that node
        with workers.open(remote(), 2) as pool:
            assert pool.lanes == 2
            assert torch.equal(sample(None, x, SIGMAS, cores=4, accept="exact", pool=pool).x, expected.x)


def _wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + ENOUGH_SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def _sampled_without_the_second_node(
    cluster: Any, workers: RayWorkers, x: Tensor, moment: int
) -> tuple[Result, list[Event]]:
    """A run on two nodes, one of which ends after ``moment`` evaluations."""
    events = list[Event]()

    def remove_in_between(event: Event) -> None:
        events.append(event)
        if isinstance(event, Evaluated) and sum(isinstance(seen, Evaluated) for seen in events) == moment:
            (other,) = (node for node in cluster.list_all_nodes() if node is not cluster.head_node)
            cluster.remove_node(other, allow_graceful=False)

    began = time.monotonic()
    with workers.open(remote(0.05), 2) as pool:
        assert pool.lanes == 2
        result = sample(None, x, SIGMAS, cores=4, accept="exact", pool=pool, on_event=remove_in_between)
    assert time.monotonic() - began < ENOUGH_SECONDS
    return result, events


def test_a_core_that_another_program_uses_is_left_out_until_it_is_free(cluster: Any) -> None:
    short = dataclasses.replace(BUSY, place=2.0, no_place=8.0)
    x = _noise()
    expected = sample(inline(), x, SIGMAS, cores=4).x
    with RayWorkers(factory(), cluster.address, count=1, timeouts=BUSY) as others, others.open(remote(), 1):
        with RayWorkers(factory(), cluster.address, count=2, timeouts=short) as workers:

            def one_is_left_out() -> bool:
                # No worker at all if the cluster has not even tried to place one in time.
                with contextlib.suppress(NoWorker), workers.open(remote(), 2) as pool:
                    assert pool.lanes == 1
                    assert torch.equal(sample(None, x, SIGMAS, cores=4, pool=pool).x, expected)
                    return "not found a place" in pool.left_out[0]  # if it has not been given up already
                return False

            def all_take_part() -> bool:
                with workers.open(remote(), 2) as pool:
                    return pool.lanes == 2 and not pool.left_out

            for _ in range(2):
                _wait_until(one_is_left_out)
            others.close()
            _wait_until(all_take_part)


def test_workers_that_get_no_place_are_given_up(cluster: Any) -> None:
    """They also leave the queue for a place, which they would take from other programs later."""
    short = dataclasses.replace(BUSY, place=2.0, no_place=2.0)
    with RayWorkers(factory(), cluster.address, count=2, timeouts=BUSY) as others, others.open(remote(), 2) as pool:
        assert pool.lanes == 2  # both cores are taken
        with RayWorkers(factory(), cluster.address, count=2, timeouts=short) as workers:
            with pytest.raises(NoWorker, match="has no room for a worker, which needs one CPU core"):
                workers.open(remote(), 2)
            _wait_until(lambda: not _states(cluster) - {"ALIVE", "DEAD"})
        assert torch.equal(
            sample(None, _noise(), SIGMAS, cores=4, pool=pool).x, sample(inline(), _noise(), SIGMAS, cores=4).x
        )


def _states(cluster: Any) -> set[str]:
    """The states of all actors, as the cluster reports them to another program."""
    program = (
        f"import ray; ray.init(address={cluster.address!r}, log_to_driver=False, configure_logging=False)\n"
        "print(*{actor['State'] for actor in ray._private.state.actors().values()})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_a_ray_that_another_program_started_goes_on_after_close(cluster: Any) -> None:
    x = torch.ones(2, 2)
    for _ in range(2):  # the second time it has to run still, with free cores
        with (
            RayWorkers(factory(), cluster.address, count=2, timeouts=BUSY) as workers,
            workers.open(remote(), 2) as pool,
        ):
            assert pool.lanes == 2
            assert sample(None, x, SIGMAS, cores=4, pool=pool).x.shape == x.shape
    assert len(cluster.list_all_nodes()) == 2
    assert all(node.remaining_processes_alive() for node in cluster.list_all_nodes())


def test_a_ray_of_our_own_ends_with_us() -> None:
    before = psutil.Process(os.getpid()).children(recursive=True)  # those of other tests
    workers = started(RayWorkers, factory(), count=1)
    children = [child for child in psutil.Process(os.getpid()).children(recursive=True) if child not in before]
    assert named(children, "raylet")
    workers.close()
    _, alive = psutil.wait_procs(children, timeout=ENDED_SECONDS)
    assert not alive
    workers.close()


def test_a_ray_that_is_in_this_process_goes_on() -> None:
    """Other code in this process has started a Ray of its own."""
    import ray

    started(ray.init, "local", num_cpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        theirs = ray.put("theirs")
        with started(RayWorkers, factory(), count=1) as workers, workers.open(remote(), 1) as pool:
            expected = sample(inline(), _noise(), SIGMAS, cores=4).x
            assert torch.equal(sample(None, _noise(), SIGMAS, cores=4, pool=pool).x, expected)
        assert ray.is_initialized() and ray.get(theirs) == "theirs"
    finally:
        ray.shutdown()


@pytest.mark.parametrize("back", [False, True], ids=["gone", "restarted"])
def test_a_cluster_whose_head_is_lost(head: Head, back: bool) -> None:
    """While it does not run, each call says so. When another cluster runs at the address, it is used."""
    expected = sample(inline(), _noise(), SIGMAS, cores=4).x
    with RayWorkers(factory(), head.address, count=1, timeouts=BUSY) as workers:
        with workers.open(remote(), 1) as pool:
            assert torch.equal(sample(None, _noise(), SIGMAS, cores=4, pool=pool).x, expected)
        head.kill()
        if not back:
            for call in (lambda: workers.lanes, lambda: workers.open(remote(), 1)):
                with pytest.raises(NoWorker, match=f"{head.address}|connection to Ray was lost"):
                    call()
        head.start()
        with workers.open(remote(), 1) as pool:
            assert torch.equal(sample(None, _noise(), SIGMAS, cores=4, pool=pool).x, expected)


def test_the_address_may_come_from_the_environment(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", head.address)
    before = _raylets()
    with RayWorkers(factory(), "auto", count=1, timeouts=BUSY) as workers, workers.open(remote(), 1) as pool:
        assert pool.lanes == 1
        assert _raylets() <= before, "a Ray was started here"


def _raylets() -> set[int]:
    """Processes of Ray nodes under this one; those of other tests' clusters may be among them."""
    return {child.pid for child in named(psutil.Process().children(recursive=True), "raylet")}


def test_a_cluster_that_is_lost_in_a_run(head: Head) -> None:
    """All workers are lost, after some time."""
    with RayWorkers(factory(), head.address, count=1, timeouts=dataclasses.replace(BUSY, silent=5.0)) as workers:
        pool = workers.open(remote(0.05), 1)
        with pytest.raises(WorkersUnavailable), pool:
            sample(None, _noise(), SIGMAS, cores=4, pool=pool, on_event=lambda event: head.kill())


@pytest.mark.parametrize("address", ["ray://127.0.0.1:9", "127.0.0.1:9", "no-such-host.invalid:6379"])
def test_an_address_where_nothing_listens_is_reported_at_once(address: str) -> None:
    began = time.monotonic()
    with pytest.raises(WorkersUnavailable, match=f"nothing answers at {address}"):
        RayWorkers(factory(), address, timeouts=BUSY)
    assert time.monotonic() - began < AT_ONCE


def _settings() -> bytes:
    return bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))


NOT_RAY: dict[str, Callable[[socket.socket], None]] = {
    "says nothing": lambda connection: None,
    "hangs up": lambda connection: connection.close(),
    "a web server": lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    "repeats": lambda connection: connection.sendall(connection.recv(100)),
    "HTTP/2 and no more": lambda connection: connection.sendall(_settings()),
}


@pytest.fixture(params=NOT_RAY)
def not_ray(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a server that is not Ray."""
    kept = list[socket.socket]()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    kept.append(server.accept()[0])
                    with contextlib.suppress(OSError):
                        NOT_RAY[request.param](kept[-1])

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
    for connection in kept:
        connection.close()


def test_an_address_that_is_not_ray_is_reported_in_time(not_ray: str) -> None:
    began = time.monotonic()
    with pytest.raises(WorkersUnavailable, match=not_ray):
        RayWorkers(factory(), not_ray, timeouts=RayTimeouts(connect=10.0))
    assert time.monotonic() - began < AT_ONCE + 10


def test_a_cancel_works_while_an_address_is_tried(not_ray: str) -> None:
    asked = list[float]()

    def cancelled() -> bool:
        asked.append(time.monotonic())
        return len(asked) > 3

    with contextlib.suppress(WorkersUnavailable):  # some are found out before the cancel
        with pytest.raises(Cancelled):
            RayWorkers(factory(), not_ray, timeouts=BUSY, cancelled=cancelled)
    assert time.monotonic() - asked[0] < AT_ONCE
