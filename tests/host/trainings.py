"""Short runs of the SDO LoRA Trainer, for its live tests."""

from __future__ import annotations

from typing import Any

from client import Run
from graphs import Graph, Node, demo
from searches import SEEDS, STEPS, VAE, small_latent

PROMPTS = ("a big yellow star", "a small red circle")


def trainer(graph: Graph, **changes: Any) -> Node:
    """A short training towards darker pictures. A change may be a function of the graph; None leaves an input out."""
    inputs = demo(graph)
    del inputs["positive"]
    prompts = {f"positive.positive{i}": graph.add("ChordsDemoPrompt", text=text) for i, text in enumerate(PROMPTS)}
    inputs |= prompts | {
        "latent": small_latent(graph),
        "vae": VAE,
        "objective": graph.add("TestOddObjective", kind="good"),
        "seed": next(SEEDS),
        "cfg": 4.0,
        "rank": 4,
        "layers": "attention",
        "iterations": 6,
        "lr": 0.003,
        "batch": 2,
        "steps": STEPS,
        "pictures": 2,
        "fidelity": "exact",
    }
    changes = {key: value(graph) if callable(value) else value for key, value in changes.items()}
    given = {key: value for key, value in {**inputs, **changes}.items() if value is not None}
    node = graph.add("SDOTrainLoRA", **given)
    graph.add("PreviewAny", source=node[4])
    return node


def figures_of(run: Run, node: Node) -> dict[str, Any]:
    """The JSON of a training."""
    return run.outputs[node.name]["sdo"][0]
