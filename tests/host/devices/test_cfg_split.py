"""Two devices that share each guided call: the same picture apart from rounding, with one core and with several."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from client import ComfyClient
from graphs import Graph, Node, demo, empty_latent, settings, threads_of_runs

HANG_SECONDS = 120.0  # for a run in which a device hangs that has five seconds to answer
_SALTS = itertools.count(7100)
ROUNDING = 1e-4  # of the latent's norm, over some twelve steps in single precision


def _devices(graph: Graph, lanes: int, split: str) -> Node:
    return graph.add("ChordsDevices", cpu_lanes=lanes, split=split)


def _pair(run_graph, lanes: int, solver: str = "euler", **changes: Any) -> tuple[dict[str, Any], torch.Tensor, Any]:
    """The record of a run with guidance split over two devices a lane, its latent, and the latent of one not split."""
    graph = Graph()
    inputs = demo(graph) | settings(solver) | {"latent_image": empty_latent(graph)}
    given = {**inputs, **changes}
    given = {key: value(graph, inputs) if callable(value) else value for key, value in given.items()}
    split = graph.add("ChordsKSampler", **given, devices=_devices(graph, lanes, "guidance"))
    graph.save("split", split)
    graph.save("whole", graph.add("ChordsKSampler", **given, devices=_devices(graph, 1, "off")))
    run, latents = run_graph(graph)
    return run.outputs[split.name]["chords"][0], latents["split"], latents["whole"]


def _error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m", "euler_ancestral"])
def test_one_core_on_two_devices(run_graph, solver: str) -> None:
    summary, split, whole = _pair(run_graph, 2, solver)
    assert summary["cores"] == 1
    assert summary["devices"] == ["cpu+cpu:1"]
    assert "share each guided call" in summary["message"]
    assert _error(split, whole) < ROUNDING


def test_four_cores_of_two_devices_each(run_graph) -> None:
    summary, split, whole = _pair(run_graph, 8, cores=4, accept="first")
    assert summary["cores"] == 4
    assert summary["devices"] == ["cpu+cpu:1", "cpu:2+cpu:3", "cpu:4+cpu:5", "cpu:6+cpu:7"]
    assert _error(split, whole) < ROUNDING


def test_regional_prompts_masks_and_a_lora(run_graph) -> None:
    def two_prompts(graph: Graph, inputs: dict[str, Any]) -> Node:
        left = graph.add("ConditioningSetAreaPercentage", conditioning=inputs["positive"], **area)
        right = graph.add("ChordsDemoPrompt", text="a big green star on the right, blue background")
        return graph.add("ConditioningCombine", conditioning_1=left, conditioning_2=right)

    def with_lora(graph: Graph, inputs: dict[str, Any]) -> Node:
        lora = {"lora_name": "tiny_lora.safetensors", "strength_model": 0.7}
        return graph.add("LoraLoaderModelOnly", model=inputs["model"], **lora)

    area = {"width": 0.5, "height": 1.0, "x": 0.0, "y": 0.0, "strength": 1.0}
    summary, split, whole = _pair(run_graph, 2, positive=two_prompts, model=with_lora)
    assert summary["devices"] == ["cpu+cpu:1"]
    assert _error(split, whole) < ROUNDING


@pytest.mark.parametrize(
    ("changes", "lanes"),
    [({"cfg": 1.0, "cores": 1}, 2), ({"cores": 2, "accept": "first"}, 2)],
    ids=["no guidance", "a core for each device"],
)
def test_nothing_is_split_where_that_brings_nothing(run_graph, changes: dict[str, Any], lanes: int) -> None:
    summary, split, whole = _pair(run_graph, lanes, **changes)
    assert not any("+" in device for device in summary["devices"])
    assert torch.equal(split, whole)


def test_patches_that_keep_state_are_not_split(run_graph) -> None:
    def apg(graph: Graph, inputs: dict[str, Any]) -> Node:
        return graph.add("APG", model=inputs["model"], eta=1.0, norm_threshold=5.0, momentum=-0.5)

    summary, split, whole = _pair(run_graph, 2, model=apg)
    assert summary["devices"] == ["cpu"]
    assert torch.equal(split, whole)


@pytest.mark.parametrize("lanes", [2, 8])
@pytest.mark.parametrize("device", ["cpu", "cpu:1"])
def test_a_device_that_fails_costs_time_only(run_graph, lanes: int, device: str) -> None:
    """The call is made again by the lane's own device, and so are all later ones of that lane."""

    def failing(graph: Graph, inputs: dict[str, Any]) -> Node:
        return graph.add("TestFailingDevice", model=inputs["model"], device=device)

    changes = {"cores": 4, "accept": "first"} if lanes == 8 else {}
    summary, split, whole = _pair(run_graph, lanes, model=failing, **changes)
    assert _error(split, whole) < ROUNDING
    assert len(summary["lost_lanes"]) == 1 and "lost a device" in summary["message"]


