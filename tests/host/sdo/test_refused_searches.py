"""Searches that cannot work are refused by the input's name; values that break on the way are rolled back."""

from __future__ import annotations

from typing import Any

import pytest
from client import ExecutionError
from graphs import Graph, Node
from searches import figures_of, optimizer, small_latent


def test_a_value_that_breaks_is_rolled_back_and_told(client) -> None:
    graph = Graph()
    node = optimizer(graph, objective=lambda graph: graph.add("TestOddObjective", kind="nan later"), iterations=6)
    figures = figures_of(client.run(graph.nodes), node)
    (mark,) = figures["marks"]
    assert "NaN" in mark["text"]
    assert None in [values[0] for values in figures["history"]]
    assert figures["objective"]["best"][0] <= figures["objective"]["first"][0] * (1 + 1e-4)  # apart from rounding


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("detached", "not differentiable"),
        ("one value", "one value an item"),
        ("nan", "at the initial noise"),
    ],
)
def test_objectives_that_cannot_work_are_refused(client, kind: str, said: str) -> None:
    graph = Graph()
    optimizer(graph, objective=lambda graph: graph.add("TestOddObjective", kind=kind))
    with pytest.raises(ExecutionError, match=said):
        client.run(graph.nodes)


def test_what_cannot_be_searched_is_refused_before_a_model_call(client) -> None:
    def refused(match: str, **changes: Any) -> None:
        graph = Graph()
        optimizer(graph, **changes)
        with pytest.raises(ExecutionError, match=match):
            client.run(graph.nodes)

    def masked(graph: Graph) -> Node:
        mask = graph.add("SolidMask", value=1.0, width=128, height=128)
        return graph.add("SetLatentNoiseMask", samples=small_latent(graph), mask=mask)

    refused("latent.*mask", latent=masked)
    refused("denoise.*no step", denoise=0.0)
    refused(
        "model: .*out of order.*step to step; remove EasyCache",
        model=lambda graph: graph.add("EasyCache", **_easy_cache(graph)),
    )

    def two_prompts(graph: Graph) -> Node:
        parts = [graph.add("ChordsDemoPrompt", text=text) for text in ("a big red circle", "a small blue star")]
        return graph.add("ConditioningCombine", conditioning_1=parts[0], conditioning_2=parts[1])

    refused("model: .*quantised", model=lambda graph: graph.add("TestQuantised", model=_own_copy(graph)))
    detached = {"scale": 1.0, "detach": True}
    refused("model: .*no gradient", model=lambda graph: graph.add("TestOtherPatch", model=["1", 0], **detached))
    refused("candidates.*set it to 1", candidates=3, optimize="positive prompt")
    refused("positive.*2 parts", positive=two_prompts, optimize="positive prompt")


def _own_copy(graph: Graph) -> Node:
    return graph.add("UNETLoader", unet_name="demo_copy.safetensors", weight_dtype="fp8_e5m2")


def _easy_cache(graph: Graph) -> dict[str, Any]:
    settings = {"reuse_threshold": 0.2, "start_percent": 0.15, "end_percent": 0.95, "verbose": False}
    return {"model": graph.add("ChordsDemoModel")[0], **settings}


def test_an_objective_of_pictures_needs_a_vae(client) -> None:
    graph = Graph()
    node = optimizer(graph)
    del graph.nodes[node.name]["inputs"]["vae"]
    with pytest.raises(ExecutionError, match="vae.*connect"):
        client.run(graph.nodes)
