"""Diffusion streaming for a headless client: events, pictures, accept, cancel. See docs/headless.md."""

from __future__ import annotations

import io
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comfy_client import HttpError, Preview
from graphs import Graph, Node, demo, lanes, settings, threads_of_runs
from PIL import Image
from safetensors.torch import load_file

DEMO_VAE = ["1", 1]  # the demo's loader is the first node of each graph
CORES = 4
STEPS = 16
ENOUGH_SECONDS = 120.0  # for a busy machine
NOT_HELD = {"results": 1_000_000}  # no run has so many: in a window, each round may call the last step
SEEDS = iter(range(1000, 10_000))  # the host does not repeat a run that it knows, so that each needs another seed
SALTS = iter(range(1000, 10_000))  # for runs that repeat a seed
STEPS_SHOWN = {"extra_data": {"preview_method": "latent2rgb"}}  # on the sampler, where the host's default shows nothing


def _graph(
    seed: int | None = None,
    slow: bool = True,
    salt: int = 1,
    size: int = 128,
    held: dict[str, int] | None = None,
    **changes: Any,
) -> tuple[Graph, Node]:
    """A run to the exact result on four lanes, with a stream preview; ``slow``: each model call takes longer.

    ``held``: it waits after so many ``results`` (the draft does not count) or ``calls``, until `_let_go` or a cancel.
    """
    graph = Graph()
    inputs = demo(graph) | settings(seed=next(SEEDS) if seed is None else seed, steps=STEPS)
    if held is not None:
        held = {"results": 0, "salt": next(SALTS), **held}
        inputs["model"] = graph.add("TestHeldModel", model=inputs["model"], **held)
    elif slow:
        inputs["model"] = graph.add("TestRandomDelay", model=inputs["model"], salt=salt)
    latent = graph.add("EmptyLatentImage", width=size, height=size, batch_size=1)
    inputs |= {"latent_image": latent, "cores": CORES, "accept": "exact", "devices": lanes(graph, CORES)}
    sampler = graph.add("ChordsKSampler", **{**inputs, **changes})
    graph.save("latent", sampler)
    graph.save("hits", graph.add("ChordsStreamPreview", run=sampler[1], vae=DEMO_VAE)[1])
    return graph, sampler


def _saved(server, run, graph: Graph, key: str) -> torch.Tensor:
    (file,) = run.outputs[graph.saved[key]]["latents"]
    return load_file(server.output_directory / file["subfolder"] / file["filename"])["latent_tensor"]


def _previewer(graph: Graph) -> str:
    (name,) = [name for name, node in graph.nodes.items() if node["class_type"] == "ChordsStreamPreview"]
    return name


def _chords(run, kind: str) -> list[dict[str, Any]]:
    return [event for event in run.of_kind("chords") if event["kind"] == kind]


