"""Short searches of the SDO Latent Optimizer, for its live tests."""

from __future__ import annotations

from typing import Any

from client import Run
from graphs import Graph, Link, Node, demo

STEPS = 6
PROMPT = "a big yellow star"
SEEDS = iter(range(20_000, 30_000))  # the host does not run again what it has run
VAE = ["1", 1]  # the demo's loader is the first node of each graph


def small_latent(graph: Graph, batch: int = 1) -> Node:
    """64 x 64 pixels: a quarter of the demo model's own size, for short runs."""
    return graph.add("EmptyLatentImage", width=64, height=64, batch_size=batch)


def optimizer(graph: Graph, **changes: Any) -> Node:
    """A short search for a darker picture, by an objective of the tests. A change may be a function of the graph."""
    inputs = demo(graph, PROMPT) | {
        "latent": small_latent(graph),
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
    graph.save("initial noise", node[0])
    graph.save("sample", node[1])
    graph.add("PreviewAny", source=node[3])
    return node


def figures_of(run: Run, node: Node) -> dict[str, Any]:
    return run.outputs[node.name]["sdo"][0]


def stock(graph: Graph, node: Node, model: Link, seed: int = 5, **changes: Any) -> Node:
    """The stock sampler from the initial noise that was found, with its own noise off."""
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


def sampler_settings() -> dict[str, Any]:
    widgets = {"seed": 3, "steps": STEPS, "cfg": 4.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    return dict(widgets)
