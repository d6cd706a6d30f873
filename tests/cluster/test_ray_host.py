"""Ray workers that load ComfyUI and the model, under a live server: they give the same latents as local CPU lanes.

Starting workers takes many seconds. So the tests that connect to another address, which ends the workers, come first,
and those that kill workers come last.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from _env import venv_python
from _server import ComfyServer
from client import ComfyClient, ExecutionError, Interrupted, Run
from safetensors.torch import load_file
from torch import Tensor

from chords_core import plan

sys.path += [str(Path(__file__).resolve().parents[1] / "host"), str(Path(__file__).parent)]

from graphs import Graph, Node, demo, empty_latent, lanes, settings
from processes import asked
from scrapes import new_fallbacks

HOST_TESTS = Path(__file__).resolve().parents[1] / "host"
RAY = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "CHORDS_RAY_ADDRESSES": "127.0.0.1:9, local"}
LONGER_TIMEOUTS = {"ping": 30.0, "hung": 90.0, "behind": 90.0, "place": 90.0, "answer": 60.0, "silent": 90.0}
ENOUGH_SECONDS = 180.0
PROMPT_SECONDS = 900.0  # of which Ray may take minutes on a busy machine
CANCEL_SECONDS = 30.0  # about 2 on an idle machine; without a cancel it is a minute or more

_seeds = itertools.count(10_000)  # of runs whose result does not matter; the host does not repeat an equal run


@pytest.fixture(scope="module")
def server(comfy_host: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    models = tmp_path_factory.mktemp("models")
    python = str(venv_python())
    subprocess.run([python, str(HOST_TESTS / "tiny_models.py"), str(comfy_host), str(models)], check=True)
    paths = models / "paths.yaml"
    folders = {"base_path": str(models), "diffusion_models": "diffusion_models", "loras": "loras"}
    nodes = {"base_path": str(HOST_TESTS), "custom_nodes": "pack"}
    timeouts = {"base_path": str(Path(__file__).parent), "custom_nodes": "packs"}
    paths.write_text(json.dumps({"models": folders, "nodes": nodes, "timeouts": timeouts}), encoding="utf-8")
    arguments = ["--extra-model-paths-config", str(paths)]
    pack = {**RAY, "CHORDS_TEST_RAY_SECONDS": json.dumps(LONGER_TIMEOUTS)}
    with ComfyServer(comfy_host, cpu=True, python=python, arguments=arguments, environment=pack) as running:
        assert "IMPORT FAILED" not in running.log()
        yield running


@pytest.fixture(scope="module")
def client(server: ComfyServer) -> ComfyClient:
    return server.client()


def _sampling(graph: Graph, devices: Node, model: Any = None, **changes: Any) -> Node:
    latent = empty_latent(graph, changes.pop("batch", 1))
    inputs = demo(graph) | settings(**changes) | {"latent_image": latent}
    if model is not None:
        inputs["model"] = model(graph, inputs["model"])
    return graph.add("ChordsKSampler", **{"cores": 4, "accept": "first", **inputs}, devices=devices)


def _on_ray(graph: Graph, address: str = "local") -> Node:
    return graph.add("ChordsDevices", ray_address=address, ray_workers=2)


def _run(
    server: ComfyServer, client: ComfyClient, devices: Callable[[Graph], Node], on_event: Any = None, **changes: Any
) -> tuple[Run, dict[str, Any], Tensor]:
    """The run, the summary of the sampler and its latent."""
    graph = Graph()
    sampler = _sampling(graph, devices(graph), **changes)
    graph.save("latent", sampler)
    run = client.run(graph.nodes, on_event=on_event, time_limit=PROMPT_SECONDS)
    return run, run.outputs[sampler.name]["chords"][0], _latent(server, run, graph.saved["latent"])


def _wait_for_two(server: ComfyServer, client: ComfyClient, **changes: Any) -> None:
    """Run until two workers take part. On a busy machine they may not be ready at the first attempt."""
    end = time.monotonic() + ENOUGH_SECONDS
    while True:
        _, summary, _ = _run(server, client, _on_ray, **{**changes, "seed": next(_seeds)})
        assert not summary["lost_lanes"]
        if len(summary["devices"]) == 2 and summary["devices"][0].startswith("ray:"):
            return
        assert time.monotonic() < end


def _on_lanes(graph: Graph) -> Node:
    return lanes(graph, 2)


def _lora(strength: float) -> Callable[[Graph, Any], Node]:
    name = "tiny_lora.safetensors"
    return lambda graph, model: graph.add("LoraLoaderModelOnly", model=model, lora_name=name, strength_model=strength)


def _model_sampling(graph: Graph, model: Any) -> Node:
    """A patch that replaces a part of the model by one whose class is made within a node's function."""
    return graph.add("ModelSamplingSD3", model=model, shift=2.0)


