"""Swaps in a workflow in the format of POST /prompt."""

from __future__ import annotations

from typing import Any

from .node_pairs import BY_OURS, BY_STOCK, CONSUMERS, RUN, SOCKETS, WIDGETS, Json, Swapped, retitle


def swap_api(workflow: Json) -> Swapped:
    """Replace the stock samplers, in place."""
    result = Swapped(workflow)
    feeding = {
        str(node["inputs"]["sampler"][0])
        for node in workflow.values()
        if node["class_type"] in CONSUMERS and _is_link(node["inputs"].get("sampler"))
    }
    for name, node in workflow.items():
        kind = BY_STOCK.get(node["class_type"])
        if kind and (kind.gives_run or name in feeding):
            node["class_type"] = kind.ours
            retitle(node.get("_meta"), kind.stock_title, kind.our_title)
            result.done[kind.stock, kind.ours] += 1
        else:
            result.note_left(name, node["class_type"])
    return result


def swap_back_api(workflow: Json) -> Swapped:
    """Replace the CHORDS samplers by the stock ones, in place."""
    result = Swapped(workflow)
    run_used = {
        str(value[0])
        for node in workflow.values()
        for value in node["inputs"].values()
        if _is_link(value) and value[1] == 1
    }
    for name, node in workflow.items():
        kind = BY_OURS.get(node["class_type"])
        if kind is None:
            continue
        linked = [label for label in (*SOCKETS, *WIDGETS) if _is_link(node["inputs"].get(label))]
        linked += [RUN] if kind.gives_run and name in run_used else []
        if linked:
            result.note_connected(name, kind, linked)
            continue
        node["class_type"] = kind.stock
        for label in (*SOCKETS, *WIDGETS):
            node["inputs"].pop(label, None)
        retitle(node.get("_meta"), kind.our_title, kind.stock_title)
        result.done[kind.ours, kind.stock] += 1
    return result


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str | int) and isinstance(value[1], int)
