"""Nodes that only a newer ComfyUI has, as stand-ins: their code is read and tried like that of other packs.

The host's own modules are trusted as far as this pack was run with them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from graphs import Graph, Node, demo, empty_latent, settings
from host import PINS
from host_files import listed

from tests.host.compatibility.parallel_rows import (
    STEPS,
    Patch,
    Sampled,
    add_parallel,
    check_parallel,
    chords_inputs,
    is_close,
    on_model,
    sampled_by_guider,
    sampled_by_ksampler,
)

_SALTS = count(7100)
STATEFUL = {
    "in_a_closure": "keeps state from call to call (writes to last[place], in attend of ComfyUI's",
    "in_a_global": "keeps state from call to call (writes to _LAST[place], in attend of ComfyUI's",
    "in_an_object": "keeps state from call to call (writes to self.last[place], in Sparse.mixed of ComfyUI's",
    "in_an_option": "keeps state from call to call (writes to memory.attention, in attend of ComfyUI's",
    "in_an_attention_patch": "keeps state from call to call (writes to last[place], in output of ComfyUI's",
    "in_a_block": "keeps state from call to call (writes to block.sparse_last, in replaced of ComfyUI's",
    "late": "keeps state from call to call (writes to last[place], in attend of ComfyUI's",
    "hidden": "were tried, and the same call gave another result after a different call",
}
"""Where attention keeps the step before, and the reason for one core."""


def _sparse(kind: str, core: bool = False):
    return on_model("TestSparseAttention", kind=kind, core=core, salt=next(_SALTS))


def _run(run_graph, patch, **chords: Any) -> tuple[dict[str, Any], torch.Tensor, torch.Tensor]:
    """The summary of a run, its latent and the stock one. Each has a patch of its own."""
    graph = Graph()
    if "devices" not in chords:
        chords = chords_inputs(graph, "first", 4) | chords
    ours = sampled_by_ksampler(graph, patch())(chords)
    graph.save("ours", ours)
    graph.save("stock", sampled_by_ksampler(graph, patch())({}))
    run, latents = run_graph(graph)
    return run.outputs[ours.name]["chords"][0], latents["ours"], latents["stock"]


@pytest.mark.parametrize("core", [False, True], ids=["nodes", "core"])
@pytest.mark.parametrize("kind", STATEFUL)
def test_attention_that_keeps_the_step_before_runs_on_one_core(run_graph, kind: str, core: bool) -> None:
    """Also in a new file of the host's core."""
    summary, ours, stock = _run(run_graph, lambda: _sparse(kind, core))
    assert summary["cores"] == 1 and len(summary["devices"]) == 1
    assert STATEFUL[kind] in summary["message"]
    assert torch.equal(ours, stock)


def test_the_stand_ins_do_something(run_graph) -> None:
    graph = Graph()
    graph.save("plain", sampled_by_ksampler(graph, lambda graph, sampling: None)({}))
    for kind in STATEFUL:
        graph.save(kind, sampled_by_ksampler(graph, _sparse(kind))({}))
    _, latents = run_graph(graph)
    plain = latents.pop("plain")
    assert not any(is_close(latent, plain) for latent in latents.values())


@pytest.mark.parametrize("kind", STATEFUL)
def test_no_step_is_left_out_with_it(run_graph, kind: str) -> None:

    def patch() -> Patch:
        def longer(graph: Graph, sampling: dict[str, Any]) -> None:
            _sparse(kind)(graph, sampling)
            sampling["steps"] = 20

        return longer

    summary, ours, stock = _run(run_graph, patch, cores=1, accept="auto", fidelity="near")
    assert STATEFUL[kind] in summary["message"] and summary["depth"] == 20
    assert torch.equal(ours, stock)


@pytest.mark.parametrize("kind", STATEFUL)
def test_calls_with_it_are_not_shared_by_tokens(run_graph, kind: str) -> None:
    graph = Graph()
    devices = graph.add("ChordsDevices", devices="auto", cpu_lanes=2, split="tokens")
    ours = sampled_by_ksampler(graph, _sparse(kind))({"devices": devices})
    graph.save("ours", ours)
    graph.save("stock", sampled_by_ksampler(graph, _sparse(kind))({}))
    run, latents = run_graph(graph)
    summary = run.outputs[ours.name]["chords"][0]
    assert summary["split"] == "off" and summary["devices"] == ["cpu"], summary["message"]
    assert torch.equal(latents["ours"], latents["stock"])


def test_a_new_node_that_depends_on_the_call_only_runs_in_parallel(run_graph) -> None:
    """After a trial."""
    graph = Graph()
    add_parallel(graph, sampled_by_ksampler(graph, _sparse("harmless")))
    graph.save("plain", sampled_by_ksampler(graph, lambda graph, sampling: None)({}))
    _, latents = run_graph(graph)
    assert not is_close(check_parallel(latents), latents["plain"])


def test_an_option_alone_matters_to_a_changed_core_only(run_graph) -> None:
    """The core that this pack was run with reads no such option. Of a changed core it is not known."""
    graph = Graph()
    model = graph.add("TestSparseSetting", model=graph.add("ChordsDemoModel"))
    node = graph.add("TestChangedHost", salt=next(_SALTS), model=model)
    found = run_graph(graph)[0].outputs[node.name]
    assert found["setting before"] == [""] and found["setting after"] == ["sparse_attention"]
    assert found["setting layers"] == ["sparse_attention"]  # a part of the network reads it
    assert found["node before"] == found["core before"] == found["core after"] == ["HOST"]
    assert found["node after"] == ["NEW_HOST"]
    for moment in ("before", "after", "new"):  # a pack's function in the place of the host's is found in each
        assert found[f"replaced {moment}"] == ["the function DoubleStreamBlock.forward that replaces the host's"]
    assert found["cache before"] == found["handler before"] == [""]  # known by other means
    assert "easycache." in found["cache after"][0] and "of ComfyUI's nodes_easycache" in found["cache after"][0]
    assert "of ComfyUI's context_windows" in found["handler after"][0]