def _closure(graph: Graph, model: Any) -> Node:
    """A patch that is a function within a function, of another node pack."""
    return graph.add("TestRandomDelay", model=model, salt=1)


def _slow(graph: Graph, model: Any) -> Node:
    """A model whose runs take so long that a test can do something in the middle of one, on any machine."""
    return graph.add("TestSlowModel", model=model, milliseconds=100.0, inside=False)


def _without_memory(workers: int, file: Path) -> Callable[[Graph, Any], Node]:
    return lambda graph, model: graph.add("TestNoMemoryOnWorkers", model=model, workers=workers, file=str(file))


def _latent(server: ComfyServer, run: Run, node: str) -> Tensor:
    (file,) = run.outputs[node]["latents"]
    return load_file(server.output_directory / file["subfolder"] / file["filename"])["latent_tensor"]


def _actors(server: ComfyServer) -> list[psutil.Process]:
    found = psutil.Process(server.pid).children(recursive=True)
    commands = asked(found, lambda process: (process, process.cmdline()))
    return [process for process, command in commands if "RayActor" in " ".join(command)]


def _two_actors(server: ComfyServer) -> list[psutil.Process]:
    """The processes of the two workers. One that was replaced may still be about to end."""
    _wait_until(lambda: len(_actors(server)) == 2)
    return _actors(server)


def _when(kind: str, then: Callable[[], None]) -> Callable[[str, dict], None]:
    """A listener that calls ``then`` once, at the first event of that kind."""
    done = threading.Event()

    def listen(name: str, data: dict) -> None:
        if name == "chords" and data["kind"] == kind and not done.is_set():
            done.set()
            then()

    return listen


def _at_work(processes: list[psutil.Process]) -> bool:
    """Whether they compute in a quarter of the time or more."""

    def used() -> dict[int, float]:
        return dict(asked(processes, lambda process: (process.pid, sum(process.cpu_times()[:2]))))

    before = used()
    time.sleep(1.0)
    return any(late - before.get(pid, late) > 0.25 for pid, late in used().items())


def _wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + ENOUGH_SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize(
    "address", ["127.0.0.1:10", "ray://127.0.0.1:9", " LocalHost:9 ", "[::1]:9", "localhost:9", "127.1:9"]
)
def test_an_address_that_the_owner_has_not_allowed_is_not_even_tried(server, client, address: str) -> None:
    """This includes another spelling of an allowed one."""
    _, summary, latent = _run(server, client, lambda graph: _on_ray(graph, address))
    assert summary["devices"] == ["cpu"]
    allow = f"has not allowed the Ray address {address.strip().lower()}. To allow it, write it into the environment "
    assert allow + "variable CHORDS_RAY_ADDRESSES" in summary["message"]
    assert "a line of chords/ray_addresses.txt in ComfyUI's user folder" in summary["message"]
    assert torch.equal(latent, _run(server, client, _on_lanes)[2])


@pytest.mark.parametrize("address", ["os://127.0.0.1:9", "127.0.0.1", "127.0.0.1:9,127.0.0.1:9", "a" * 100_000 + ":1"])
def test_the_devices_node_refuses_what_is_not_an_address(server, client, address: str) -> None:
    with pytest.raises(ExecutionError, match="ray_address: .* is no address of a Ray cluster; write local") as caught:
        _run(server, client, lambda graph: _on_ray(graph, address))
    assert len(str(caught.value)) < 1000