def _post(url: str, data: bytes) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(f"{url}/chords/accept", data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def _accept(client, prompt_id: str, **more: str | int) -> tuple[int, dict[str, Any]]:
    return _post(client.url, json.dumps({"prompt_id": prompt_id, **more}).encode())


def _let_go(client) -> None:
    """The held run goes on to its end."""
    client.post("/chords_test/let_go", {})


def _accept_and_let_go(client, prompt_id: str, **more: str | int) -> tuple[int, dict[str, Any]]:
    answer = _accept(client, prompt_id, **more)
    _let_go(client)
    return answer


def _on_hit(index: int, action: Callable[[str], Any]) -> Callable[[str, dict[str, Any]], None]:
    """Calls ``action`` with the prompt's id when the hit of that index arrives."""

    def listen(kind: str, data: dict[str, Any]) -> None:
        if kind == "chords" and data["kind"] == "hit" and data["index"] == index:
            action(data["prompt_id"])

    return listen


@pytest.fixture(autouse=True)
def _nothing_is_held(client) -> Iterator[None]:
    yield
    _let_go(client)


@dataclass(frozen=True)
class CompleteRun:
    """A run to the end, for several tests. ``order``: kind and index (or node) of what the client received."""

    graph: Graph
    sampler: Node
    seed: int
    run: Any
    order: list[tuple[str, Any]]


@pytest.fixture(scope="module")
def complete(client) -> CompleteRun:
    seed = next(SEEDS)
    graph, sampler = _graph(seed)
    order: list[tuple[str, Any]] = []
    run = client.run(
        graph.nodes,
        extra=STEPS_SHOWN,
        on_event=lambda kind, data: order.append(
            (data["kind"], data.get("index")) if kind == "chords" else (kind, data.get("node"))
        ),
        on_preview=lambda preview: order.append(("preview", preview.node_id)),
    )
    return CompleteRun(graph, sampler, seed, run, order)


def test_plan_hits_and_pictures_arrive_in_order_while_it_runs(complete: CompleteRun) -> None:
    graph, sampler, run, order = complete.graph, complete.sampler, complete.run, complete.order
    events = run.of_kind("chords")
    assert {event["prompt_id"] for event in events} == {run.prompt_id}
    assert {event["node_id"] for event in events} == {sampler.name}
    assert [event["kind"] for event in events if event["kind"] not in ("step", "picture")] == [
        "plan", *["hit"] * (CORES + 1), "accepted", "done",
    ]  # fmt: skip
    (plan,) = _chords(run, "plan")
    assert (plan["method"], plan["steps"], plan["cores"], plan["depth"]) == ("chords", STEPS, CORES, STEPS)
    assert len(plan["devices"]) == CORES
    hits = _chords(run, "hit")
    assert [hit["index"] for hit in hits] == list(range(CORES + 1))
    assert [hit["core"] for hit in hits] == [0, 4, 3, 2, 1]
    assert [hit["depth"] for hit in hits] == sorted(hit["depth"] for hit in hits)
    assert [hit["seconds"] for hit in hits] == sorted(hit["seconds"] for hit in hits)
    assert hits[0]["change"] is None and all(hit["change"] > 0 for hit in hits[1:4])
    assert [picture["index"] for picture in _chords(run, "picture")] == list(range(CORES + 1))
    shown = [preview for preview in run.previews if preview.node_id == _previewer(graph)]
    assert len(shown) == CORES + 1
    assert {preview.metadata["prompt_id"] for preview in run.previews} == {run.prompt_id}
    assert order.index(("picture", CORES)) < order.index(("executing", _previewer(graph)))  # the sampler still runs
    assert [preview.node_id for preview in run.previews].count(sampler.name) >= CORES + 1


def test_pictures_are_those_of_the_hits(client, complete: CompleteRun) -> None:
    """The quick preview of the last hit has the colours of the decoded result."""
    run, graph = complete.run, complete.graph
    quick = client.view(_chords(run, "picture")[-1]["image"])
    full = client.view(run.outputs[_previewer(graph)]["images"][-1])
    small = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB").resize((16, 16)), float) for data in (quick, full)]
    assert np.corrcoef(small[0].ravel(), small[1].ravel())[0, 1] > 0.5
    assert Image.open(io.BytesIO(quick)).size == (512, 512)


def test_the_preview_outputs_every_hit_and_the_best_last(server, complete: CompleteRun) -> None:
    run, graph = complete.run, complete.graph
    hits = _saved(server, run, graph, "hits")
    assert hits.shape[0] == CORES + 1 == len(run.outputs[_previewer(graph)]["images"])
    assert torch.equal(hits[-1:], _saved(server, run, graph, "latent"))
    assert not torch.equal(hits[0], hits[1])


@pytest.mark.parametrize("index", [0, 1, 2])
def test_accept_ends_the_run_with_the_hit_shown(client, server, complete: CompleteRun, index: int) -> None:
    graph, sampler = _graph(complete.seed, held={"results": index})
    answers: list[tuple[int, dict[str, Any]]] = []
    accept = _on_hit(index, lambda prompt: answers.append(_accept_and_let_go(client, prompt)))
    run = client.run(graph.nodes, on_event=accept)
    ((status, answer),) = answers
    (accepted,) = _chords(run, "accepted")
    assert (status, answer["node_id"]) == (200, sampler.name)
    assert accepted["index"] == answer["index"] == index
    assert accepted["by"] == "request"
    latent = _saved(server, run, graph, "latent")
    assert torch.equal(latent, _saved(server, complete.run, complete.graph, "hits")[accepted["index"]][None])
    assert len(_chords(run, "hit")) == index + 1 and accepted["depth"] <= _chords(run, "done")[0]["depth"] < STEPS


@pytest.mark.parametrize(("at", "index"), [(2, 0), (2, 1), (0, 2)])
def test_accept_of_an_index_takes_that_hit(client, server, complete: CompleteRun, at: int, index: int) -> None:
    """An earlier one at once, a later one when it comes; the record ends with it."""
    graph, sampler = _graph(complete.seed, held={"results": at})
    answers: list[tuple[int, dict[str, Any]]] = []
    listen = _on_hit(at, lambda prompt: answers.append(_accept_and_let_go(client, prompt, index=index)))
    run = client.run(graph.nodes, on_event=listen, extra={"extra_data": {"preview_method": "latent2rgb"}})
    assert answers == [(200, {"prompt_id": run.prompt_id, "node_id": sampler.name, "index": index})]
    (accepted,) = _chords(run, "accepted")
    assert (accepted["index"], accepted["by"]) == (index, "request")
    hits = _saved(server, run, graph, "hits")
    assert torch.equal(hits, _saved(server, complete.run, complete.graph, "hits")[: index + 1])
    assert torch.equal(hits[-1:], _saved(server, run, graph, "latent"))
    (record,) = run.outputs[sampler.name]["chords"]
    assert len(record["hits"]) == index + 1
    assert record["depth"] >= max(hit["depth"] for hit in _chords(run, "hit"))  # all calls that were made count
    pictures = [picture["index"] for picture in _chords(run, "picture")]
    by_sampler, by_viewer = (
        [preview.data for preview in run.previews if preview.node_id == name]
        for name in (sampler.name, _previewer(graph))
    )
    assert len(pictures) == len(set(pictures))
    assert by_sampler[-1] == by_viewer[pictures.index(index)]  # the sampler node shows what was taken


@pytest.mark.parametrize(
    "changes",
    [{"cores": cores, "fidelity": fidelity} for cores in (1, CORES) for fidelity in ("near", "fast")],
    ids=lambda changes: f"{changes['fidelity']}, {changes['cores']}",
)
def test_within_a_tolerance_accept_takes_the_newest_result(client, server, changes: dict[str, Any]) -> None:
    """Also on one core, where each call gives one. How far it is from KSampler's picture is not known then."""
    seed = next(SEEDS)
    given = {"seed": seed, "accept": "auto", **changes}
    if changes["cores"] == 1:
        given["devices"] = None  # else devices share the calls
    whole, _ = _graph(held=NOT_HELD, **given)
    complete = client.run(whole.nodes)
    graph, sampler = _graph(held={"calls": 3 * changes["cores"]}, **given)  # three rounds
    run = client.run(graph.nodes, on_event=_on_hit(2, lambda prompt: _accept_and_let_go(client, prompt)))
    (accepted,), (done,), (plan,) = (_chords(run, kind) for kind in ("accepted", "done", "plan"))
    # One core finishes the call that it is at. Either is long before the end.
    assert accepted["by"] == "request" and accepted["index"] in (2, 3) and len(_chords(complete, "hit")) > 5
    hits = _saved(server, complete, whole, "hits")
    assert torch.equal(_saved(server, run, graph, "latent"), hits[accepted["index"]][None])
    assert plan["tolerance"] == {"near": 0.01, "fast": 0.03}[changes["fidelity"]]
    assert done["estimate"] is None
    assert "picture" not in run.outputs[sampler.name]["chords"][0]["message"]
    assert 0 < _chords(complete, "done")[0]["estimate"] < 0.2


def test_accept_before_any_hit_takes_the_first_hit(client) -> None:
    client.run(_graph(held=NOT_HELD)[0].nodes)  # its patch has been tried: the calls of the next run are its own
    graph, _ = _graph(held={"calls": 0})

    def at_plan(kind: str, data: dict[str, Any]) -> None:
        if kind == "chords" and data["kind"] == "plan":
            assert _accept(client, data["prompt_id"], node_id=data["node_id"]) == (
                200, {"prompt_id": data["prompt_id"], "node_id": data["node_id"], "index": None},
            )  # fmt: skip
            _let_go(client)

    run = client.run(graph.nodes, on_event=at_plan)
    assert [hit["index"] for hit in _chords(run, "hit")] == [0]
    assert _chords(run, "done")[0]["status"] == "success"


def test_a_run_that_is_over_or_unknown_cannot_be_accepted(client) -> None:
    graph, sampler = _graph(slow=False)
    run = client.run(graph.nodes)
    status, answer = _accept(client, run.prompt_id)
    assert status == 409 and "over" in answer["error"]
    status, answer = _accept(client, "no such prompt")
    assert status == 404 and "no CHORDS run" in answer["error"]
    status, _ = _accept(client, run.prompt_id, node_id="no such node")
    assert status == 404


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"{}", b'{"prompt_id": 1}', b'{"prompt_id": ""}', b'{"prompt_id": "a", "node_id": 3}',
     b'{"prompt_id": "' + b"a" * 300 + b'"}', b'{"prompt_id": "a", "x": "' + b"a" * 5000 + b'"}', b"\xff\xfe",
     b"[" * 4000, b'{"a":' * 800, b'{"prompt_id": ' + b"[" * 2000 + b"]" * 2000 + b"}", b'{"prompt_id": "\xff"}',
     b'{"prompt_id": "a", "index": -1}', b'{"prompt_id": "a", "index": true}', b'{"prompt_id": "a", "index": "1"}',
     b'{"prompt_id": NaN}', b'{"prompt_id": ' + b"9" * 4000 + b"}", b'{"prompt_id": null}', b'{"prompt_id": ["a"]}',
     b'{"prompt_id": "a", "node_id": {}}', b'{"prompt_id": "a", "node_id": ""}', b'"prompt_id"', b"null", b"\0" * 9],
    ids=range(26),
)  # fmt: skip
def test_bad_accept_bodies_are_refused(client, body: bytes) -> None:
    status, answer = _post(client.url, body)
    assert status == 400 and "prompt_id" in answer["error"]


