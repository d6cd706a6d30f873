"""What may run in parallel and what must not, with the host's own nodes on a live server.

A graph that needs its steps in order runs one core and equals the stock sampler. A harmless graph keeps its cores, and
its exact result equals the stock sampler as well.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest
import torch
from graphs import Graph, demo, empty_latent, lanes, settings
from scrapes import new_fallbacks

from tests.host.compatibility.parallel_rows import Patch, on_model

STEPS = 12  # with fewer steps, the default is one core
_SALTS = count(9000)  # the host does not repeat a run that it knows


def _area(graph: Graph, sampling: dict[str, Any]) -> None:
    left = graph.add(
        "ConditioningSetAreaPercentage",
        conditioning=sampling["positive"],
        width=0.5,
        height=1.0,
        x=0.0,
        y=0.0,
        strength=1.0,
    )
    right = graph.add("ChordsDemoPrompt", text="a big green star on the right, blue background")
    sampling["positive"] = graph.add("ConditioningCombine", conditioning_1=left, conditioning_2=right)


def _mask(graph: Graph, sampling: dict[str, Any]) -> None:
    mask = graph.add("SolidMask", value=0.7, width=128, height=128)
    sampling["positive"] = graph.add(
        "ConditioningSetMask", conditioning=sampling["positive"], mask=mask, strength=0.8, set_cond_area="default"
    )


def _time_range(graph: Graph, sampling: dict[str, Any]) -> None:
    early = graph.add("ConditioningSetTimestepRange", conditioning=sampling["positive"], start=0.0, end=0.4)
    other = graph.add("ChordsDemoPrompt", text="a small star")
    late = graph.add("ConditioningSetTimestepRange", conditioning=other, start=0.4, end=1.0)
    sampling["positive"] = graph.add("ConditioningCombine", conditioning_1=early, conditioning_2=late)


IN_ORDER: list[tuple[Patch, str]] = [
    (
        on_model("EasyCache", reuse_threshold=0.2, start_percent=0.1, end_percent=0.9, verbose=False),
        "step to step",
    ),
    (
        on_model("LazyCache", reuse_threshold=0.2, start_percent=0.1, end_percent=0.9, verbose=False),
        "step to step",
    ),
    (on_model("APG", eta=1.0, norm_threshold=5.0, momentum=-0.5), "keeps state"),
    (on_model("TestSecondModel"), "model of its own"),
    (on_model("TestReplacedPart"), "is replaced"),
    (on_model("TestTensorPatch"), "holds tensors"),
]
PARALLEL: list[Patch] = [
    on_model("RescaleCFG", multiplier=0.7),
    on_model("CFGZeroStar"),
    on_model("CFGNorm", strength=1.0),
    on_model("Mahiro"),
    on_model("ModelSamplingSD3", shift=2.0),
    on_model("ModelSamplingFlux", max_shift=1.15, base_shift=0.5, width=1024, height=1024),
    on_model("LoraLoaderModelOnly", lora_name="tiny_lora.safetensors", strength_model=0.5),
    on_model("LoraLoaderBypassModelOnly", lora_name="tiny_lora.safetensors", strength_model=0.8),
    _area,
    _mask,
    _time_range,
]


def _run(run_graph, patch: Patch) -> tuple[dict[str, Any], torch.Tensor, torch.Tensor]:
    graph = Graph()
    sampling = demo(graph) | settings(steps=10) | {"latent_image": empty_latent(graph)}
    patch(graph, sampling)
    node = graph.add("ChordsKSampler", **sampling, cores=4, accept="exact", devices=lanes(graph, 4))
    graph.save("ours", node)
    graph.save("stock", graph.add("KSampler", **sampling))
    run, latents = run_graph(graph)
    return run.outputs[node.name]["chords"][0], latents["ours"], latents["stock"]


@pytest.mark.parametrize(("patch", "reason"), IN_ORDER, ids=[patch.__name__ for patch, _ in IN_ORDER])
def test_steps_stay_in_order(run_graph, patch: Patch, reason: str) -> None:
    summary, ours, stock = _run(run_graph, patch)
    assert summary["cores"] == 1
    assert reason in summary["message"]
    if "Cache" not in patch.__name__:  # with the host's caches, two runs of the stock sampler differ as well
        assert torch.equal(ours, stock)


@pytest.mark.parametrize("patch", PARALLEL, ids=[patch.__name__.strip("_") for patch in PARALLEL])
def test_runs_in_parallel(run_graph, patch: Patch) -> None:
    summary, ours, stock = _run(run_graph, patch)
    assert summary["cores"] == 4, summary["message"]
    assert len(summary["devices"]) == 4
    assert torch.equal(ours, stock)


def test_sampler_wrapped_by_another_node_runs_as_stock(run_graph) -> None:
    graph = Graph()
    inputs = demo(graph)
    shared = {
        "model": inputs["model"],
        "positive": inputs["positive"],
        "negative": inputs["negative"],
        "add_noise": True,
        "noise_seed": 7,
        "cfg": 3.5,
        "sigmas": graph.add("BasicScheduler", model=inputs["model"], scheduler="simple", steps=10, denoise=1.0),
        "latent_image": empty_latent(graph),
    }
    ours = graph.add("ChordsSampler", sampler_name="euler", cores=4, accept="first", devices=lanes(graph, 4))
    for key, sampler in (("ours", ours), ("stock", graph.add("KSamplerSelect", sampler_name="euler"))):
        wrapped = graph.add("TestWrappedSampler", sampler=sampler)
        graph.save(key, graph.add("SamplerCustom", **shared, sampler=wrapped))
    _, latents = run_graph(graph)
    assert torch.equal(latents["ours"], latents["stock"])


def test_reloaded_samplers_are_still_recognised(run_graph) -> None:
    graph = Graph()
    sampling = demo(graph) | settings(steps=10, seed=21) | {"latent_image": empty_latent(graph)}
    sampling["model"] = graph.add("TestReloadSamplers", model=sampling["model"])
    node = graph.add("ChordsKSampler", **sampling, cores=4, devices=lanes(graph, 4))
    graph.save("ours", node)
    run, _ = run_graph(graph)
    assert run.outputs[node.name]["chords"][0]["cores"] == 4


# Patches of other packs


def test_reading_finds_each_way_to_keep_state(run_graph) -> None:
    """It finds nothing in harmless code. The catalogue is the folder hooks of the tests' nodes."""
    graph = Graph()
    node = graph.add("TestReadHooks", salt=next(_SALTS))
    found = run_graph(graph)[0].outputs[node.name]
    assert len(found["must_be_found"]) > 50
    assert [name for name, reason in found["must_be_found"] if not reason] == []
    assert [name for name, reason in found["must_be_found"] if name.startswith("draws") != ("random" in reason)] == []
    assert all("of" in reason and name for name, reason in found["must_be_found"])
    assert [(name, reason) for name, reason in found["harmless"] if reason] == []


