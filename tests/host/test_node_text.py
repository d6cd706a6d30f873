"""The text on a node: to the client as an event, and kept for each workflow until the node's next text."""

from __future__ import annotations

import itertools
import json
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
import websocket
from _env import venv_python
from _server import ComfyServer
from client import ComfyClient, ExecutionError, HttpError, Interrupted
from graphs import Graph, Node, demo, empty_latent, settings
from searches import VAE, optimizer

SEEDS = itertools.count(5000)  # the host does not repeat a run that it knows
TEXT = 3  # the number of the host's binary messages with a progress text


def _graph(steps: int = 3, **inputs: Any) -> tuple[Graph, Node]:
    graph = Graph()
    sampler = graph.add(
        "ChordsKSampler",
        **demo(graph),
        **settings(steps=steps, seed=next(SEEDS)),
        **inputs,
        latent_image=empty_latent(graph),
    )
    graph.save("latent", sampler)
    return graph, sampler


def _from_page(workflow_id: object) -> dict[str, Any]:
    """What a page adds to a prompt."""
    return {"extra_data": {"extra_pnginfo": {"workflow": {"id": workflow_id}}}}


def _kept(client: ComfyClient, workflow_id: str) -> list[dict[str, Any]]:
    return client.get_json(f"/chords/texts/{workflow_id}")["texts"]


def test_the_newest_text_of_a_node_is_sent_and_kept(client: ComfyClient) -> None:
    workflow = str(uuid.uuid4())
    for _ in range(2):
        graph, sampler = _graph()
        run = client.run(graph.nodes, extra=_from_page(workflow))
        sent = run.of_kind("chords_text")
        assert {(each["prompt_id"], each["node_id"]) for each in sent} == {(run.prompt_id, sampler.name)}
        (shown,) = _kept(client, workflow)  # one for the node, not one for each run
        assert {"prompt_id": run.prompt_id, **shown} == sent[-1]
        assert shown["class_type"] == "ChordsKSampler"
        assert [shown["text"]] == run.outputs[sampler.name]["text"]
        ((title, values), (same, _)), (where, *_) = shown["card"]["title"], shown["card"]["detail"]
        assert (title, values, same) == ("{count} steps", {"count": 3}, "as in KSampler")
        assert where == ["one core on {devices}", {"devices": "cpu"}]
        assert [each["number"] for each in sent] == sorted({each["number"] for each in sent})


def test_a_node_whose_result_the_host_had_has_the_text_of_that_result(comfy_host: Path) -> None:
    """Not the text of the run after it. A host with much memory, or with this option, keeps several results."""
    arguments = ["--cache-lru", "100"]
    with ComfyServer(comfy_host, threads=1, cpu=True, python=str(venv_python()), arguments=arguments) as server:
        client, workflow = server.client(), str(uuid.uuid4())
        graph, sampler = _graph()
        graph.nodes[sampler.name]["inputs"]["seed"] = 1

        def card(steps: int) -> dict[str, Any]:
            graph.nodes[sampler.name]["inputs"]["steps"] = steps
            client.run(graph.nodes, extra=_from_page(workflow))
            (shown,) = _kept(client, workflow)
            numbers.append(shown["number"])
            return shown["card"]

        numbers: list[int] = []
        three, four = card(3), card(4)
        assert three != four and card(3) == three and card(4) == four
        assert numbers[0] < numbers[1] == numbers[2] == numbers[3]  # a page takes what is not older
        assert card(5) not in (three, four) and card(3) == three


def test_a_prompt_without_a_workflow_is_told_and_nothing_is_kept(client: ComfyClient) -> None:
    """The prompts of other programs have any content here, or none."""
    for extra in ({}, {"extra_data": {"extra_pnginfo": {"workflow": ["id"]}}}, _from_page(7)):
        graph, sampler = _graph()
        run = client.run(graph.nodes, extra=extra)
        (text,) = run.outputs[sampler.name]["text"]
        assert run.of_kind("chords_text")[-1]["text"] == text
        assert run.of_kind("chords_text")[-1]["workflow_id"] is None
    assert _kept(client, "None") == _kept(client, "7") == _kept(client, str(uuid.uuid4())) == []
    with pytest.raises(HttpError):
        client.get_json("/chords/texts/")