@pytest.mark.parametrize(
    "headers", [{"Content-Encoding": "deflate"}, {"Content-Encoding": "gzip"}, {"Transfer-Encoding": "chunked"}]
)
def test_a_body_that_contradicts_its_headers_is_refused(client, headers: dict[str, str]) -> None:
    body = b'{"prompt_id": "a"}'
    host, port = client.url.removeprefix("http://").split(":")
    headers = {"Host": host, "Connection": "close", "Content-Type": "application/json", **headers}
    if "Transfer-Encoding" not in headers:
        headers["Content-Length"] = str(len(body))
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with socket.create_connection((host, int(port)), 60) as connection:
        connection.sendall(f"POST /chords/accept HTTP/1.1\r\n{head}\r\n".encode() + body)
        answer = b""
        while part := connection.recv(4096):
            answer += part
    assert answer.split()[1] == b"400", answer


def test_accept_changes_nothing_for_another_prompt(client, server) -> None:
    """A prompt that waits in the queue cannot be accepted, and the accept of another prompt does not change it."""
    graph, _ = _graph(held={"results": 1})
    other, _ = _graph()
    waiting = client.queue(graph.nodes), client.queue(other.nodes)
    _wait_for_hits(client, waiting[0], 2)
    assert _accept(client, waiting[1])[0] == 404
    assert _accept_and_let_go(client, waiting[0])[0] == 200
    for prompt, hits in zip(waiting, (2, CORES + 1), strict=True):
        client.wait(prompt)
        assert len([event for event in client.chords_events(prompt) if event["kind"] == "hit"]) == hits


