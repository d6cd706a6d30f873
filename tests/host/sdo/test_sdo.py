"""SDO on the live host: the start it finds, gradients inside ComfyUI, cancel, and what it leaves behind."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest
import torch
from client import ExecutionError, Interrupted
from graphs import Graph, Link, Node, demo, empty_latent

STEPS = 6
PROMPT = "a big yellow star"
SEEDS = iter(range(20_000, 30_000))  # the host does not run again what it has run
VAE = ["1", 1]  # the demo's loader is the first node of each graph


def _optimizer(graph: Graph, **changes: Any) -> Node:
    """A short search for a darker picture by a test's own objective. A change may be a function of the graph."""
    inputs = demo(graph, PROMPT) | {
        "latent": empty_latent(graph),
        "vae": VAE,
        "objective": graph.add("TestOddObjective", kind="good"),
        "seed": next(SEEDS),
        "cfg": 4.0,
        "iterations": 4,
        "lr": 0.05,
        "steps": STEPS,
        "refresh": 2,
    }
    changes = {key: value(graph) if callable(value) else value for key, value in changes.items()}
    node = graph.add("SDOLatentOptimizer", **{**inputs, **changes})
    graph.save("start", node[0])
    graph.save("sample", node[1])
    graph.add("PreviewAny", source=node[3])
    return node


def _figures(run, node: Node) -> dict[str, Any]:
    return run.outputs[node.name]["sdo"][0]


def _stock(graph: Graph, node: Node, model: Link, seed: int = 5, **changes: Any) -> Node:
    """The stock sampler from the start found, its noise off."""
    given = graph.nodes[node.name]["inputs"]
    inputs = {
        "model": model,
        "add_noise": "disable",
        "noise_seed": seed,
        "steps": given["steps"],
        "cfg": given["cfg"],
        "sampler_name": given.get("sampler_name", "euler"),
        "scheduler": "simple",
        "positive": node[5],
        "negative": given["negative"],
        "latent_image": node[0],
        "start_at_step": 0,
        "end_at_step": 10000,
        "return_with_leftover_noise": "disable",
    }
    return graph.add(changes.pop("class_type", "KSamplerAdvanced"), **{**inputs, **changes})


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "res_multistep", "ddim"])
def test_samplers_make_the_sample_shown_of_the_start(run_graph, sampler: str) -> None:
    graph = Graph()
    node = _optimizer(graph, sampler_name=sampler)
    graph.save("demo's own model", _stock(graph, node, ["1", 0]))
    graph.save("the model put out", _stock(graph, node, node[4]))
    graph.save("chords", _stock(graph, node, node[4], class_type="ChordsKSamplerAdvanced"))
    noise, guider = graph.add("DisableNoise"), graph.add("CFGGuider", **_guided(graph, node))
    sampler_node = graph.add("KSamplerSelect", sampler_name=sampler)
    sigmas = graph.add("BasicScheduler", model=node[4], scheduler="simple", steps=STEPS, denoise=1.0)
    custom = {"noise": noise, "guider": guider, "sampler": sampler_node, "sigmas": sigmas, "latent_image": node[0]}
    graph.save("custom", graph.add("SamplerCustomAdvanced", **custom))
    run, latents = run_graph(graph)
    for name in ("demo's own model", "the model put out", "chords", "custom"):
        assert torch.equal(latents[name], latents["sample"]), name
    figures = _figures(run, node)
    assert figures["objective"]["best"][0] < figures["objective"]["first"][0]
    assert figures["history"][0] == figures["objective"]["first"]


def _guided(graph: Graph, node: Node) -> dict[str, Any]:
    given = graph.nodes[node.name]["inputs"]
    return {"model": node[4], "positive": node[5], "negative": given["negative"], "cfg": given["cfg"]}


