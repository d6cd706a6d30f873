"""The text on a node: to the client as an event, and kept for each workflow until the node's next text."""

from __future__ import annotations

import itertools
import json
import uuid
from typing import Any

import pytest
import websocket
from client import ComfyClient, HttpError
from graphs import Graph, Node, demo, empty_latent, settings

SEEDS = itertools.count(5000)  # the host does not repeat a run that it knows
TEXT = 3  # the number of the host's binary messages with a progress text


def _graph() -> tuple[Graph, Node]:
    graph = Graph()
    sampler = graph.add(
        "ChordsKSampler",
        **demo(graph),
        **settings(steps=3, seed=next(SEEDS)),
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
        assert [shown["text"]] == run.outputs[sampler.name]["text"]
        assert [each["number"] for each in sent] == sorted({each["number"] for each in sent})


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