def _wait_for_hits(client, prompt: str, count: int) -> None:
    """Until a run that is held then has so many hits."""
    end = time.monotonic() + ENOUGH_SECONDS
    while len([event for event in client.chords_events(prompt) if event["kind"] == "hit"]) < count:
        assert time.monotonic() < end and client.history(prompt) is None
        time.sleep(0.02)


def test_polling_gives_the_same_events_and_pictures(client) -> None:
    graph, sampler = _graph(held={"results": 1})
    prompt = client.queue(graph.nodes)
    _wait_for_hits(client, prompt, 2)
    record = client.get_json(f"/chords/runs/{prompt}")
    assert record["running"] and [event["kind"] for event in record["events"]].count("hit") == 2
    _let_go(client)
    client.wait(prompt)
    record = client.get_json(f"/chords/runs/{prompt}")
    assert not record["running"]
    kinds = [event["kind"] for event in record["events"]]
    assert kinds[0] == "plan" and kinds[-1] == "done" and kinds.count("step") == 1
    for event in record["events"]:
        assert (event["prompt_id"], event["node_id"]) == (prompt, sampler.name)
        if event["kind"] == "hit":
            assert event["image"]["type"] == "temp"
            assert client.view(event["image"]).startswith(b"\xff\xd8")


def test_unknown_run_is_404(client) -> None:
    for name in ("nothing", "..%2f..%2fmain.py", "a" * 3000):
        with pytest.raises(HttpError) as error:
            client.get_json(f"/chords/runs/{name}")
        assert error.value.code == 404