@pytest.fixture
def device_is_back(client: ComfyClient) -> Iterator[Callable[[], tuple[int, int]]]:
    """Ends the hanging call; the threads of devices that there were then, and that are left. Also after the test."""

    def back() -> tuple[int, int]:
        graph = Graph()
        node = graph.add("TestDeviceIsBack", salt=next(_SALTS))
        found = client.run(graph.nodes).outputs[node.name]
        return found["hung"][0], found["left"][0]

    yield back
    back()


@pytest.mark.parametrize("lanes", [2, 8])
@pytest.mark.parametrize("device", ["cpu", "cpu:1"])
def test_a_device_that_hangs_costs_time_only(run_graph, device_is_back, lanes: int, device: str) -> None:
    """As one that fails. It has no part in the next run, and one in the run after that, when it is back; no thread is
    left."""

    def hanging(graph: Graph, inputs: dict[str, Any]) -> Node:
        return graph.add("TestHangingDevice", model=inputs["model"], device=device)

    changes = {"cores": 4, "accept": "first"} if lanes == 8 else {}
    began = time.monotonic()
    summary, split, whole = _pair(run_graph, lanes, model=hanging, seed=next(_SALTS), **changes)
    assert time.monotonic() - began < HANG_SECONDS
    assert _error(split, whole) < ROUNDING
    assert len(summary["lost_lanes"]) == 1 and "lost a device" in summary["message"]

    if device != "cpu":  # the model's own device has no substitute
        summary, *_ = _pair(run_graph, lanes, seed=next(_SALTS), **changes)
        assert not any("cpu:1" in name.split("+") for name in summary["devices"])

    hung, left = device_is_back()
    assert hung == 1 and left == 0
    summary, split, whole = _pair(run_graph, lanes, seed=next(_SALTS), **changes)
    assert len(summary["devices"]) == lanes // 2 and all("+" in name for name in summary["devices"])
    assert _error(split, whole) < ROUNDING


def test_one_core_is_not_split_with_a_device_short_of_memory(run_graph) -> None:
    def short(graph: Graph, inputs: dict[str, Any]) -> Node:
        loaded = graph.add("UNETLoader", unet_name="demo_copy.safetensors", weight_dtype="default")
        return graph.add("TestShortOfMemory", model=loaded, device="cpu:1")

    summary, split, whole = _pair(run_graph, 2, model=short)
    assert summary["devices"] == ["cpu"]
    assert "too little memory" in summary["message"]
    assert torch.equal(split, whole)


def test_no_threads_are_left(run_graph, client: ComfyClient) -> None:
    def threads(salt: int) -> list[str]:
        graph = Graph()
        node = graph.add("TestThreads", salt=salt)
        return client.run(graph.nodes).outputs[node.name]["threads"]

    for seed in range(92, 96):
        _pair(run_graph, 8, cores=4, accept="first", seed=seed)
    left = threads(9002)  # among others, which serve requests and come when they are needed
    assert not threads_of_runs(left) and not any("_worker_loop" in name for name in left)