def test_an_option_that_the_core_does_not_read_changes_nothing(run_graph) -> None:
    graph = Graph()
    add_parallel(graph, sampled_by_ksampler(graph, on_model("TestSparseSetting")))
    check_parallel(run_graph(graph)[1])


def _plain(graph: Graph, sampling: dict[str, Any]) -> None:
    pass


def _by_guider(graph: Graph) -> Sampled:
    sampling = demo(graph)
    guider = graph.add("CFGGuider", cfg=3.5, **sampling)
    return sampled_by_guider(graph, guider, sampling["model"], empty_latent(graph))


def _family(graph: Graph) -> Sampled:
    made = graph.add("TestFamily", family="flux_2", plain=False)
    inputs = {"model": made[0], "positive": made[1], "negative": made[2], "latent_image": made[3]}
    inputs |= settings(steps=STEPS)
    return lambda chords: graph.add("ChordsKSampler" if chords else "KSampler", **inputs, **chords)


def _with(patch: Patch) -> Callable[[Graph], Sampled]:
    return lambda graph: sampled_by_ksampler(graph, patch)


ORDINARY = {
    "plain": _with(_plain),
    "lora": _with(on_model("LoraLoaderModelOnly", lora_name="tiny_lora.safetensors", strength_model=0.5)),
    "shift": _with(on_model("ModelSamplingFlux", max_shift=1.15, base_shift=0.5, width=256, height=256)),
    "guider": _by_guider,
    "flux_2": _family,
}
"""Graphs that everybody has."""


def _count_as(client, files: str) -> None:
    graph = Graph()
    graph.add("TestHostFiles", files=files, salt=next(_SALTS))
    client.run(graph.nodes)


def test_shared_calls_of_a_changed_network_are_compared_with_whole_ones(client, run_graph) -> None:
    """Nobody has looked at whether its tokens can be shared. Here they can; a network whose call is made twice with
    another result would be found. With a patch that keeps state around the call nothing can be compared."""
    graph = Graph()
    devices = graph.add("ChordsDevices", devices="auto", cpu_lanes=2, split="tokens")
    for name, patch in {
        "plain": lambda graph, sampling: None,
        "state": on_model("APG", eta=1.0, norm_threshold=5.0, momentum=-0.5),
    }.items():
        build = sampled_by_ksampler(graph, patch)
        graph.save(name, build({"devices": devices, "cores": 1, "accept": "exact"}))
        graph.save(f"{name}_stock", build({}))
    _count_as(client, "changed")
    try:
        run, latents = run_graph(graph)
    finally:
        _count_as(client, "known")
    for name in ("plain", "state"):
        assert torch.equal(latents[name], latents[f"{name}_stock"])
    messages = [output["chords"][0]["message"] for output in run.outputs.values() if "chords" in output]
    not_shared = ["this version of ComfyUI has other code for the model" in message for message in messages]
    assert not_shared == [False, True], messages


@pytest.mark.parametrize("files", ["changed", "new"])
def test_ordinary_graphs_run_in_parallel_where_all_files_of_the_host_are_other_ones(client, run_graph, files) -> None:
    """As on a newer host. Doubt about its core must not take the pack's use away."""

    graph = Graph()
    for name, build in ORDINARY.items():
        add_parallel(graph, build(graph), name)
    _count_as(client, files)
    try:
        _, latents = run_graph(graph)
    finally:
        _count_as(client, "known")
    for name in ORDINARY:
        check_parallel(latents, name)


def test_rows_are_refused_with_a_new_node(run_graph) -> None:
    """Also with one that keeps nothing: nobody has looked at whether it takes one sigma for all rows."""

    def row_reasons(kind: str) -> Node:
        inputs = demo(graph)
        inputs["model"] = graph.add("TestSparseAttention", model=inputs["model"], kind=kind, salt=next(_SALTS))
        return graph.add("TestRowReasons", **inputs, salt=next(_SALTS))

    graph = Graph()
    nodes = {kind: row_reasons(kind).name for kind in ("harmless", "in_a_closure")}
    run, _ = run_graph(graph)
    found = {kind: run.outputs[node]["reason"][0] for kind, node in nodes.items()}
    assert "nodes_sparse_attention may take one sigma for all rows" in found["harmless"]
    assert "keeps state" in found["in_a_closure"]


def test_the_list_of_the_hosts_files_is_up_to_date(repo: Path, comfy_host: Path) -> None:
    version = re.search(r'"(.+)"', (comfy_host / "comfyui_version.py").read_text(encoding="utf-8"))
    if version is None or version[1] != PINS[0].comfyui:
        pytest.skip(f"the list is of the files of ComfyUI {PINS[0].comfyui}, and this is another version")
    lines = (repo / "nodes" / "host" / "compatibility" / "host_files.txt").read_text(encoding="utf-8").splitlines()
    known = {path: digests for path, *digests in map(str.split, lines)}
    here = {path: digests for path, *digests in map(str.split, listed([comfy_host]).splitlines())}
    assert [path for path, digests in here.items() if not set(digests) <= set(known.get(path, ()))] == []