def test_two_prompts_in_the_queue_never_mix(client) -> None:
    graphs = [_graph()[0] for _ in range(2)]
    prompts: list[str] = []
    events: list[tuple[str, str]] = []
    with client.socket() as stream:
        prompts += [client.queue(graph.nodes) for graph in graphs]
        while True:
            item = stream.receive(ENOUGH_SECONDS)
            assert item is not None
            if isinstance(item, tuple) and item[0] == "chords":
                events.append((item[1]["prompt_id"], item[1]["kind"]))
            if (
                isinstance(item, tuple)
                and item[0] == "executing"
                and item[1] == {"node": None, "prompt_id": prompts[1]}
            ):
                break
    order = [prompt for prompt, _ in events]
    assert order == sorted(order, key=prompts.index)
    for prompt in prompts:
        kinds = [kind for name, kind in events if name == prompt]
        assert kinds[0] == "plan" and kinds[-1] == "done" and kinds.count("hit") == CORES + 1


def test_clients_see_only_their_own(client, server) -> None:
    other = server.client()
    mine, theirs = _graph()[0], _graph()[0]
    runs: dict[str, Any] = {}
    threads = [
        threading.Thread(target=lambda c=c, g=g: runs.update({c.client_id: c.run(g.nodes)}))
        for c, g in ((client, mine), (other, theirs))
    ]
    received: list[str] = []
    with server.client().socket() as bystander:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        while (item := bystander.receive(0.5)) is not None:
            if isinstance(item, tuple):
                received.append(item[0])
            else:
                received.append("preview")
    assert "chords" not in received and "preview" not in received
    for run in runs.values():
        assert {event["prompt_id"] for event in run.of_kind("chords")} == {run.prompt_id}
        assert len(_chords(run, "hit")) == CORES + 1


def test_without_a_client_id_all_clients_get_the_events(client, server) -> None:
    """The host does the same with progress and previews."""
    graph, _ = _graph(slow=False)
    with client.socket() as stream:
        prompt = server.client().post("/prompt", {"prompt": graph.nodes})["prompt_id"]
        kinds = []
        while not kinds or kinds[-1] != "done":
            item = stream.receive(ENOUGH_SECONDS)
            assert item is not None
            if isinstance(item, tuple) and item[0] == "chords":
                assert item[1]["prompt_id"] == prompt
                kinds.append(item[1]["kind"])
    assert kinds.count("hit") == CORES + 1


@pytest.mark.parametrize(
    ("changes", "cores"),
    [({"cores": 1}, [0, 1]), ({"sampler_name": "euler_ancestral"}, [1])],
    ids=["one core", "stock"],
)
def test_one_core_streams_its_results(client, server, changes: dict[str, Any], cores: list[int]) -> None:
    graph, _ = _graph(slow=False, **changes)
    run = client.run(graph.nodes)
    assert [hit["core"] for hit in _chords(run, "hit")] == cores
    assert _chords(run, "plan")[0]["method"] == ("sequential" if len(cores) == 2 else "stock")
    assert torch.equal(_saved(server, run, graph, "hits")[-1:], _saved(server, run, graph, "latent"))


def test_nothing_to_sample_gives_the_latent(client, server) -> None:
    graph, _ = _graph(slow=False, denoise=0.0)
    run = client.run(graph.nodes)
    assert torch.equal(_saved(server, run, graph, "hits"), _saved(server, run, graph, "latent"))


def test_without_a_vae_it_shows_approximate_colours(client, server) -> None:
    graph, _ = _graph(slow=False)
    del graph.nodes[_previewer(graph)]["inputs"]["vae"]
    run = client.run(graph.nodes)
    images = run.outputs[_previewer(graph)]["images"]
    assert len(images) == CORES + 1
    picture = Image.open(io.BytesIO(client.view(images[-1])))
    assert picture.size == (128, 128)
    assert np.asarray(picture).std() > 5


def test_video_latents_stream(client, server) -> None:
    """A latent of 5 dimensions: previews show the first frame, and the outputs have all frames."""
    graph = Graph()
    model = graph.add("UNETLoader", unet_name="tiny_wan.safetensors", weight_dtype="default")
    text = graph.add("LotusConditioning")
    inputs = {"model": model, "positive": text, "negative": graph.add("ConditioningZeroOut", conditioning=text)}
    latent = graph.add("EmptyHunyuanLatentVideo", width=128, height=128, length=9, batch_size=1)
    sampler = graph.add(
        "ChordsKSampler", **inputs, **settings(), latent_image=latent, cores=4, accept="exact", devices=lanes(graph, 4)
    )
    preview = graph.add("ChordsStreamPreview", run=sampler[1])
    graph.save("latent", sampler)
    graph.save("hits", preview[1])
    run = client.run(graph.nodes)
    hits = _saved(server, run, graph, "hits")
    assert hits.ndim == 5 and hits.shape[0] == CORES + 1
    assert torch.equal(hits[-1:], _saved(server, run, graph, "latent"))
    assert len(_chords(run, "picture")) == CORES + 1
    assert len(run.outputs[preview.name]["images"]) == CORES + 1