def test_every_item_of_a_batch_is_optimised_and_reproduced(run_graph) -> None:
    graph = Graph()
    node = _optimizer(graph, latent=lambda graph: empty_latent(graph, batch=3), iterations=6)
    graph.save("stock", _stock(graph, node, node[4]))
    run, latents = run_graph(graph)
    objective = _figures(run, node)["objective"]
    assert len(objective["best"]) == 3
    assert all(best < first for best, first in zip(objective["best"], objective["first"], strict=True))
    assert torch.equal(latents["stock"], latents["sample"])


def test_other_flow_models_take_the_start_by_the_model_put_out(run_graph) -> None:
    """A stock loader's model drops a start at full noise, so the node gives one that does not; video works too."""
    graph = Graph()
    loader = graph.add("UNETLoader", unet_name="tiny_wan.safetensors", weight_dtype="default")
    shifted = graph.add("ModelSamplingSD3", model=loader, shift=3.0)
    prompt = graph.add("LotusConditioning")
    latent = graph.add("EmptyHunyuanLatentVideo", width=64, height=64, length=5, batch_size=1)
    target = graph.add("TestLatentObjective")
    inputs = {"model": shifted, "positive": prompt, "negative": prompt, "latent": latent, "objective": target}
    node = graph.add(
        "SDOLatentOptimizer", **inputs, seed=next(SEEDS), cfg=2.0, iterations=5, lr=0.05, steps=4, refresh=1
    )
    graph.save("sample", node[1])
    graph.save("stock", _stock(graph, node, node[4]))
    graph.save("dropped", _stock(graph, node, shifted[0]))
    run, latents = run_graph(graph)
    assert torch.equal(latents["stock"], latents["sample"])
    assert not torch.equal(latents["dropped"], latents["sample"])
    objective = _figures(run, node)["objective"]
    assert objective["best"][0] < objective["first"][0]


def test_with_a_picture_put_in_the_start_is_reproduced_at_its_step(run_graph) -> None:
    graph = Graph()
    picture = graph.add("KSampler", **demo(graph, PROMPT), **_settings(), latent_image=empty_latent(graph))
    node = _optimizer(graph, latent=picture, denoise=0.5)
    sigmas = graph.add("BasicScheduler", model=node[4], scheduler="simple", steps=STEPS, denoise=0.5)
    given = graph.nodes[node.name]["inputs"]
    custom = {"noise_seed": 0, "cfg": 4.0, "positive": node[5], "negative": given["negative"], "sigmas": sigmas}
    custom |= {"sampler": graph.add("KSamplerSelect", sampler_name="euler"), "latent_image": node[0]}
    graph.save("stock", graph.add("SamplerCustom", model=node[4], add_noise=False, **custom))
    _, latents = run_graph(graph)
    # The blend of noise and picture is put in divided by its share and multiplied by it again.
    error = (latents["stock"] - latents["sample"]).norm() / latents["sample"].norm()
    assert float(error) == 0


