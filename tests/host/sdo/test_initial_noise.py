"""The initial noise that a search finds: every sampler gives the sample shown from it, for every kind of model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from graphs import Graph, Node, demo
from searches import PROMPT, SEEDS, STEPS, figures_of, optimizer, sampler_settings, small_latent, stock


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "res_multistep", "ddim"])
def test_samplers_give_the_sample_shown_from_the_initial_noise(run_graph, sampler: str) -> None:
    graph = Graph()
    node = optimizer(graph, sampler_name=sampler)
    graph.save("demo's own model", stock(graph, node, ["1", 0]))
    graph.save("the output model", stock(graph, node, node[4]))
    graph.save("chords", stock(graph, node, node[4], class_type="ChordsKSamplerAdvanced"))
    noise, guider = graph.add("DisableNoise"), graph.add("CFGGuider", **_guided(graph, node))
    sampler_node = graph.add("KSamplerSelect", sampler_name=sampler)
    sigmas = graph.add("BasicScheduler", model=node[4], scheduler="simple", steps=STEPS, denoise=1.0)
    custom = {"noise": noise, "guider": guider, "sampler": sampler_node, "sigmas": sigmas, "latent_image": node[0]}
    graph.save("custom", graph.add("SamplerCustomAdvanced", **custom))
    run, latents = run_graph(graph)
    for name in ("demo's own model", "the output model", "chords", "custom"):
        assert torch.equal(latents[name], latents["sample"]), name
    figures = figures_of(run, node)
    assert figures["objective"]["best"][0] < figures["objective"]["first"][0]
    assert figures["history"][0] == figures["objective"]["first"]


def _guided(graph: Graph, node: Node) -> dict[str, Any]:
    given = graph.nodes[node.name]["inputs"]
    return {"model": node[4], "positive": node[5], "negative": given["negative"], "cfg": given["cfg"]}


def test_every_item_of_a_batch_is_optimised_and_reproduced(run_graph) -> None:
    graph = Graph()
    node = optimizer(graph, latent=lambda graph: small_latent(graph, batch=3), iterations=6)
    graph.save("stock", stock(graph, node, node[4]))
    run, latents = run_graph(graph)
    objective = figures_of(run, node)["objective"]
    assert len(objective["best"]) == 3
    assert all(best < first for best, first in zip(objective["best"], objective["first"], strict=True))
    assert torch.equal(latents["stock"], latents["sample"])


def test_other_flow_models_take_the_initial_noise_with_the_output_model(run_graph) -> None:
    """A stock loader's model drops an initial noise, so the node outputs one that keeps it. Video works too."""
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
    graph.save("stock", stock(graph, node, node[4]))
    graph.save("dropped", stock(graph, node, shifted[0]))
    run, latents = run_graph(graph)
    assert torch.equal(latents["stock"], latents["sample"])
    assert not torch.equal(latents["dropped"], latents["sample"])
    objective = figures_of(run, node)["objective"]
    assert objective["best"][0] < objective["first"][0]


def test_with_an_input_picture_the_initial_noise_is_reproduced_at_its_step(run_graph) -> None:
    graph = Graph()
    picture = graph.add("KSampler", **demo(graph, PROMPT), **sampler_settings(), latent_image=small_latent(graph))
    node = optimizer(graph, latent=picture, denoise=0.5)
    sigmas = graph.add("BasicScheduler", model=node[4], scheduler="simple", steps=STEPS, denoise=0.5)
    given = graph.nodes[node.name]["inputs"]
    custom = {"noise_seed": 0, "cfg": 4.0, "positive": node[5], "negative": given["negative"], "sigmas": sigmas}
    custom |= {"sampler": graph.add("KSamplerSelect", sampler_name="euler"), "latent_image": node[0]}
    graph.save("stock", graph.add("SamplerCustom", model=node[4], add_noise=False, **custom))
    _, latents = run_graph(graph)
    # The sampler multiplies the blend of noise and picture by the share that the node has divided it by.
    error = (latents["stock"] - latents["sample"]).norm() / latents["sample"].norm()
    assert float(error) == 0


def test_lora_changes_the_initial_noise(run_graph) -> None:
    graph = Graph()
    inputs = demo(graph, PROMPT)
    lora = {"lora_name": "tiny_lora.safetensors", "strength_model": 1.0}
    node = optimizer(graph, model=graph.add("LoraLoaderModelOnly", model=inputs["model"], **lora))
    graph.save("stock", stock(graph, node, node[4]))
    graph.save("without", stock(graph, node, ["1", 0]))
    _, latents = run_graph(graph)
    assert torch.equal(latents["stock"], latents["sample"])
    assert not torch.equal(latents["without"], latents["sample"])


def test_weights_in_fp8_work(run_graph) -> None:
    graph = Graph()
    demo(graph)
    model = graph.add("UNETLoader", unet_name="demo_copy.safetensors", weight_dtype="fp8_e4m3fn")
    node = optimizer(graph, model=graph.add("ModelSamplingSD3", model=model, shift=3.0))
    graph.save("stock", stock(graph, node, node[4]))
    run, latents = run_graph(graph)
    assert torch.equal(latents["stock"], latents["sample"])
    objective = figures_of(run, node)["objective"]
    assert objective["best"][0] < objective["first"][0]


def test_a_prompt_is_optimised_and_output(run_graph) -> None:
    graph = Graph()
    node = optimizer(graph, optimize="positive prompt", iterations=8, lr=0.1)
    graph.save("stock", stock(graph, node, node[4]))
    given = graph.nodes[node.name]["inputs"]
    graph.save("before", stock(graph, node, node[4], positive=given["positive"]))
    run, latents = run_graph(graph)
    assert torch.equal(latents["stock"], latents["sample"])
    assert not torch.equal(latents["before"], latents["sample"])
    objective = figures_of(run, node)["objective"]
    assert objective["best"][0] < objective["first"][0]


def test_the_search_begins_with_the_best_of_several_seeds(run_graph) -> None:
    seed = next(SEEDS)
    graph = Graph()
    node = optimizer(graph, seed=seed, candidates=4, latent=lambda graph: small_latent(graph, batch=2))
    graph.save("stock", stock(graph, node, node[4]))
    run, latents = run_graph(graph)
    figures = figures_of(run, node)
    assert torch.equal(latents["stock"], latents["sample"])
    tried = figures["candidates"]
    assert len(tried) == 4
    for item in range(2):
        column = [values[item] for values in tried]
        assert figures["seeds"][item] == seed + column.index(min(column))
        assert figures["objective"]["first"][item] == column[0]
        assert figures["history"][0][item] == pytest.approx(min(column), rel=1e-4)
        assert figures["objective"]["best"][item] < min(column)


def test_swapped_models_and_sizes_in_a_row(run_graph) -> None:
    """A search does not depend on the searches before it."""
    graph = Graph()
    first = optimizer(graph, seed=1)
    again = Graph()
    optimizer(again, seed=1, latent=lambda graph: graph.add("EmptyLatentImage", width=64, height=96, batch_size=1))
    last = Graph()
    inputs = demo(last, PROMPT)
    second = optimizer(last, seed=1, model=last.add("TestRandomDelay", model=inputs["model"], salt=3))
    run, latents = run_graph(graph)
    run_graph(again)
    later, repeated = run_graph(last)
    assert torch.equal(latents["initial noise"], repeated["initial noise"])
    assert figures_of(run, first)["history"] == figures_of(later, second)["history"]