def test_the_owner_may_allow_addresses_in_a_file(server, client) -> None:
    """Also while the server runs. A line that is not an address is logged and left out."""
    file = server.folder / "user" / "chords" / "ray_addresses.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("# ours\n\n127.0.0.1:07  # the old one\nnonsense\n", encoding="utf-8")
    try:
        with pytest.raises(ExecutionError, match="nothing answers at 127.0.0.1:7"):
            _run(server, client, lambda graph: _on_ray(graph, "127.0.0.1:7"))
        assert "'nonsense' is no address of a Ray cluster" in server.log()
        assert _run(server, client, lambda graph: _on_ray(graph, "127.0.0.1:8"))[1]["devices"] == ["cpu"]
    finally:
        file.unlink()
    assert _run(server, client, lambda graph: _on_ray(graph, "127.0.0.1:7"))[1]["devices"] == ["cpu"]


def test_an_address_without_ray_is_reported_at_once(server, client) -> None:
    with pytest.raises(ExecutionError, match="nothing answers at 127.0.0.1:9"):
        _run(server, client, lambda graph: _on_ray(graph, "127.0.0.1:9"))
    assert _run(server, client, _on_ray, seed=11)[1]["devices"][0].startswith("ray:")


def test_ray_changes_no_bit(server, client) -> None:
    _, _, expected = _run(server, client, _on_lanes)
    _wait_for_two(server, client)
    for seed in (None, 8):
        changes = {} if seed is None else {"seed": seed}
        run, summary, latent = _run(server, client, _on_ray, **changes)
        if seed is None:
            assert torch.equal(latent, expected)
    assert len(summary["devices"]) == 2 and all(name.startswith("ray:") for name in summary["devices"])


@pytest.mark.parametrize("model", [_lora(0.8), _model_sampling, _closure], ids=["lora", "model_sampling", "closure"])
def test_patches_of_the_model_take_effect_there(server, client, model) -> None:
    plain = _run(server, client, _on_lanes)[2]
    for solver in ("euler", "dpmpp_2m"):
        expected = _run(server, client, _on_lanes, model=model, sampler=solver)[2]
        _, summary, latent = _run(server, client, _on_ray, model=model, sampler=solver)
        assert summary["devices"][0].startswith("ray:")
        assert torch.equal(latent, expected)
        assert model is _closure or not torch.equal(latent, plain)


def test_patches_of_other_packs_are_tried_on_the_workers(server, client) -> None:
    """If one keeps state that reading its code does not find, the run is done here on one core, as with lanes."""

    def patch(salt: int) -> Callable[[Graph, Any], Node]:
        return lambda graph, model: graph.add("TestPatch", model=model, kind="hidden_state", salt=salt)

    expected = _run(server, client, _on_lanes, model=patch(1))[2]
    _, summary, latent = _run(server, client, _on_ray, model=patch(2))
    assert "of chords_test_nodes were tried, and the same call gave another result" in summary["message"]
    assert summary["devices"] == ["cpu"]
    assert torch.equal(latent, expected)


def test_what_the_host_sets_on_the_model_for_a_run_is_set_there(server, client) -> None:
    """As newer hosts do: the model reads the shapes of picture and sound, and more, from itself."""

    def sets(what: str) -> None:
        graph = Graph()
        graph.add("TestSetsAttributes", salt=next(_seeds), what=what)
        client.run(graph.nodes)

    def sound(devices: Callable[[Graph], Node]) -> tuple[dict[str, Any], Tensor]:
        graph = Graph()
        picture = graph.add("TestLatentOfType", dtype="float32")
        masked = graph.add("SetLatentNoiseMask", samples=picture, mask=graph.add("TestMask", value=1.0))
        latent = graph.add("LTXVConcatAVLatent", video_latent=masked, audio_latent=graph.add("TestSoundLatent"))
        inputs = demo(graph) | settings() | {"latent_image": latent, "cores": 4, "accept": "first"}
        inputs["model"] = graph.add("TestTwoPartModel", name="demo_copy.safetensors")
        sampler = graph.add("ChordsKSampler", **inputs, devices=devices(graph))
        graph.save("sound", graph.add("LTXVSeparateAVLatent", av_latent=sampler)[1])
        run = client.run(graph.nodes)
        return run.outputs[sampler.name]["chords"][0], _latent(server, run, graph.saved["sound"])

    _wait_for_two(server, client)
    sets("values")
    try:
        summary, there = sound(_on_ray)
        _, here = sound(_on_lanes)
    finally:
        sets("nothing")
    assert len(summary["devices"]) == 2 and summary["devices"][0].startswith("ray:") and not summary["lost_lanes"]
    assert torch.equal(there, here)


