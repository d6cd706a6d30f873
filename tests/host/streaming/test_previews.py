"""Pictures of a run: a VAE that is slow, hangs or fails delays nothing, and each hit still has its picture."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any

import pytest
from client import Interrupted
from graphs import Graph, Node, demo, empty_latent, lanes, settings
from PIL import Image

HITS = 5  # of four cores, the draft included
SALTS = itertools.count(9000)  # the host does not repeat a run that it knows
WAIT = 120.0  # for events that come at once, even on a busy machine; a held decoding waits 600 s


def _graph(vae: dict[str, Any] | None, steps: int = 12, sleep: float | None = None) -> Graph:
    """A run of four cores. The sampler has the demo's VAE, changed by the node ``vae``."""
    graph = Graph()
    inputs = demo(graph) | settings(steps=steps, seed=next(SALTS))
    if sleep is not None:
        inputs["model"] = graph.add("TestSleepingModel", model=inputs["model"], milliseconds=sleep)
    preview = [next(iter(graph.nodes)), 1]
    if vae is not None:
        preview = graph.add(**vae, vae=preview)[0]
    chords = {"cores": 4, "accept": "exact", "devices": lanes(graph, 4), "preview_vae": preview}
    sampler = graph.add("ChordsKSampler", **inputs, latent_image=empty_latent(graph), **chords)
    graph.save("latent", sampler)
    return graph


def _held(after_calls: int = 0) -> dict[str, Any]:
    return {"class_type": "TestHeldVae", "after_calls": after_calls, "salt": next(SALTS)}


def _kinds(run: Any, kind: str) -> list[dict[str, Any]]:
    return [event for event in run.of_kind("chords") if event["kind"] == kind]


@pytest.fixture
def go_on(client) -> Iterator[Any]:
    """Lets all decodings continue, and returns the output of the node that does so. Called after the test as well."""

    def called() -> dict[str, Any]:
        graph = Graph()
        node = graph.add("TestHeldVaesGoOn", salt=next(SALTS))
        return client.run(graph.nodes).outputs[node.name]

    yield called
    called()


@pytest.mark.parametrize("after_calls", [0, 1, 3])
def test_a_run_ends_while_its_vae_hangs(client, go_on, after_calls: int) -> None:
    began = time.monotonic()
    run = client.run(_graph(_held(after_calls)).nodes)
    assert time.monotonic() - began < WAIT
    assert _kinds(run, "done")[0]["status"] == "success"
    pictures = [picture["index"] for picture in _kinds(run, "picture")]
    assert pictures == sorted(pictures) and pictures[-1] == HITS - 1
    events = client.get_json(f"/chords/runs/{run.prompt_id}")["events"]
    assert [event["kind"] for event in events][-1] == "done"
    for event in events:
        if event["kind"] == "hit" and event["index"] in pictures:
            assert client.view(event["image"]).startswith(b"\xff\xd8")
    assert not any("preview" in name for name in go_on()["threads"])
    late = client.get_json(f"/chords/runs/{run.prompt_id}")["events"]
    assert late == events  # the late picture of the VAE is dropped


def test_a_cancel_does_not_wait_for_a_vae_that_hangs(client, go_on) -> None:
    graph = _graph(_held(), steps=1000, sleep=100.0)
    asked: list[float] = []

    def cancel(kind: str, data: dict[str, Any]) -> None:
        if kind == "chords" and data["kind"] == "hit" and not asked:
            asked.append(time.monotonic())
            client.interrupt(data["prompt_id"])

    with pytest.raises(Interrupted):
        client.run(graph.nodes, on_event=cancel)
    assert time.monotonic() - asked[0] < WAIT


def test_a_vae_that_hangs_is_not_used_twice_at_once(client, go_on) -> None:
    """The next runs show their hits without this VAE until its call has returned."""
    for _ in range(3):
        run = client.run(_graph(_held(), sleep=20.0).nodes)
        assert _kinds(run, "picture")[-1]["index"] == HITS - 1
    found = go_on()
    assert found["max_waiting"] == [1] and not any("preview" in name for name in found["threads"])
    client.run(_graph({"class_type": "TestHeldVae", "after_calls": 1000, "salt": next(SALTS)}).nodes)
    client.run(_graph(_held(), sleep=100.0).nodes)  # its thread has time to begin
    assert go_on()["max_waiting"] == [1]  # it is used again


