"""Swaps in a workflow in the format that the browser saves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .node_pairs import (
    BY_OURS,
    BY_STOCK,
    HOST,
    OPTIONAL,
    PACK,
    RUN,
    SOCKETS,
    WIDGETS,
    Json,
    Kind,
    Swapped,
    retitle,
)
from .sampler_links import Link, links_by_target, outputs_that_feed_consumers
from .validation import graphs_of

_OUR_INPUTS = (*SOCKETS, *WIDGETS)


def swap_saved(workflow: Json) -> Swapped:
    """Replace the stock samplers, in place."""
    result = Swapped(workflow)
    feeding = outputs_that_feed_consumers(workflow)
    for number, graph in enumerate(graphs_of(workflow)):
        links = links_by_target(graph)
        for node in graph["nodes"]:
            kind = BY_STOCK.get(node["type"])
            if not kind or not (kind.gives_run or (number, node["id"], 0) in feeding):
                result.note_left(node["id"], node["type"])
                continue
            values = node.get("widgets_values")
            if isinstance(values, list) and values and len(values) != kind.values:
                reason = f"{len(values)} values instead of {kind.values}: open it in the browser and save it again"
                result.left.append(f"{node['id']} {kind.stock} ({reason})")
                continue
            _swap_node(node, kind, links[node["id"]])
            result.done[kind.stock, kind.ours] += 1
    _note_group_nodes(result)
    return result


def _note_group_nodes(result: Swapped) -> None:
    """Name the group nodes (an old kind of subgraph) that hold stock samplers: they are not changed."""
    for name, group in _object(_object(result.workflow.get("extra")).get("groupNodes")).items():
        nodes = _object(group).get("nodes")
        types = [_object(node).get("type") for node in nodes] if isinstance(nodes, list) else []
        if any(isinstance(node_type, str) and node_type in BY_STOCK for node_type in types):
            result.left.append(f"group node '{name}' (convert it to a subgraph)")


def _object(value: Any) -> Json:
    """The value if it is an object, otherwise an empty object."""
    return value if isinstance(value, dict) else {}


def _swap_node(node: Json, kind: Kind, links: Iterable[Link]) -> None:
    node["type"] = kind.ours
    _rename(node, kind.stock, kind.ours, HOST, PACK)
    retitle(node, kind.stock_title, kind.our_title)
    inputs = node.get("inputs") or []
    first = 1 + max((i for i, item in enumerate(inputs) if "widget" not in item), default=-1)
    sockets = [{"name": name, "shape": OPTIONAL, "type": type_, "link": None} for name, type_ in SOCKETS.items()]
    widgets = [
        {"name": name, "shape": OPTIONAL, "type": type_, "widget": {"name": name}, "link": None}
        for name, (type_, _) in WIDGETS.items()
    ]
    _set_inputs(node, [*inputs[:first], *sockets, *inputs[first:], *widgets], links)
    if kind.gives_run:
        node["outputs"] = [*(node.get("outputs") or []), {"name": RUN, "type": RUN, "links": None}]
    if isinstance(node.get("widgets_values"), list) and node["widgets_values"]:
        node["widgets_values"] += [default for _, default in WIDGETS.values()]
    if isinstance(node.get("widgets_values_named"), dict):
        node["widgets_values_named"] |= {name: default for name, (_, default) in WIDGETS.items()}


def swap_back_saved(workflow: Json) -> Swapped:
    """Replace the CHORDS samplers by the stock ones, in place."""
    result = Swapped(workflow)
    for graph in graphs_of(workflow):
        links = links_by_target(graph)
        for node in graph["nodes"]:
            kind = BY_OURS.get(node["type"])
            if kind is None:
                continue
            linked = [i["name"] for i in node.get("inputs") or [] if i.get("name") in _OUR_INPUTS and _is_linked(i)]
            linked += [RUN for item in node.get("outputs") or [] if item.get("name") == RUN and item.get("links")]
            if linked:
                result.note_connected(node["id"], kind, linked)
                continue
            _swap_node_back(node, kind, links[node["id"]])
            result.done[kind.ours, kind.stock] += 1
    return result


def _swap_node_back(node: Json, kind: Kind, links: Iterable[Link]) -> None:
    node["type"] = kind.stock
    _rename(node, kind.ours, kind.stock, PACK, HOST)
    retitle(node, kind.our_title, kind.stock_title)
    inputs = [item for item in node.get("inputs") or [] if item.get("name") not in _OUR_INPUTS]
    _set_inputs(node, inputs, links)
    node["outputs"] = [item for item in node.get("outputs") or [] if item.get("name") != RUN]
    if isinstance(node.get("widgets_values"), list):
        node["widgets_values"] = node["widgets_values"][: kind.values]
    if isinstance(node.get("widgets_values_named"), dict):
        for name in WIDGETS:
            node["widgets_values_named"].pop(name, None)


def _is_linked(item: Json) -> bool:
    return item.get("link") is not None


def _set_inputs(node: Json, inputs: list[Json], links: Iterable[Link]) -> None:
    """Give a node other inputs, and move the ends of its ``links`` to the right ones.

    An input names its link. Old files have links that no input names: such a link follows the input where it ended.
    """
    places = {id(item): slot for slot, item in enumerate(inputs)}
    slots = {item["link"]: slot for slot, item in enumerate(inputs) if _is_linked(item)}
    moved = {slot: places.get(id(item), slot) for slot, item in enumerate(node.get("inputs") or [])}
    for link in links:
        link.move_target(slots.get(link["id"], moved.get(link["target_slot"], link["target_slot"])))
    node["inputs"] = inputs


def _rename(node: Json, old: str, new: str, old_pack: str, new_pack: str) -> None:
    """Name the new node and its pack in the properties of a node."""
    properties = node.get("properties")
    if not isinstance(properties, dict):
        return
    if properties.get("Node name for S&R") == old:
        properties["Node name for S&R"] = new
    if properties.get("cnr_id") == old_pack:
        properties["cnr_id"] = new_pack
        properties.pop("ver", None)  # the version of the other pack