def test_another_lora_is_sent_once(server, client) -> None:
    _wait_for_two(server, client, model=_lora(0.9))
    before = len(server.log())
    latents = []
    for strength, seed in ((0.6, 1), (0.6, 2), (0.2, 1), (0.2, 2), (0.2, 3)):
        latents.append(_run(server, client, _on_ray, model=_lora(strength), seed=seed)[2])
    sent = [line for line in server.log()[before:].splitlines() if "sending the model" in line]
    assert len(sent) == 2 and all(line.count("ray:") == 2 for line in sent)
    assert torch.equal(latents[2], _run(server, client, _on_lanes, model=_lora(0.2), seed=1)[2])
    assert torch.equal(_run(server, client, _on_ray, seed=9)[2], _run(server, client, _on_lanes, seed=9)[2])


@pytest.mark.parametrize("build", ["_inpaint", "_custom_guider", "_two_stages", "_video", "_batch_of_two"])
def test_whole_graphs(server, client, build: str) -> None:
    """Masks, batches, the guider of another node, step ranges and five-dimensional latents."""
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("bit_identity", HOST_TESTS / "sampling" / "test_bit_identity.py")
    graphs = module_from_spec(spec)
    spec.loader.exec_module(graphs)
    graph = Graph()
    sampled = getattr(graphs, build)(graph, "euler")
    for name, devices in (("here", lanes(graph, 2)), ("there", _on_ray(graph))):
        graph.save(name, sampled({"cores": 4, "accept": "first", "devices": devices}))
    run = client.run(graph.nodes)
    here, there = (_latent(server, run, graph.saved[name]) for name in ("here", "there"))
    plans = [event for event in run.of_kind("chords") if event["kind"] == "plan"]
    assert any(device.startswith("ray:") for plan in plans for device in plan["devices"])
    assert torch.equal(here, there)


def test_a_model_that_cannot_be_sent_runs_here(server, client) -> None:
    def without_recipe(graph: Graph, model: Any) -> Node:
        return graph.add("TestNoFactory", model=model)

    _, summary, latent = _run(server, client, _on_ray, model=without_recipe)
    assert summary["devices"] == ["cpu"]
    assert "left no way to load it again" in summary["message"]
    assert torch.equal(latent, _run(server, client, _on_lanes)[2])


def test_an_error_of_a_listener_does_not_count_as_lost_workers(server, client) -> None:
    def raising(graph: Graph, model: Any) -> Node:
        return graph.add("TestRaisingListener", model=model)

    before = len(server.log())
    with pytest.raises(ExecutionError, match="the listener raised on purpose"):
        _run(server, client, _on_ray, model=raising)
    assert "Ray workers were lost" not in server.log()[before:]
    _wait_for_two(server, client)


def test_an_interrupt_stops_the_remote_work(server, client) -> None:
    moments: dict[str, float] = {}

    def interrupt() -> None:
        moments["interrupted"] = time.monotonic()
        client.interrupt()

    with pytest.raises(Interrupted):
        _run(server, client, _on_ray, model=_closure, steps=900, batch=8, on_event=_when("step", interrupt))
    assert time.monotonic() - moments["interrupted"] < CANCEL_SECONDS  # the whole run takes minutes
    _wait_until(lambda: not _at_work(_actors(server)))
    assert torch.equal(_run(server, client, _on_ray, seed=21)[2], _run(server, client, _on_lanes, seed=21)[2])


@pytest.mark.parametrize("when", ["load", "step"])
def test_a_worker_that_stops_costs_some_time_and_a_cancel_works(server, client, when: str) -> None:
    """Its process is stopped, by a person or by the machine, while it gets the model's changes, or in a call."""
    _wait_for_two(server, client)
    graph, strength = Graph(), {"load": 0.31, "step": 0.0}[when]
    model = _slow if when == "step" else _lora(strength)
    graph.save("latent", _sampling(graph, _on_ray(graph), model=model, steps=200, seed=77))
    before, actors = len(server.log()), _two_actors(server)
    prompt = client.queue(graph.nodes)
    if when == "load":
        _wait_until(lambda: "sending the model" in server.log()[before:])
    else:
        _wait_until(lambda: any(event["kind"] == "step" for event in client.chords_events(prompt)))
    for actor in actors:
        actor.suspend()
    try:
        began = time.monotonic()
        client.interrupt(prompt)
        _wait_until(lambda: client.history(prompt) is not None)
        assert time.monotonic() - began < CANCEL_SECONDS
    finally:
        for actor in actors:
            actor.resume()
    _wait_for_two(server, client)