def _small_latent(graph: Graph) -> Any:
    return graph.add("EmptyLatentImage", width=64, height=64, batch_size=1)


def _with_patch(run_graph, kind: str, *, salt: int | None = None, seed: int = 7, **chords: Any):
    """The summary of a run and its latent, with a patch that is made for this run; the stock sampler without
    ``chords``."""
    graph = Graph()
    sampling = demo(graph) | settings(steps=STEPS, seed=seed) | {"latent_image": _small_latent(graph)}
    salt = next(_SALTS) if salt is None else salt
    sampling["model"] = graph.add("TestPatch", model=sampling["model"], kind=kind, salt=salt)
    if "lanes" in chords:
        chords["devices"] = lanes(graph, chords.pop("lanes"))
    if chords.pop("pair", False):
        chords["devices"] = graph.add("ChordsDevices", cpu_lanes=2, split="guidance")
    node = graph.add("ChordsKSampler" if chords else "KSampler", **sampling, **chords)
    graph.save("latent", node)
    calls = graph.add("TestCountedCalls", latent=node)
    run, latents = run_graph(graph)
    summary = run.outputs[node.name]["chords"][0] if chords else {}
    return summary | {"counted": run.outputs[calls.name]["calls"][0]}, latents["latent"]


@pytest.fixture(scope="module")
def stock_latent(run_graph) -> Callable[[str], torch.Tensor]:
    """The latent of the stock sampler with a patch. Each patch is run once."""
    return functools.cache(lambda kind: _with_patch(run_graph, kind)[1])


