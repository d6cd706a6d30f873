"""What the tests of compatibility share: samplings with a patch, and the check that a sampling runs in parallel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from graphs import Graph, Node, demo, empty_latent, lanes, settings

STEPS = 8

Patch = Callable[[Graph, dict[str, Any]], None]
"""Changes a sampler's inputs by adding nodes to the graph."""
Sampled = Callable[[dict[str, Any]], Node]
"""``sampled(chords_inputs)`` adds one sampling to the graph: stock if the inputs are empty."""


def on_model(class_type: str, **inputs: Any) -> Patch:
    """A patch by one node that takes and returns the model. Its name is the id of a test."""

    def patch(graph: Graph, sampling: dict[str, Any]) -> None:
        sampling["model"] = graph.add(class_type, model=sampling["model"], **inputs)

    variant = [inputs[name] for name in ("sampling", "kind") if name in inputs]
    patch.__name__ = "-".join([class_type.replace(" ", ""), *variant])
    return patch


def chords_inputs(graph: Graph, accept: str, lane_count: int) -> dict[str, Any]:
    """Our own inputs of a sampler, for four cores."""
    return {"cores": 4, "accept": accept, "devices": lanes(graph, lane_count)}


def sampled_by_ksampler(graph: Graph, patch: Patch) -> Sampled:
    """A sampling of the demo model with a patch."""
    sampling = demo(graph) | settings(steps=STEPS) | {"latent_image": empty_latent(graph)}
    patch(graph, sampling)
    return lambda chords: graph.add("ChordsKSampler" if chords else "KSampler", **sampling, **chords)


def sampled_by_guider(graph: Graph, guider: Node, model: Any, latent: Node) -> Sampled:
    """A custom sampling with a guider."""
    noise = graph.add("RandomNoise", noise_seed=7)
    sigmas = graph.add("BasicScheduler", model=model, scheduler="simple", steps=STEPS, denoise=1.0)

    def sampled(chords: dict[str, Any]) -> Node:
        sampler = graph.add("ChordsSampler" if chords else "KSamplerSelect", sampler_name="euler", **chords)
        inputs = {"noise": noise, "guider": guider, "sampler": sampler, "sigmas": sigmas, "latent_image": latent}
        return graph.add("SamplerCustomAdvanced", **inputs)

    return sampled


def add_parallel(graph: Graph, sampled: Sampled, name: str = "") -> None:
    """Save the latents that `check_parallel` compares."""
    graph.save(f"{name}stock", sampled({}))
    graph.save(f"{name}exact", sampled(chords_inputs(graph, "exact", 4)))
    graph.save(f"{name}first", sampled(chords_inputs(graph, "first", 4)))
    graph.save(f"{name}alone", sampled(chords_inputs(graph, "first", 1)))


def check_parallel(latents: dict[str, torch.Tensor], name: str = "") -> torch.Tensor:
    """Check that the sampling ran in parallel and equals the stock sampler; returns the stock latent."""
    stock = latents[f"{name}stock"]
    assert stock.isfinite().all() and stock.std() > 0.05
    assert torch.equal(latents[f"{name}exact"], stock)
    assert torch.equal(latents[f"{name}first"], latents[f"{name}alone"])
    # A window is another computation; if it were equal, nothing ran in parallel.
    assert not torch.equal(latents[f"{name}first"], stock)
    return stock


def is_close(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two latents are equal apart from rounding."""
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-3, atol=1e-3)
