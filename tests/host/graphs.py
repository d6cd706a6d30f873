"""Graphs in API form, built node by node, for the live tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from _server import ComfyServer
from client import ComfyClient, Run
from safetensors.torch import load_file
from torch import Tensor

Link = list[Any]

PROMPT = "a big red circle on the left, blue background"
STEPS = 12


class Graph:
    """An API workflow under construction: ``add`` returns a link maker, ``save`` keeps a latent by a name."""

    def __init__(self) -> None:
        self.nodes: dict[str, dict[str, Any]] = {}
        self.saved: dict[str, str] = {}

    def add(self, class_type: str, **inputs: Any) -> Node:
        name = str(len(self.nodes) + 1)
        links = {key: value[0] if isinstance(value, Node) else value for key, value in inputs.items()}
        self.nodes[name] = {"class_type": class_type, "inputs": links}
        return Node(name)

    def save(self, key: str, latent: Node | Link) -> None:
        self.saved[key] = self.add("SaveLatent", samples=latent, filename_prefix=f"latents/{key}").name


class Node:
    """A node in a graph; ``node[i]`` links to its i-th output."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __getitem__(self, output: int) -> Link:
        return [self.name, output]


RunGraph = Callable[[Graph], tuple[Run, dict[str, Tensor]]]


def runner(server: ComfyServer, client: ComfyClient) -> RunGraph:
    """A function that runs a graph on the server; it returns the run and its saved latents by name."""

    def run_graph(graph: Graph) -> tuple[Run, dict[str, Tensor]]:
        run = client.run(graph.nodes)
        latents = {}
        for key, node in graph.saved.items():
            (file,) = run.outputs[node]["latents"]
            latents[key] = load_file(server.output_directory / file["subfolder"] / file["filename"])["latent_tensor"]
        return run, latents

    return run_graph


def demo(graph: Graph, text: str = PROMPT) -> dict[str, Any]:
    """The demo model with its prompts: what a KSampler needs besides a latent and its settings."""
    loader = graph.add("ChordsDemoModel")
    return {
        "model": loader[0],
        "positive": graph.add("ChordsDemoPrompt", text=text),
        "negative": graph.add("ChordsDemoPrompt", text=""),
    }


def empty_latent(graph: Graph, batch: int = 1) -> Node:
    return graph.add("EmptyLatentImage", width=128, height=128, batch_size=batch)


def lanes(graph: Graph, count: int, split: str = "auto") -> Node:
    return graph.add("ChordsDevices", devices="auto", cpu_lanes=count, split=split)


def settings(sampler: str = "euler", **changes: Any) -> dict[str, Any]:
    """A KSampler's widgets."""
    return {
        "seed": 7,
        "steps": STEPS,
        "cfg": 3.5,
        "sampler_name": sampler,
        "scheduler": "simple",
        "denoise": 1.0,
        **changes,
    }


def threads_of_runs(names: Iterable[str]) -> list[str]:
    """The threads of ours among these that belong to a run. One more counts all runs, and stays."""
    return [name for name in names if "chords" in name and name != "chords-monitoring"]
