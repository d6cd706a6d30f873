"""A Ray of several nodes that others started: one node goes in the middle of a run, and a new one comes."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from chords_core import Evaluated, Event, LaneLost, RayWorkers, WorkersUnavailable, sample

sys.path.append(str(Path(__file__).parent))

from workers import factory, inline, remote

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


def test_a_removed_node_costs_time_only_and_another_takes_its_place(cluster: Any) -> None:
    x = 8 * torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(1))
    expected = sample(inline(), x, SIGMAS, cores=4, accept="exact")
    with RayWorkers(factory(), cluster.address, count=2) as workers:
        assert workers.lanes == 2
        events = list[Event]()

        def remove_in_between(event: Event) -> None:
            events.append(event)
            if isinstance(event, Evaluated) and sum(isinstance(seen, Evaluated) for seen in events) == 8:
                (other,) = (node for node in cluster.list_all_nodes() if node is not cluster.head_node)
                cluster.remove_node(other, allow_graceful=False)

        began = time.monotonic()
        with workers.open(remote(0.05), 2) as pool:
            assert pool.lanes == 2
            result = sample(None, x, SIGMAS, cores=4, accept="exact", pool=pool, on_event=remove_in_between)
        assert time.monotonic() - began < ENOUGH_SECONDS
        assert len([event for event in events if isinstance(event, LaneLost)]) == 1
        assert torch.equal(result.x, expected.x)

        with workers.open(remote(), 2) as pool:
            assert pool.lanes == 1
            assert torch.equal(sample(None, x, SIGMAS, cores=4, accept="exact", pool=pool).x, expected.x)

        cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        with workers.open(remote(), 2) as pool:
            assert pool.lanes == 2
            assert torch.equal(sample(None, x, SIGMAS, cores=4, accept="exact", pool=pool).x, expected.x)


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


def test_an_address_where_nothing_listens_is_told_at_once() -> None:
    began = time.monotonic()
    with pytest.raises(WorkersUnavailable, match="nothing answers at ray://127.0.0.1:9"):
        RayWorkers(factory(), "ray://127.0.0.1:9")
    assert time.monotonic() - began < 10
