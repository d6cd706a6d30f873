"""A Ray of several nodes that others started: one node goes in the middle of a run, and a new one comes."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from chords_core import Evaluated, Event, LaneLost, RayWorkers, Result, WorkersUnavailable, ray_pool, sample

sys.path.append(str(Path(__file__).parent))

from workers import factory, inline, remote

TEN_MOMENTS = (1, 2, 4, 8, 10, 13, 17, 20, 24, 28)  # evaluations after which a node is removed
SIGMAS = torch.cat([torch.linspace(8.0, 0.5, 16), torch.zeros(1)])
ENOUGH_SECONDS = 60.0


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two nodes of one core each. The head is node 0."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


def _noise() -> Tensor:
    return 8 * torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("moments", [(8,), pytest.param(TEN_MOMENTS, marks=pytest.mark.slow)], ids=["once", "ten"])
def test_a_removed_node_costs_time_only_and_another_takes_its_place(
    cluster: Any, moments: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_pool, "_PLACE_SECONDS", 45.0)  # a busy machine may need some to start a node's worker
    x = _noise()
    expected = sample(inline(), x, SIGMAS, cores=4, accept="exact")
    with RayWorkers(factory(), cluster.address, count=2) as workers:
        losses = list[int]()
        for moment in moments:
            assert workers.lanes == 2
            result, events = _sampled_without_the_second_node(cluster, workers, x, moment)
            losses.append(sum(isinstance(event, LaneLost) for event in events))
            assert torch.equal(result.x, expected.x)
            _wait_until(lambda: workers.lanes == 1)  # Ray takes its time to see that a node is gone
            if moment == moments[0]:
                with workers.open(remote(), 2) as pool:
                    assert pool.lanes == 1
                    assert torch.equal(sample(None, x, SIGMAS, cores=4, accept="exact", pool=pool).x, expected.x)
            cluster.add_node(num_cpus=1)
            cluster.wait_for_nodes()
        assert set(losses) <= {0, 1} and 1 in losses  # 0: nobody had to wait for what the node was at
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
    """A run on two nodes, one of which is gone after so many evaluations."""
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


def test_a_core_that_others_use_is_done_without_until_it_is_free(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    @ray.remote(num_cpus=1)
    class Other:
        def here(self) -> None:
            pass

    monkeypatch.setattr(ray_pool, "_PLACE_SECONDS", 2.0)
    monkeypatch.setattr(ray_pool, "_NO_PLACE_SECONDS", 8.0)
    x = _noise()
    expected = sample(inline(), x, SIGMAS, cores=4).x
    with RayWorkers(factory(), cluster.address, count=2) as workers:
        other = Other.remote()
        ray.get(other.here.remote())
        for _ in range(2):
            with workers.open(remote(), 2) as pool:
                assert pool.lanes == 1 and len(pool.left_out) == 1
                assert torch.equal(sample(None, x, SIGMAS, cores=4, pool=pool).x, expected)
        ray.kill(other)
        monkeypatch.setattr(ray_pool, "_PLACE_SECONDS", 30.0)
        with workers.open(remote(), 2) as pool:
            assert pool.lanes == 2 and not pool.left_out
            assert torch.equal(sample(None, x, SIGMAS, cores=4, pool=pool).x, expected)


def test_a_ray_that_others_started_goes_on_after_close(cluster: Any) -> None:
    import ray

    x = torch.ones(2, 2)
    for _ in range(2):  # the second time, it has to be there still, and its cores free
        with RayWorkers(factory(), cluster.address, count=2) as workers, workers.open(remote(), 2) as pool:
            assert pool.lanes == 2
            assert sample(None, x, SIGMAS, cores=4, pool=pool).x.shape == x.shape
        assert not ray.is_initialized()
    assert len(cluster.list_all_nodes()) == 2
    assert all(node.remaining_processes_alive() for node in cluster.list_all_nodes())


def test_a_ray_of_our_own_ends_with_us() -> None:
    import psutil
    import ray

    workers = RayWorkers(factory(), count=1)
    children = psutil.Process(os.getpid()).children(recursive=True)
    assert any("raylet" in child.name() for child in children)
    workers.close()
    assert not ray.is_initialized()
    gone, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
    workers.close()


@pytest.mark.parametrize("used_since", [True, False])
def test_a_ray_that_someone_else_has_started_since_goes_on(used_since: bool) -> None:
    """Another program in this process ends the Ray that was started here, and starts one of its own."""
    import ray

    x = _noise()
    expected = sample(inline(), x, SIGMAS, cores=4).x
    workers = RayWorkers(factory(), count=1)
    with workers.open(remote(), 1) as pool:
        assert torch.equal(sample(None, x, SIGMAS, cores=4, pool=pool).x, expected)
    ray.shutdown()
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        theirs = ray.put("theirs")
        if used_since:
            with workers.open(remote(), 1) as pool:
                assert torch.equal(sample(None, x, SIGMAS, cores=4, pool=pool).x, expected)
        workers.close()
        assert ray.is_initialized() and ray.get(theirs) == "theirs"
    finally:
        ray.shutdown()


def test_a_connection_that_someone_else_ends_is_a_loss_of_all_workers() -> None:
    """And no other Ray is started in its place, as Ray would by itself."""
    import ray

    def end_it(event: Event) -> None:
        if isinstance(event, Evaluated):
            ray.shutdown()

    with RayWorkers(factory(), count=1) as workers:
        with pytest.raises(WorkersUnavailable, match="ended by someone else"), workers.open(remote(), 1) as pool:
            sample(None, _noise(), SIGMAS, cores=4, pool=pool, on_event=end_it)
        assert not ray.is_initialized()


def test_an_address_where_nothing_listens_is_told_at_once() -> None:
    began = time.monotonic()
    with pytest.raises(WorkersUnavailable, match="nothing answers at ray://127.0.0.1:9"):
        RayWorkers(factory(), "ray://127.0.0.1:9")
    assert time.monotonic() - began < 10