@pytest.mark.parametrize("way", ["raises", "exits", "none", "empty", "six channels"])
def test_a_vae_that_fails_costs_a_line_in_the_log(client, server, go_on, way: str) -> None:
    before = len(server.log())
    run = client.run(_graph({"class_type": "TestBrokenVae", "way": way}).nodes)
    go_on()
    assert [picture["index"] for picture in _kinds(run, "picture")] == list(range(HITS))
    assert "CHORDS: no preview: " in server.log()[before:]


@pytest.mark.parametrize("vae", [None, {"class_type": "TestHeldVae", "after_calls": 1000}], ids=["rough", "VAE"])
def test_without_a_preview_method_only_the_preview_node_shows_pictures(client, vae: dict[str, Any] | None) -> None:
    graph = _graph(vae and {**vae, "salt": next(SALTS)})
    sampler = next(name for name, node in graph.nodes.items() if node["class_type"] == "ChordsKSampler")
    viewer = graph.add("ChordsStreamPreview", run=[sampler, 1]).name
    run = client.run(graph.nodes, extra={"extra_data": {"preview_method": "none"}})
    shown = [preview.node_id for preview in run.previews]
    assert sampler not in shown and shown.count(viewer) == HITS
    assert [picture["index"] for picture in _kinds(run, "picture")] == list(range(HITS))


@pytest.mark.parametrize("vae", [None, {"class_type": "TestHeldVae", "after_calls": 1000}], ids=["rough", "VAE"])
def test_the_pictures_of_a_batch_are_there_during_the_run(client, vae: dict[str, Any] | None) -> None:
    """Each item has its picture, the first 8 at most, where a preview node shows the run."""
    graph = _graph(vae and {**vae, "salt": next(SALTS)})
    sampler = next(name for name, node in graph.nodes.items() if node["class_type"] == "ChordsKSampler")
    graph.nodes[graph.nodes[sampler]["inputs"]["latent_image"][0]]["inputs"]["batch_size"] = 3
    graph.add("ChordsStreamPreview", run=[sampler, 1])
    run = client.run(graph.nodes)
    for picture in _kinds(run, "picture"):
        first, second, third = (client.view(image) for image in picture["images"])
        assert picture["image"] == picture["images"][0] and len({first, second, third}) == 3
    assert len(_kinds(run, "picture")) == HITS


# Latents of several parts


def _two_parts(graph: Graph) -> tuple[dict[str, Any], Node]:
    inputs = demo(graph)
    slow = graph.add("TestSlowModel", model=inputs["model"], milliseconds=50.0, inside=True)  # pictures take time, too
    inputs["model"] = graph.add("TestTwoParts", model=slow)
    picture = graph.add("TestEmptyPicture")
    latent = graph.add("LTXVConcatAVLatent", video_latent=picture, audio_latent=graph.add("TestSoundLatent"))
    return inputs, latent


@pytest.mark.parametrize("with_vae", [False, True])
@pytest.mark.parametrize("sampler_name", ["euler", "euler_ancestral"])
def test_latents_of_several_parts_are_shown_while_they_are_sampled(
    client, server, sampler_name: str, with_vae: bool
) -> None:
    """Previews show their first part, also those of steps. One core shows its single hit if a node asks for it."""
    graph = Graph()
    inputs, latent = _two_parts(graph)
    vae = {"preview_vae": [next(iter(graph.nodes)), 1]} if with_vae else {}
    chords = {"cores": 4, "accept": "exact", "devices": lanes(graph, 4), **vae}
    inputs |= settings(sampler_name, steps=12, seed=next(SALTS)) | {"latent_image": latent}
    sampler = graph.add("ChordsKSampler", **inputs, **chords)
    graph.add("ChordsStreamPreview", run=sampler[1])
    before = len(server.log())
    run = client.run(graph.nodes, extra={"extra_data": {"preview_method": "latent2rgb"}})
    hits = [hit["index"] for hit in _kinds(run, "hit")]
    assert len(hits) == (HITS if sampler_name == "euler" else 1)
    assert [picture["index"] for picture in _kinds(run, "picture")] == hits
    assert "no preview" not in server.log()[before:]
    assert [preview.node_id for preview in run.previews].count(sampler.name) > len(hits)
    for picture in _kinds(run, "picture"):
        assert client.view(picture["image"]).startswith(b"\xff\xd8")