def test_a_number_is_higher_than_those_of_the_server_before_a_restart(client: ComfyClient) -> None:
    """A page that stays open over a restart would take the new texts for older ones."""
    before = time.time() - 3600
    graph, _ = _graph()
    number = client.run(graph.nodes).of_kind("chords_text")[0]["number"]
    assert before * 1000 < number < 2**53  # JavaScript's whole numbers


def test_a_node_that_was_cancelled_does_not_look_as_if_it_still_ran(client: ComfyClient) -> None:
    workflow = str(uuid.uuid4())

    def cancel(kind: str, data: dict[str, Any]) -> None:
        if kind == "chords" and data["kind"] == "plan":
            client.interrupt(data["prompt_id"])

    graph, sampler = _graph()
    inputs = graph.nodes[sampler.name]["inputs"]
    inputs["model"] = graph.add("TestHeldModel", model=inputs["model"], results=0, calls=1, salt=next(SEEDS))[0]
    with pytest.raises(Interrupted):
        client.run(graph.nodes, extra=_from_page(workflow), on_event=cancel)
    client.post("/chords_test/let_go", {})  # lanes have their usual timeouts again
    assert {text["node_id"]: text["text"] for text in _kept(client, workflow)} == {sampler.name: "cancelled"}


def test_a_node_that_failed_says_so(client: ComfyClient) -> None:
    workflow = str(uuid.uuid4())
    graph, sampler = _graph(steps=12, cores=4)
    inputs = graph.nodes[sampler.name]["inputs"]
    inputs["model"] = graph.add("TestFailingLane", model=inputs["model"], lanes="0,1,2,3", from_call=1)[0]
    with pytest.raises(ExecutionError):
        client.run(graph.nodes, extra=_from_page(workflow))
    (shown,) = _kept(client, workflow)
    assert shown["text"].startswith("failed: ") and "is broken on purpose" in shown["text"]


def test_a_search_and_a_benchmark_that_were_cancelled_say_so(client: ComfyClient) -> None:
    def cancel(kind: str, data: dict[str, Any]) -> None:
        if kind == "chords_text" and data["text"] != "cancelled":
            client.interrupt(data["prompt_id"])

    def search(graph: Graph) -> Node:
        return optimizer(graph, iterations=5000, patience=0)  # so many that it runs when the cancel comes

    def benchmark(graph: Graph) -> Node:
        inputs = {**demo(graph), **settings(seed=next(SEEDS)), "vae": VAE, "latent_image": empty_latent(graph)}
        held = {"results": 0, "calls": 1, "salt": next(SEEDS)}
        inputs["model"] = graph.add("TestHeldModel", model=inputs["model"], **held)
        return graph.add("ChordsBenchmark", **inputs, repeats=2)

    for add in (search, benchmark):
        workflow, graph = str(uuid.uuid4()), Graph()
        node = add(graph)
        with pytest.raises(Interrupted):
            client.run(graph.nodes, extra=_from_page(workflow), on_event=cancel)
        assert {text["node_id"]: text["text"] for text in _kept(client, workflow)} == {node.name: "cancelled"}
    client.post("/chords_test/let_go", {})  # lanes have their usual timeouts again


def test_no_binary_message_has_a_text(client: ComfyClient) -> None:
    """A simple program takes each binary message for a picture."""
    graph, _ = _graph()
    name = uuid.uuid4().hex
    socket = websocket.create_connection(f"{client.url.replace('http', 'ws')}/ws?clientId={name}", timeout=120)
    prompt = client.post("/prompt", {"prompt": graph.nodes, "client_id": name})["prompt_id"]
    texts, kinds = [], []
    while True:
        message = socket.recv()
        if isinstance(message, bytes):
            kinds.append(int.from_bytes(message[:4], "big"))
            continue
        decoded = json.loads(message)
        if decoded["type"] == "chords_text":
            texts.append(decoded["data"])
        if decoded["type"] == "executing" and decoded["data"].get("node") is None:
            break
    socket.close()
    assert texts and texts[-1]["prompt_id"] == prompt
    assert TEXT not in kinds