def _settings() -> dict[str, Any]:
    widgets = {"seed": 3, "steps": STEPS, "cfg": 4.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    return dict(widgets)


@pytest.mark.parametrize("sigma", [1.0, 0.4])
def test_gradients_inside_the_host_are_those_of_the_network(client, sigma: float) -> None:
    """Lent weights, checkpointed blocks and the host's writing into its inputs change nothing."""
    graph = Graph()
    node = graph.add("TestGradient", **demo(graph, PROMPT), cfg=4.0, sigma=sigma)
    (error,) = client.run(graph.nodes).outputs[node.name]["error"]
    assert error < 1e-4


def test_gradients_through_blocks_that_share_lists_options_and_containers(client) -> None:
    graph = Graph()
    node = graph.add("TestBlocks", salt=next(SEEDS))
    (errors,) = client.run(graph.nodes).outputs[node.name]["errors"]
    assert errors
    assert all(error < 1e-5 for error in errors.values()), errors


def test_a_copy_of_a_streamed_network_shares_none_of_its_buffers(client) -> None:
    """With dynamic VRAM a copied buffer is freed twice, which takes the server down."""
    graph = Graph()
    node = graph.add("TestStreamedCopy")
    same, apart, left, taken = client.run(graph.nodes).outputs[node.name]["found"]
    assert (same, apart, left, taken) == (True, True, True, False)


def test_the_model_is_afterwards_as_before(run_graph, client, server) -> None:
    """Ten searches after a normal generation: inference bit for bit as before, memory and threads too."""

    def generated(salt: int) -> torch.Tensor:
        graph = Graph()
        inputs = demo(graph, PROMPT)
        inputs["model"] = graph.add("TestRandomDelay", model=inputs["model"], salt=salt)
        graph.save("latent", graph.add("KSampler", **inputs, **_settings(), latent_image=empty_latent(graph)))
        return run_graph(graph)[1]["latent"]

    def search() -> None:
        graph = Graph()
        _optimizer(graph)
        run_graph(graph)

    before = generated(1)
    for _ in range(3):
        search()
    memory = _resident_bytes(server.pid)
    for _ in range(10):
        search()
    assert _resident_bytes(server.pid) - memory < 30e6  # one leaked graph is more, one copy of the model 28 MB
    assert torch.equal(generated(2), before)
    graph = Graph()
    node = graph.add("TestThreads", salt=next(SEEDS))
    left = client.run(graph.nodes).outputs[node.name]
    assert not [name for name in left["threads"] if "chords" in name]
    assert left["current_patchers"] == [0]


def _resident_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * 4096


def test_lora_and_its_effect_on_the_start(run_graph) -> None:
    graph = Graph()
    inputs = demo(graph, PROMPT)
    lora = {"lora_name": "tiny_lora.safetensors", "strength_model": 1.0}
    node = _optimizer(graph, model=graph.add("LoraLoaderModelOnly", model=inputs["model"], **lora))
    graph.save("stock", _stock(graph, node, node[4]))
    graph.save("without", _stock(graph, node, ["1", 0]))
    _, latents = run_graph(graph)
    assert torch.equal(latents["stock"], latents["sample"])
    assert not torch.equal(latents["without"], latents["sample"])


def test_weights_in_fp8_work(run_graph) -> None:
    graph = Graph()
    demo(graph)
    model = graph.add("UNETLoader", unet_name="demo_copy.safetensors", weight_dtype="fp8_e4m3fn")
    node = _optimizer(graph, model=graph.add("ModelSamplingSD3", model=model, shift=3.0))
    graph.save("stock", _stock(graph, node, node[4]))
    run, latents = run_graph(graph)
    assert torch.equal(latents["stock"], latents["sample"])
    objective = _figures(run, node)["objective"]
    assert objective["best"][0] < objective["first"][0]


def test_a_prompt_is_optimised_and_put_out(run_graph) -> None:
    graph = Graph()
    node = _optimizer(graph, optimize="positive prompt", iterations=8, lr=0.1)
    graph.save("stock", _stock(graph, node, node[4]))
    given = graph.nodes[node.name]["inputs"]
    graph.save("before", _stock(graph, node, node[4], positive=given["positive"]))
    run, latents = run_graph(graph)
    assert torch.equal(latents["stock"], latents["sample"])
    assert not torch.equal(latents["before"], latents["sample"])
    objective = _figures(run, node)["objective"]
    assert objective["best"][0] < objective["first"][0]


def test_the_search_begins_with_the_best_of_several_seeds(run_graph) -> None:
    seed = next(SEEDS)
    graph = Graph()
    node = _optimizer(graph, seed=seed, candidates=4, latent=lambda graph: empty_latent(graph, batch=2))
    graph.save("stock", _stock(graph, node, node[4]))
    run, latents = run_graph(graph)
    figures = _figures(run, node)
    assert torch.equal(latents["stock"], latents["sample"])
    tried = figures["candidates"]
    assert len(tried) == 4
    for item in range(2):
        column = [values[item] for values in tried]
        assert figures["seeds"][item] == seed + column.index(min(column))
        assert figures["objective"]["first"][item] == column[0]
        assert figures["history"][0][item] == pytest.approx(min(column), rel=1e-4)
        assert figures["objective"]["best"][item] < min(column)


def test_progress_pictures_and_figures(client) -> None:
    graph = Graph()
    node = _optimizer(graph, iterations=5)
    run = client.run(graph.nodes)
    told = [event for event in run.of_kind("chords") if event["node_id"] == node.name]
    assert [event["iteration"] for event in told if event["kind"] == "iteration"] == [1, 2, 3, 4, 5]
    assert told[-1]["kind"] == "done"
    assert told[-1]["status"] == "success"
    assert any(preview.node_id == node.name for preview in run.previews)
    figures = _figures(run, node)
    (text,) = [output["text"] for output in run.outputs.values() if "text" in output and output["text"][0][0] == "{"]
    assert json.loads(text[0]) == figures
    assert len(figures["history"]) == len(figures["sampled"]) == 5
    assert figures["sampled"] == [True, False, True, False, True]


def test_accept_takes_the_best_so_far(client, run_graph) -> None:
    graph = Graph()
    node = _optimizer(graph, iterations=500, patience=0)
    graph.save("stock", _stock(graph, node, node[4]))

    def accept(kind: str, data: dict[str, Any]) -> None:
        if kind == "chords" and data["kind"] == "iteration" and data["iteration"] == 6:
            client.accept(data["prompt_id"])

    run = client.run(graph.nodes, on_event=accept)
    figures = _figures(run, node)
    assert len(figures["history"]) < 50
    assert "accepted" in figures["stopped"]
    assert figures["objective"]["best"][0] < figures["objective"]["first"][0]


@pytest.mark.parametrize("keep", [True, False])
def test_a_cancelled_search_can_leave_its_best_to_the_next_run(client, keep: bool) -> None:
    graph = Graph()
    choice = "keep the best" if keep else "forget"
    node = _optimizer(graph, iterations=8 if not keep else 500, patience=0, when_cancelled=choice)

    def cancel(kind: str, data: dict[str, Any]) -> None:
        if kind == "chords" and data["kind"] == "iteration" and data["iteration"] == 5:
            client.interrupt()

    began = time.perf_counter()
    with pytest.raises(Interrupted):
        client.run(graph.nodes, on_event=cancel)
    assert time.perf_counter() - began < 60
    figures = _figures(client.run(graph.nodes), node)
    if keep:
        assert 5 <= len(figures["history"]) < 50
        assert "cancelled" in figures["stopped"]
        assert figures["objective"]["best"][0] < figures["objective"]["first"][0]
    else:
        assert len(figures["history"]) == 8
        assert figures["stopped"] is None


def test_a_cancelled_search_is_of_no_use_to_other_inputs(client) -> None:
    graph = Graph()
    node = _optimizer(graph, iterations=500, patience=0, when_cancelled="keep the best")

    def cancel(kind: str, data: dict[str, Any]) -> None:
        if kind == "chords" and data["kind"] == "iteration":
            client.interrupt()

    with pytest.raises(Interrupted):
        client.run(graph.nodes, on_event=cancel)
    graph.nodes[node.name]["inputs"] |= {"iterations": 3, "lr": 0.04}
    figures = _figures(client.run(graph.nodes), node)
    assert len(figures["history"]) == 3


@pytest.mark.parametrize("changed", ["patch", "prompt"])
def test_a_cancelled_search_is_of_no_use_to_another_model_or_prompt(client, changed: str) -> None:
    graph = Graph()
    node = _optimizer(graph, iterations=500, patience=0, when_cancelled="keep the best")

    def cancel(kind: str, data: dict[str, Any]) -> None:
        if kind == "chords" and data["kind"] == "iteration" and data["iteration"] == 3:
            client.interrupt()

    with pytest.raises(Interrupted):
        client.run(graph.nodes, on_event=cancel)
    inputs = graph.nodes[node.name]["inputs"]
    if changed == "patch":
        inputs["model"] = graph.add("TestOtherPatch", model=inputs["model"], scale=0.9, detach=False)[0]
    else:
        end = graph.add("ConditioningSetTimestepRange", conditioning=inputs["positive"], start=0.0, end=0.9)
        inputs["positive"] = end[0]
    searched = []
    with pytest.raises(Interrupted):
        client.run(
            graph.nodes,
            on_event=lambda kind, data: (
                (searched.append(data), client.interrupt())
                if kind == "chords" and data["kind"] == "iteration" and data["iteration"] == 2
                else None
            ),
        )
    assert searched


def test_a_cancel_while_the_best_is_sampled_keeps_it_too(client) -> None:
    graph = Graph()
    slow = {"model": lambda graph: graph.add("TestRandomDelay", model=["1", 0], salt=9)}
    node = _optimizer(graph, iterations=3, steps=30, refresh=1, when_cancelled="keep the best", **slow)
    began = []

    def cancel(kind: str, data: dict[str, Any]) -> None:
        if kind == "progress_text" or (kind == "chords" and data["kind"] == "iteration" and data["iteration"] == 3):
            began.append(kind)
            if len(began) == 1:
                threading.Timer(1.5, client.interrupt).start()

    try:
        client.run(graph.nodes, on_event=cancel)
    except Interrupted:
        figures = _figures(client.run(graph.nodes), node)
        assert figures["objective"]["best"][0] < figures["objective"]["first"][0]
    else:
        pytest.skip("the machine was too fast to cancel within the last sampling")


def test_a_value_that_breaks_is_rolled_back_and_told(client) -> None:
    graph = Graph()
    node = _optimizer(graph, objective=lambda graph: graph.add("TestOddObjective", kind="nan later"), iterations=6)
    figures = _figures(client.run(graph.nodes), node)
    (mark,) = figures["marks"]
    assert "NaN" in mark["text"]
    assert None in [values[0] for values in figures["history"]]
    assert figures["objective"]["best"][0] <= figures["objective"]["first"][0] * (1 + 1e-4)  # but for rounding


@pytest.mark.parametrize(
    ("kind", "said"),
    [("detached", "not differentiable"), ("one value", "one value an item"), ("nan", "not usable at the start")],
)
def test_objectives_that_cannot_work_are_refused(client, kind: str, said: str) -> None:
    graph = Graph()
    _optimizer(graph, objective=lambda graph: graph.add("TestOddObjective", kind=kind))
    with pytest.raises(ExecutionError, match=said):
        client.run(graph.nodes)


def test_what_cannot_be_searched_is_refused_before_a_model_call(client) -> None:
    def refused(match: str, **changes: Any) -> None:
        graph = Graph()
        _optimizer(graph, **changes)
        with pytest.raises(ExecutionError, match=match):
            client.run(graph.nodes)

    def masked(graph: Graph) -> Node:
        mask = graph.add("SolidMask", value=1.0, width=128, height=128)
        return graph.add("SetLatentNoiseMask", samples=empty_latent(graph), mask=mask)

    refused("latent.*mask", latent=masked)
    refused("denoise.*no step", denoise=0.0)
    refused("model: .*out of order", model=lambda graph: graph.add("EasyCache", **_easy_cache(graph)))

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
    node = _optimizer(graph)
    del graph.nodes[node.name]["inputs"]["vae"]
    with pytest.raises(ExecutionError, match="vae.*connect"):
        client.run(graph.nodes)


def test_swapped_models_and_sizes_in_a_row(run_graph) -> None:
    """Nothing of the last search is left in the next."""
    graph = Graph()
    first = _optimizer(graph, seed=1)
    again = Graph()
    _optimizer(again, seed=1, latent=lambda graph: graph.add("EmptyLatentImage", width=64, height=96, batch_size=1))
    last = Graph()
    inputs = demo(last, PROMPT)
    second = _optimizer(last, seed=1, model=last.add("TestRandomDelay", model=inputs["model"], salt=3))
    run, latents = run_graph(graph)
    run_graph(again)
    later, repeated = run_graph(last)
    assert torch.equal(latents["start"], repeated["start"])
    assert _figures(run, first)["history"] == _figures(later, second)["history"]