def test_parts_are_shown_with_a_guider_if_the_model_gives_their_shapes(client, server) -> None:
    """Models for video and sound give the shapes in their conditionings."""
    graph = Graph()
    inputs, latent = _two_parts(graph)
    telling = graph.add("TestSaysItsShapes", **inputs)
    model = telling[0]
    guider = graph.add("CFGGuider", model=model, positive=telling[1], negative=telling[2], cfg=3.5)
    sigmas = graph.add("BasicScheduler", model=model, scheduler="simple", steps=12, denoise=1.0)
    chords = {"cores": 4, "accept": "exact", "devices": lanes(graph, 4)}
    sampled = graph.add(
        "SamplerCustomAdvanced",
        noise=graph.add("RandomNoise", noise_seed=next(SALTS)),
        guider=guider,
        sampler=graph.add("ChordsSampler", sampler_name="euler", **chords),
        sigmas=sigmas,
        latent_image=latent,
    )
    graph.add("TestShowLatent", latent=sampled)
    before = len(server.log())
    run = client.run(graph.nodes)
    assert [picture["index"] for picture in _kinds(run, "picture")] == list(range(HITS))
    assert "no preview" not in server.log()[before:]


def test_parts_are_shown_with_a_guider_if_the_host_keeps_their_shapes_on_the_model(client, server) -> None:
    """As newer hosts do."""

    def sets(what: str) -> None:
        graph = Graph()
        graph.add("TestSetsAttributes", salt=next(SALTS), what=what)
        client.run(graph.nodes)

    graph = Graph()
    inputs, latent = _two_parts(graph)
    inputs["model"] = graph.add("TestTwoPartModel", name="demo_copy.safetensors")
    guider = graph.add("CFGGuider", **inputs, cfg=3.5)
    sigmas = graph.add("BasicScheduler", model=inputs["model"], scheduler="simple", steps=12, denoise=1.0)
    chords = {"cores": 4, "accept": "exact", "devices": lanes(graph, 4)}
    noise, sampler = (
        graph.add("RandomNoise", noise_seed=next(SALTS)),
        graph.add("ChordsSampler", sampler_name="euler", **chords),
    )
    sampling = {"noise": noise, "guider": guider, "sampler": sampler, "sigmas": sigmas, "latent_image": latent}
    graph.add("TestShowLatent", latent=graph.add("SamplerCustomAdvanced", **sampling))
    before = len(server.log())
    sets("values")
    try:
        run = client.run(graph.nodes)
    finally:
        sets("nothing")
    assert [picture["index"] for picture in _kinds(run, "picture")] == list(range(HITS))
    assert "no preview" not in server.log()[before:]


# Memory


def test_memory_that_the_host_can_free_counts_as_free(client, go_on) -> None:
    """With dynamic loading, weights of the model are moved out of the way of a VAE. Its patcher knows of them."""
    vae = {"class_type": "TestVaeInLittleMemory"}
    run = client.run(_graph(vae).nodes)
    assert [picture["index"] for picture in _kinds(run, "picture")] == list(range(HITS))
    graph = Graph()
    node = graph.add("TestDecodedInLittleMemory", salt=next(SALTS))
    assert client.run(graph.nodes).outputs[node.name]["decoded"][0] > 0


# Files


def test_without_a_writable_temp_folder_only_the_files_are_missing(client, server) -> None:
    client.run(_graph(None).nodes)
    folder = server.folder / "temp-root" / "temp" / "chords"
    before = sorted(folder.iterdir())
    assert before and all(Image.open(path).size for path in before)  # complete pictures only
    away = folder.rename(folder.with_name("away"))
    folder.touch()  # a file in its place
    try:
        run = client.run(_graph(None).nodes)
    finally:
        folder.unlink()
        away.rename(folder)
    assert len(_kinds(run, "hit")) == HITS and not _kinds(run, "picture")
    assert _kinds(run, "done")[0]["status"] == "success"
    assert sorted(folder.iterdir()) == before