PATCHES = {
    "decorated": "keeps state from call to call (writes to last, in apply of chords_test_nodes)",
    "chained": "keeps state from call to call (writes to last, in apply of chords_test_nodes)",
    "in_object": "keeps state from call to call (changes self.values, in _Average.add of chords_test_nodes)",
    "in_dictionary": "(writes to state['last'], in apply of chords_test_nodes)",
    "counting": "(writes to _Steps.done, in apply of chords_test_nodes)",
    "random_prompt": "draws random numbers in each call (torch.randn_like, in noisy of chords_test_nodes)",
    "sampling": "the part model_sampling of the model keeps state from call to call (writes to self.last,",
    "hidden_state": "of chords_test_nodes were tried, and the same call gave another result after a different call",
    "hidden_draw": "of chords_test_nodes were tried, and they draw random numbers in each call (torch)",
    "hidden_error": "were tried, and they fail when the steps are not in order (steps come in order)",
    "hidden_option": "were tried, and they keep state in the model's options (tests_last)",
}


@pytest.mark.parametrize("chords", [{}, {"cores": 4, "accept": "exact"}], ids=["default", "exact"])
@pytest.mark.parametrize("kind", PATCHES)
def test_patches_of_other_packs_that_need_their_steps_in_order(
    run_graph, stock_latent, kind: str, chords: dict[str, Any]
) -> None:
    summary, ours = _with_patch(run_graph, kind, lanes=4, **chords)
    assert summary["message"].startswith("one core"), summary["message"]
    assert PATCHES[kind] in summary["message"]
    assert len(summary["devices"]) == 1
    assert torch.equal(ours, stock_latent(kind))


@pytest.mark.parametrize(("cores", "lanes"), [(4, 4), (1, 1)])
def test_a_harmless_patch_runs_in_parallel_and_steps_are_left_out(run_graph, cores: int, lanes: int) -> None:
    """After a trial, on one core too."""
    summary, _ = _with_patch(run_graph, "scaled", salt=next(_SALTS), lanes=lanes, cores=cores, fidelity="near")
    assert summary["cores"] == cores and summary["tolerance"] == 0.01, summary["message"]


@pytest.mark.parametrize("kind", ["hidden_state", "hidden_draw", "hidden_error", "hidden_option"])
def test_no_step_is_left_out_where_a_patch_needs_all_of_them(run_graph, stock_latent, kind: str) -> None:
    """Also on one core, where a trial finds what reading cannot."""
    summary, ours = _with_patch(run_graph, kind, salt=next(_SALTS), lanes=1, cores=1, fidelity="near")
    assert PATCHES[kind] in summary["message"] and summary["depth"] == STEPS
    assert torch.equal(ours, stock_latent(kind))


@pytest.mark.parametrize("kind", ["hidden_state", "hidden_option"])
def test_the_verdict_of_a_trial_holds_for_the_next_run(run_graph, kind: str) -> None:
    """There is no second trial, also with other lanes."""
    salt = next(_SALTS)
    first, _ = _with_patch(run_graph, kind, salt=salt, lanes=4, cores=4)
    again, _ = _with_patch(run_graph, kind, salt=salt, seed=8, lanes=2, cores=4)
    assert PATCHES[kind] in first["message"] and PATCHES[kind] in again["message"]
    assert again["counted"] == STEPS < first["counted"]


