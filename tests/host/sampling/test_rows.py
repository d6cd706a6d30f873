"""Several rows in one model call on one device: near KSampler's picture, only where that is asked for and gains, and
never where the host or a patch would take one sigma for all rows. What a call takes is told by a test node.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
from client import Run
from graphs import Graph, Node, RunGraph, demo, empty_latent, settings
from torch import Tensor

STEPS = 20
FREE = {1: 1.0, 2: 1.0, 4: 1.0}
AS_LONG_AS_CALLS = {1: 1.0, 2: 2.0}
NEAR = 0.03
"""Three times the tolerance of `near`: the 90th percentile is about twice the tolerance."""

SALTS = count(1)  # the host does not run again what it has run

Change = Callable[[Graph, dict[str, Any]], None]


def sampling(
    graph: Graph, change: Change, seconds: dict[int, float], sampler: str = "euler", fails_from: int = 0
) -> dict[str, Any]:
    """The inputs of a KSampler with the demo model, of which calls of several rows are known to take so long."""
    inputs = demo(graph) | settings(sampler, steps=STEPS) | {"latent_image": empty_latent(graph)}
    change(graph, inputs)
    told = {"seconds": json.dumps(seconds), "shape": json.dumps([BATCHES.get(change, 1), 16, 16, 16])}
    inputs["model"] = graph.add(
        "TestRowTimes", model=inputs["model"], cfg=inputs["cfg"], fails_from=fails_from, salt=next(SALTS), **told
    )
    return inputs


def summary(run: Run, node: Node) -> dict[str, Any]:
    found: dict[str, Any] = run.outputs[node.name]["chords"][0]
    return found


def difference(found: Tensor, wanted: Tensor) -> float:
    """Relative RMS, of the item where it is largest."""
    items = zip(found, wanted, strict=True)
    return max(float((one - other).norm() / other.norm()) for one, other in items)


def plain(graph: Graph, inputs: dict[str, Any]) -> None:
    pass


def unguided(graph: Graph, inputs: dict[str, Any]) -> None:
    inputs["cfg"] = 1.0


def batch_of_three(graph: Graph, inputs: dict[str, Any]) -> None:
    inputs["latent_image"] = empty_latent(graph, 3)


def _picture(graph: Graph) -> Node:
    return graph.add("KSampler", **demo(graph), **settings(seed=3, steps=8), latent_image=empty_latent(graph))


def image_to_image(graph: Graph, inputs: dict[str, Any]) -> None:
    inputs |= {"latent_image": _picture(graph), "denoise": 0.7}


def masked(graph: Graph, inputs: dict[str, Any]) -> None:
    mask = graph.add("SolidMask", value=1.0, width=128, height=64)
    empty = graph.add("SolidMask", value=0.0, width=128, height=128)
    half = graph.add("MaskComposite", destination=empty, source=mask, x=0, y=0, operation="add")
    inputs["latent_image"] = graph.add("SetLatentNoiseMask", samples=_picture(graph), mask=half)


def a_batch_with_a_mask(graph: Graph, inputs: dict[str, Any]) -> None:
    masked(graph, inputs)
    inputs["latent_image"] = graph.add("RepeatLatentBatch", samples=inputs["latent_image"], amount=3)


def an_area_and_a_masked_prompt(graph: Graph, inputs: dict[str, Any]) -> None:
    area = graph.add(
        "ConditioningSetAreaPercentage",
        conditioning=inputs["positive"],
        width=0.5,
        height=1.0,
        x=0.0,
        y=0.0,
        strength=1.0,
    )
    other = graph.add("ChordsDemoPrompt", text="a big green star on the right, blue background")
    mask = graph.add("SolidMask", value=0.7, width=128, height=128)
    second = graph.add("ConditioningSetMask", conditioning=other, mask=mask, strength=0.8, set_cond_area="default")
    inputs["positive"] = graph.add("ConditioningCombine", conditioning_1=area, conditioning_2=second)


def rescaled(graph: Graph, inputs: dict[str, Any]) -> None:
    """A patch that computes with the sigma of each item."""
    inputs["model"] = graph.add("RescaleCFG", model=inputs["model"], multiplier=0.7)


BATCHES = {batch_of_three: 3, a_batch_with_a_mask: 3}


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
@pytest.mark.parametrize(
    "change",
    [
        plain,
        unguided,
        image_to_image,
        batch_of_three,
        masked,
        a_batch_with_a_mask,
        an_area_and_a_masked_prompt,
        rescaled,
    ],
)
def test_rows_give_what_the_same_window_gives_with_calls_of_its_own(
    run_graph: RunGraph, change: Change, sampler: str
) -> None:
    """Apart from rounding; and so they are near KSampler's picture."""
    graph = Graph()
    inputs = sampling(graph, change, FREE, sampler)
    graph.save("stock", graph.add("KSampler", **inputs))
    ours = graph.add("ChordsKSampler", **inputs, fidelity="near")
    graph.save("rows", ours)
    run, latents = run_graph(graph)
    found = summary(run, ours)
    assert found["rows"] == found["cores"] > 1, found["message"]
    assert f"{found['rows']} rows in one call on cpu" in found["message"]
    assert found["depth"] < min(STEPS, found["evaluations"])
    graph = Graph()
    inputs = sampling(graph, change, FREE, sampler)
    window = graph.add("ChordsKSampler", **inputs, fidelity="near", cores=found["cores"])
    graph.save("window", window)
    run, expected = run_graph(graph)
    assert (summary(run, window)["rows"], summary(run, window)["depth"]) == (1, found["depth"])
    assert difference(latents["rows"], expected["window"]) < 1e-3
    assert difference(latents["rows"], latents["stock"]) < NEAR
