"""Checks that a JSON value is a workflow, in one of the two formats, and says what is wrong with it."""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Hashable
from typing import Any

from .node_pairs import Json

LINK_FIELDS = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
"""The fields of a link that the browser saves, in their order where a link is a list."""

_MAX_MESSAGE_VALUE = 80  # characters of a value in a message


class NotAWorkflow(ValueError):
    """The value is not a workflow. The message says why."""


class BadWorkflow(NotAWorkflow):
    """The value may have been a workflow, but it cannot be read."""


def is_api(workflow: Any) -> bool:
    """Whether this is a workflow in the format of POST /prompt."""
    return (
        isinstance(workflow, dict)
        and bool(workflow)
        and all(
            isinstance(node, dict) and isinstance(node.get("class_type"), str) and isinstance(node.get("inputs"), dict)
            for node in workflow.values()
        )
    )


def is_saved(workflow: Any) -> bool:
    """Whether this is a workflow in the format that the browser saves."""
    return isinstance(workflow, dict) and _fault(workflow) is None


def error_for(value: Any) -> NotAWorkflow:
    """The error that says why a value is not a workflow."""
    if not isinstance(value, dict):
        return NotAWorkflow(f"not a workflow: a JSON object is needed, but this is a {type(value).__name__}")
    if not value:
        return NotAWorkflow("not a workflow: it is empty")
    for name in ("prompt", "workflow"):
        if is_api(value.get(name)) or is_saved(value.get(name)):
            return NotAWorkflow(f"not a workflow itself, but it holds one under '{name}': save that part as a file")
    if "nodes" in value:
        return BadWorkflow(f"not a workflow: it has nodes, but not as the browser saves them: {_fault(value)}")
    if any(isinstance(node, dict) and "class_type" in node for node in value.values()):
        name = next(name for name, node in value.items() if not is_api({name: node}))
        return BadWorkflow(
            f"not a workflow: {shortened(name)} is not a node with class_type (a string) and inputs (an object)"
        )
    return NotAWorkflow(
        "not a workflow: it has neither nodes and links, as the browser saves them, nor nodes with class_type and "
        "inputs (API)"
    )


def shortened(value: Any) -> str:
    """A value for a message, of 80 characters at most."""
    text = reprlib.repr(value)
    return text if len(text) <= _MAX_MESSAGE_VALUE else f"{text[: _MAX_MESSAGE_VALUE - 3]}..."


def graphs_of(workflow: Json) -> list[Any]:
    """The graph of a saved workflow and its subgraphs, the graph first."""
    definitions = workflow.get("definitions")
    subgraphs = definitions.get("subgraphs") if isinstance(definitions, dict) else None
    return [workflow, *(subgraphs if isinstance(subgraphs, list) else [])]


def _fault(workflow: Json) -> str | None:
    """What differs from the format that the browser saves; None if nothing does."""
    graphs = graphs_of(workflow)
    for number, graph in enumerate(graphs):
        if (fault := _fault_of_graph(graph)) is not None:
            return f"subgraph {number}: {fault}" if number else fault
    names = [graph.get("id") for graph in graphs[1:]]
    if not all(isinstance(name, str) for name in names):
        return "the id of a subgraph is not a string"
    repeated = [name for name, count in Counter(names).items() if count > 1]
    return f"two subgraphs have the id {shortened(repeated[0])}" if repeated else None


def _fault_of_graph(graph: Any) -> str | None:
    if not isinstance(graph, dict):
        return f"it is a {type(graph).__name__}"
    for part in ("nodes", "links"):
        if not isinstance(graph.get(part), list):
            return f"{part} is not a list"
    for part in ("inputs", "outputs"):
        if not _is_list_of_objects(graph.get(part)):
            return f"{part} is not a list of objects"
    ids: set[Hashable] = set()
    for node in graph["nodes"]:
        if (fault := _fault_of_node(node)) is not None:
            return fault
        if node["id"] in ids:
            return f"two nodes have the id {shortened(node['id'])}"
        ids.add(node["id"])
    return next((f"not a link: {shortened(link)}" for link in graph["links"] if not _is_saved_link(link)), None)


def _fault_of_node(node: Any) -> str | None:
    if not isinstance(node, dict):
        return f"not a node: {shortened(node)}"
    if not _is_id(node.get("id")):
        return f"the id of a node is neither an integer nor a string: {shortened(node.get('id'))}"
    name = shortened(node["id"])
    if not isinstance(node.get("type"), str):
        return f"node {name} has no type"
    for part in ("inputs", "outputs"):
        if not _is_list_of_objects(node.get(part)):
            return f"{part} of node {name} is not a list of objects"
    for item in node.get("inputs") or []:
        if item.get("link") is not None and not _is_id(item["link"]):
            return f"the link of an input of node {name} is neither an integer nor a string: {shortened(item['link'])}"
    return None


def _is_list_of_objects(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(item, dict) for item in value))


def _is_id(value: Any) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _is_saved_link(link: Any) -> bool:
    if isinstance(link, dict):
        values = [link.get(name) for name in LINK_FIELDS[:5]]
    elif isinstance(link, list) and len(link) >= 5:
        values = link[:5]
    else:
        return False
    return all(map(_is_id, values))