def test_a_worker_without_memory_is_left_out_with_a_note(server, client, tmp_path: Path) -> None:
    expected = _run(server, client, _on_lanes)[2]
    _wait_for_two(server, client)
    with new_fallbacks(server) as counted:
        _, summary, latent = _run(server, client, _on_ray, model=_without_memory(1, tmp_path / "asked"))
    assert torch.equal(latent, expected)
    assert len(summary["devices"]) == 1 and summary["devices"][0].startswith("ray:")
    assert "not all Ray workers are available (the worker ray:" in summary["message"]
    assert "MemoryError: out of memory on purpose" in summary["message"]
    assert not summary["lost_lanes"]
    assert "workers_missing" in counted


def test_without_memory_on_any_worker_the_run_is_done_here(server, client, tmp_path: Path) -> None:
    expected = _run(server, client, _on_lanes)[2]
    _wait_for_two(server, client)
    with new_fallbacks(server) as counted:
        _, summary, latent = _run(server, client, _on_ray, model=_without_memory(2, tmp_path / "asked"))
    assert torch.equal(latent, expected)
    assert all(device.startswith("cpu") for device in summary["devices"])
    assert "no Ray worker is available, so the run was done here" in summary["message"]
    assert summary["message"].count("out of memory on purpose") == 2
    assert "cluster" in counted


def test_a_killed_worker_costs_time_only(server, client) -> None:
    changes = {"model": _slow, "steps": 60, "seed": 4}
    expected = _run(server, client, _on_lanes, **changes)[2]
    _wait_for_two(server, client, model=_slow)
    actors = _two_actors(server)
    kill = _when("step", lambda: os.kill(actors[0].pid, signal.SIGKILL))
    run, summary, latent = _run(server, client, _on_ray, on_event=kill, **changes)
    assert len(summary["lost_lanes"]) == 1 and "was lost" in summary["lost_lanes"][0]
    assert [event["device"] for event in run.of_kind("chords") if event["kind"] == "lane"][0].startswith("ray:")
    assert torch.equal(latent, expected)
    _wait_for_two(server, client)  # a new one takes its place


def test_without_any_worker_left_the_run_is_done_here(server, client) -> None:
    changes = {"model": _slow, "steps": 60, "seed": 14}
    expected = _run(server, client, _on_lanes, **changes)[2]
    _wait_for_two(server, client, model=_slow)
    actors = _two_actors(server)
    kill = _when("step", lambda: [os.kill(actor.pid, signal.SIGKILL) for actor in actors])
    with new_fallbacks(server) as counted:
        _, summary, latent = _run(server, client, _on_ray, on_event=kill, **changes)
    assert "all Ray workers were lost" in summary["message"]
    assert all(device.startswith("cpu") for device in summary["devices"])
    assert torch.equal(latent, expected)
    assert "workers_lost" in counted


def test_with_fewer_workers_the_number_of_cores_is_chosen_again(server, client, tmp_path: Path) -> None:
    def four(graph: Graph) -> Node:
        return graph.add("ChordsDevices", ray_address="local", ray_workers=4)

    def four_are_there() -> bool:
        seed = next(_seeds)
        return len(_run(server, client, four, cores=4, accept="auto", steps=20, seed=seed)[1]["devices"]) == 4

    _wait_until(four_are_there)
    for without, cores in ((1, 3), (3, 1), (0, plan(20, 4, tolerance=0.01).cores)):
        model = _without_memory(without, tmp_path / str(without))
        _, summary, _ = _run(server, client, four, model=model, cores=0, accept="auto", steps=20)
        assert summary["cores"] == len(summary["devices"]) == cores
        # With one worker the run is done here: one worker is no more than this machine.
        assert summary["devices"][0].startswith("ray:" if cores > 1 else "cpu")
        assert summary["message"].count("out of memory on purpose") == without
