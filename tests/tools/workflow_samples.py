"""Small workflows for the tests of the swap command, in both formats."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]
OURS = {"KSampler": "ChordsKSampler", "KSamplerAdvanced": "ChordsKSamplerAdvanced", "KSamplerSelect": "ChordsSampler"}


def graphs_of(workflow: Json) -> list[Json]:
    """The graph and its subgraphs."""
    return [workflow, *workflow.get("definitions", {}).get("subgraphs", [])]


def api_workflow() -> Json:
    """An API workflow with samplers that are swapped and samplers that stay."""
    sampling = {"steps": 20, "cfg": 3.5, "sampler_name": "euler", "positive": ["2", 0], "model": ["1", 0]}
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "a.safetensors"}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "KSampler", "clip": ["1", 1]}},
        "3": {"class_type": "KSampler", "inputs": {**sampling, "seed": 7}, "_meta": {"title": "KSampler"}},
        "9:4": {"class_type": "KSamplerAdvanced", "inputs": sampling, "_meta": {"title": "my second"}},
        "5": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}},
        "6": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "uni_pc"}},
        "7": {"class_type": "SamplerCustomAdvanced", "inputs": {"sampler": ["5", 0], "sigmas": ["1", 3]}},
        "8": {"class_type": "SomeOtherSampler", "inputs": {"sampler": ["6", 0]}},
    }


def saved_workflow(nodes: list[Json], links: list[list[Any]], subgraphs: list[Json] | None = None) -> Json:
    """A workflow as the browser saves it."""
    workflow = {"nodes": nodes, "links": links, "groups": [], "extra": {}, "version": 0.4}
    return workflow | ({"definitions": {"subgraphs": subgraphs}} if subgraphs else {})


def saved_node(number: int, node_type: str, inputs: list[str] | None = None, **more: Any) -> Json:
    """A node as the browser saves it."""
    sockets = [{"name": name, "type": "*", "link": None} for name in inputs or []]
    return {"id": number, "type": node_type, "inputs": sockets, "outputs": [], "properties": {}, **more}


def sampler_select(number: int = 1) -> Json:
    """A KSamplerSelect."""
    return saved_node(number, "KSamplerSelect", widgets_values=["euler"])


def node_types(result: Any) -> list[str]:
    """The types of all nodes of a swapped workflow."""
    return [node["type"] for graph in graphs_of(result.workflow) for node in graph["nodes"]]
