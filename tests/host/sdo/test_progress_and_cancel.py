"""What a search tells while it runs, and its result when it is accepted or cancelled."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from client import ComfyClient, Interrupted
from graphs import Graph
from searches import SEEDS, figures_of, optimizer


def test_progress_pictures_and_figures(client: ComfyClient) -> None:
    graph = Graph()
    node = optimizer(graph, iterations=5)
    run = client.run(graph.nodes)
    told = [event for event in run.of_kind("chords") if event["node_id"] == node.name]
    assert [event["iteration"] for event in told if event["kind"] == "iteration"] == [1, 2, 3, 4, 5]
    assert told[-1]["kind"] == "done"
    assert told[-1]["status"] == "success"
    assert any(preview.node_id == node.name for preview in run.previews)
    figures = figures_of(run, node)
    (text,) = [output["text"] for output in run.outputs.values() if "text" in output and output["text"][0][0] == "{"]
    assert json.loads(text[0]) == figures
    assert len(figures["history"]) == len(figures["sampled"]) == 5
    assert figures["sampled"] == [True, False, True, False, True]


def test_accept_takes_the_best_so_far(client: ComfyClient) -> None:
    graph = Graph()
    node = optimizer(graph, iterations=500, patience=0)

    def accept(kind: str, data: dict[str, Any]) -> None:
        if kind == "chords" and data["kind"] == "iteration" and data["iteration"] == 6:
            client.accept(data["prompt_id"])

    run = client.run(graph.nodes, on_event=accept)
    figures = figures_of(run, node)
    assert len(figures["history"]) < 500
    assert "accepted" in figures["stopped"]
    assert figures["objective"]["best"][0] < figures["objective"]["first"][0]


def _cancelling(client: ComfyClient, iteration: int) -> Callable[[str, dict[str, Any]], None]:
    """A listener that cancels the run when this iteration is told."""

    def listen(kind: str, data: dict[str, Any]) -> None:
        if kind == "chords" and data["kind"] == "iteration" and data["iteration"] == iteration:
            client.interrupt()

    return listen


def _cancelled(client: ComfyClient, graph: Graph, iteration: int = 3) -> None:
    """Run the graph and cancel it at this iteration."""
    with pytest.raises(Interrupted):
        client.run(graph.nodes, on_event=_cancelling(client, iteration))


def test_a_cancelled_search_can_leave_its_best_to_the_next_run(client: ComfyClient) -> None:
    graph = Graph()
    node = optimizer(graph, iterations=500, patience=0, when_cancelled="keep the best")
    _cancelled(client, graph, iteration=5)
    figures = figures_of(client.run(graph.nodes), node)
    assert 5 <= len(figures["history"]) < 500
    assert "cancelled" in figures["stopped"]
    assert figures["objective"]["best"][0] < figures["objective"]["first"][0]


def test_a_cancelled_search_is_forgotten_unless_asked_for(client: ComfyClient) -> None:
    graph = Graph()
    optimizer(graph, iterations=500, patience=0, when_cancelled="forget")
    _cancelled(client, graph, iteration=5)
    _cancelled(client, graph, iteration=1)  # the next run begins a search of its own


def test_a_cancelled_search_is_not_the_result_for_other_inputs(client: ComfyClient) -> None:
    graph = Graph()
    node = optimizer(graph, iterations=500, patience=0, when_cancelled="keep the best")
    _cancelled(client, graph)
    graph.nodes[node.name]["inputs"] |= {"iterations": 3, "lr": 0.04}
    figures = figures_of(client.run(graph.nodes), node)
    assert len(figures["history"]) == 3


@pytest.mark.parametrize("changed", ["patch", "prompt"])
def test_a_cancelled_search_is_not_the_result_for_another_model_or_prompt(client: ComfyClient, changed: str) -> None:
    graph = Graph()
    node = optimizer(graph, iterations=500, patience=0, when_cancelled="keep the best")
    _cancelled(client, graph)
    inputs = graph.nodes[node.name]["inputs"]
    if changed == "patch":
        inputs["model"] = graph.add("TestOtherPatch", model=inputs["model"], scale=0.9, detach=False)[0]
    else:
        end = graph.add("ConditioningSetTimestepRange", conditioning=inputs["positive"], start=0.0, end=0.9)
        inputs["positive"] = end[0]
    _cancelled(client, graph, iteration=1)  # a search of its own


def test_a_cancel_while_the_best_is_sampled_keeps_it_too(client: ComfyClient) -> None:
    graph = Graph()
    cancelling = {"model": lambda graph: graph.add("TestCancelsStockSampling", model=["1", 0], salt=next(SEEDS))}
    node = optimizer(graph, iterations=3, when_cancelled="keep the best", **cancelling)
    with pytest.raises(Interrupted):
        client.run(graph.nodes)
    run = client.run(graph.nodes)
    figures = figures_of(run, node)
    assert not [event for event in run.of_kind("chords") if event["kind"] == "iteration"]
    assert len(figures["history"]) == 3
    assert figures["objective"]["best"][0] < figures["objective"]["first"][0]