def test_a_vae_at_the_sampler_decodes_while_it_runs(client, server) -> None:
    """The picture of the draft arrives while the run waits. Then the run is accepted."""
    graph, _ = _graph(preview_vae=DEMO_VAE, held={"results": 0})

    def at_picture(kind: str, data: dict[str, Any]) -> None:
        if kind == "chords" and data["kind"] == "picture":
            _accept_and_let_go(client, data["prompt_id"])

    run = client.run(graph.nodes, on_event=at_picture)
    picture = _chords(run, "picture")[0]
    assert picture["index"] == 0
    running = Image.open(io.BytesIO(client.view(picture["image"]))).convert("RGB").resize((128, 128))
    final = Image.open(io.BytesIO(client.view(run.outputs[_previewer(graph)]["images"][0]))).convert("RGB")
    assert np.abs(np.asarray(running, float) - np.asarray(final, float)).mean() < 4  # JPEG, enlarged and back


@pytest.mark.parametrize("extra", [{}, {"extra_data": {"preview_method": "none"}}], ids=["the default", "none"])
def test_preview_setting_none_hides_the_pictures_on_the_sampler(client, extra: dict[str, Any]) -> None:
    """The preview node shows the hits all the same: it is there to show them."""
    graph, sampler = _graph()
    shown = [preview.node_id for preview in client.run(graph.nodes, extra=extra).previews]
    assert sampler.name not in shown and shown.count(_previewer(graph)) == CORES + 1
    # Steps are left out where pictures take longer: the run waits until one is shown beside the draft and a result.
    graph, sampler = _graph(held={"results": 1})
    shown = []

    def listen(preview: Preview) -> None:
        shown.append(preview.node_id)
        if shown.count(sampler.name) == 3:
            _let_go(client)

    client.run(graph.nodes, extra=STEPS_SHOWN, on_preview=listen)
    assert shown.count(sampler.name) > CORES + 1 == shown.count(_previewer(graph))


def test_an_interrupted_run_reports_it(client) -> None:
    graph, _ = _graph(held={"results": 1})
    events: list[dict[str, Any]] = []

    def listen(kind: str, data: dict[str, Any]) -> None:
        if kind == "chords":
            events.append(data)
            if data["kind"] == "hit" and data["index"] == 1:
                client.interrupt(data["prompt_id"])

    with pytest.raises(Exception, match="(?i)interrupt"):
        client.run(graph.nodes, on_event=listen)
    assert events[-1]["kind"] == "done" and events[-1]["status"] == "interrupted"
    assert _accept(client, events[-1]["prompt_id"])[0] == 409


def test_cancelled_runs_leave_nothing_behind(client, server) -> None:
    """The number of threads and the memory of the server stay the same, and the next prompt runs."""
    cancelled = 20

    def threads(salt: int) -> list[str]:
        graph = Graph()
        node = graph.add("TestThreads", salt=salt)
        return client.run(graph.nodes).outputs[node.name]["threads"]

    def cancel_at(index: int) -> None:
        graph, _ = _graph(steps=12, size=64, held={"results": index})
        with pytest.raises(Exception, match="(?i)interrupt"):
            client.run(graph.nodes, on_event=_on_hit(index, client.interrupt))

    for index in range(5):
        cancel_at(index % 3)
    memory = _resident_bytes(server.pid)
    for run in range(cancelled):
        cancel_at(run % 3)
        if run % 10 == 0:
            graph, _ = _graph(slow=False, size=64)
            assert _chords(client.run(graph.nodes), "done")[0]["status"] == "success"
    assert not threads_of_runs(threads(77))
    # A copy of the demo model has 28 MB: twenty of them would be 560 MB.
    assert _resident_bytes(server.pid) - memory < 50e6


def _resident_bytes(pid: int) -> int:
    """The memory of a process in bytes; 0 on systems that do not report it."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    (line,) = [line for line in text.splitlines() if line.startswith("VmRSS")]
    return 1024 * int(line.split()[1])