def test_a_trial_costs_two_calls_once(run_graph, stock_latent) -> None:
    """Two calls on each lane: the run uses the answer to the first call. On one core there is no trial."""
    salt = next(_SALTS)
    chords = {"lanes": 4, "cores": 4, "accept": "exact"}
    first, exact = _with_patch(run_graph, "scaled", salt=salt, **chords)
    again, _ = _with_patch(run_graph, "scaled", salt=salt, seed=8, **chords)
    alone, _ = _with_patch(run_graph, "scaled", salt=next(_SALTS), lanes=1, cores=1)
    assert first["cores"] == again["cores"] == 4, first["message"]
    assert 0 < first["counted"] - again["counted"] <= 3 * 4 - 1
    assert alone["counted"] == STEPS
    assert torch.equal(exact, stock_latent("scaled"))


@pytest.mark.parametrize("kind", ["skimmed", "scaled", "hidden_state", "hidden_option"])
def test_patches_are_tried_where_two_devices_share_a_call(run_graph, stock_latent, kind: str) -> None:
    """The patch "scaled" draws for all items of a call at once, so that a shared call gives another result."""
    reasons = PATCHES | {"scaled": "the lanes gave another result than the model on its own device"}
    summary, ours = _with_patch(run_graph, kind, pair=True, fidelity="exact")
    stock = stock_latent(kind)
    if kind == "skimmed":
        assert summary["devices"] == ["cpu+cpu:1"], summary["message"]
        assert _close(ours, stock)
    else:
        assert summary["devices"] == ["cpu"] and reasons[kind] in summary["message"]
        assert torch.equal(ours, stock)


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool((one - other).norm() < 1e-4 * other.norm())


# The loaded network, changed in place


@pytest.fixture
def changed(run_graph) -> Iterator[Callable[[Graph, Any, str], Any]]:
    """Changes the network of a model in a graph. After the test the change is undone."""
    done = []

    def change(graph: Graph, model: Any, how: str) -> Any:
        done.append(how)
        return graph.add("TestChangedNetwork", model=model, how=how, salt=next(_SALTS))

    yield change
    for how in done:
        graph = Graph()
        inputs = demo(graph)
        latent = empty_latent(graph)
        inputs["model"] = graph.add("TestRestoredNetwork", model=inputs["model"], how=how, latent=latent)
        sampling = inputs | settings(steps=1, seed=next(_SALTS)) | {"latent_image": latent}
        graph.save("latent", graph.add("KSampler", **sampling))
        run_graph(graph)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("forward", "does not have that: the function forward of diffusion_model.double_blocks.0"),
        ("class", "does not have that: the class Louder of diffusion_model.double_blocks.0"),
        ("weight", "were tried, and the model's copy on cpu:1 gave another result than the model"),
    ],
)
def test_a_network_that_was_changed_in_place(run_graph, server, changed, how: str, reason: str) -> None:
    """Copies from earlier runs are no exception."""
    assert _with_patch(run_graph, "scaled", lanes=4, cores=4)[0]["cores"] == 4
    graph = Graph()
    sampling = demo(graph) | settings(steps=10, seed=next(_SALTS)) | {"latent_image": empty_latent(graph)}
    sampling["model"] = changed(graph, sampling["model"], how)
    node = graph.add("ChordsKSampler", **sampling, cores=4, accept="first", devices=lanes(graph, 4))
    graph.save("ours", node)
    graph.save("stock", graph.add("KSampler", **sampling))
    with new_fallbacks(server) as counted:
        run, latents = run_graph(graph)
    summary = run.outputs[node.name]["chords"][0]
    assert summary["cores"] == 1 and reason in summary["message"], summary["message"]
    assert torch.equal(latents["ours"], latents["stock"])
    assert "check" in counted
