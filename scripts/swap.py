"""Puts the CHORDS samplers into a workflow, in place of the stock ones; nothing else in it changes.

    python swap.py workflow.json with_chords.json     one file, as saved by the browser or for the API
    python swap.py workflows with_chords              all workflows of a folder and of those in it
    python swap.py with_chords.json stock.json --back

KSampler becomes KSampler (CHORDS), KSampler Advanced its twin, and a KSamplerSelect that feeds SamplerCustom or
SamplerCustomAdvanced becomes CHORDS Sampler, in subgraphs, too. Other samplers stay, and are named.

This one file is all there is to it: copy it where you need it. It needs Python 3.10 and nothing else.
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 10):  # noqa: UP036 - this is what tells the user
    sys.exit(f"Python 3.10 or newer is needed; this is {sys.version.split()[0]}.")

import argparse
import copy
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Json = dict[str, Any]

PACK = "comfyui-chords"  # what the frontend asks the registry for where a node is missing
HOST = "comfy-core"
OPTIONAL = 7  # the frontend's shape of an optional input
SOCKETS = {"devices": "CHORDS_DEVICES", "preview_vae": "VAE"}
WIDGETS = {
    "cores": ("INT", 0),
    "accept": ("COMBO", "auto"),
    "calls": ("COMBO", "every step"),
    "method": ("COMBO", "auto"),
}
RUN = "CHORDS_RUN"
CONSUMERS = ("SamplerCustom", "SamplerCustomAdvanced")
SAMPLES = re.compile("(?<!up)(?<!down)sampler", re.IGNORECASE)  # what a node's name has if it samples
INPUT_NODE, OUTPUT_NODE = -10, -20  # the ends of a subgraph


@dataclass(frozen=True)
class Kind:
    """A stock node and ours for it. values: how many widget values the stock one saves."""

    stock: str
    ours: str
    stock_title: str
    our_title: str
    values: int
    gives_run: bool


KINDS = (
    Kind("KSampler", "ChordsKSampler", "KSampler", "KSampler (CHORDS)", 7, True),
    Kind(
        "KSamplerAdvanced",
        "ChordsKSamplerAdvanced",
        "KSampler (Advanced)",
        "KSampler Advanced (CHORDS)",
        10,
        True,
    ),
    Kind("KSamplerSelect", "ChordsSampler", "KSamplerSelect", "CHORDS Sampler", 1, False),
)
BY_STOCK = {kind.stock: kind for kind in KINDS}
BY_OURS = {kind.ours: kind for kind in KINDS}


class NotAWorkflow(ValueError):
    """What was given is no workflow; the message says what is wrong."""


@dataclass
class Swapped:
    """A workflow after the swap: how often which node took the place of which, and what stayed, with the reason."""

    workflow: Json
    done: Counter[tuple[str, str]] = field(default_factory=Counter)
    left: list[str] = field(default_factory=list)


def is_api(workflow: Any) -> bool:
    """Whether this is a workflow as POST /prompt takes it."""
    return (
        isinstance(workflow, dict)
        and bool(workflow)
        and all(
            isinstance(node, dict) and isinstance(node.get("class_type"), str) and isinstance(node.get("inputs"), dict)
            for node in workflow.values()
        )
    )


def is_saved(workflow: Any) -> bool:
    """Whether this is a workflow as the browser saves it."""
    return isinstance(workflow, dict) and all(_is_graph(graph) for graph in _graphs(workflow))


def swap(workflow: Any) -> Swapped:
    """A copy of a workflow, in either format, with the CHORDS samplers in place of the stock ones."""
    return _change(workflow, _swap_saved, _swap_api)


def back(workflow: Any) -> Swapped:
    """A copy of a workflow with the stock samplers in place of ours. What ours were set to is lost."""
    return _change(workflow, _back_saved, _back_api)


def _change(workflow: Any, saved: Callable[[Json], Swapped], api: Callable[[Json], Swapped]) -> Swapped:
    if is_api(workflow):
        return api(copy.deepcopy(workflow))
    if is_saved(workflow):
        return saved(copy.deepcopy(workflow))
    raise NotAWorkflow(_what_is_wrong(workflow))


def _what_is_wrong(value: Any) -> str:
    if not isinstance(value, dict):
        return f"no workflow: a JSON object is needed, this is a {type(value).__name__}"
    if not value:
        return "no workflow: it is empty"
    for name in ("prompt", "workflow"):
        if is_api(value.get(name)) or is_saved(value.get(name)):
            return f"no workflow by itself, but it holds one under '{name}': put that into a file of its own"
    if "nodes" in value:
        return "no workflow: it has nodes, but they are not as the browser saves them"
    return "no workflow: neither nodes and links, as the browser saves, nor nodes with class_type and inputs (API)"


# ---- the format of the API


def _swap_api(workflow: Json) -> Swapped:
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
            _retitle(node.get("_meta"), kind.stock_title, kind.our_title)
            result.done[kind.stock, kind.ours] += 1
        else:
            _note_left(result, name, node["class_type"])
    return result


def _back_api(workflow: Json) -> Swapped:
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
            _note_connected(result, name, kind, linked)
            continue
        node["class_type"] = kind.stock
        for label in (*SOCKETS, *WIDGETS):
            node["inputs"].pop(label, None)
        _retitle(node.get("_meta"), kind.our_title, kind.stock_title)
        result.done[kind.ours, kind.stock] += 1
    return result


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[1], int)


# ---- the format the browser saves


def _graphs(workflow: Json) -> list[Any]:
    """The graph itself, and its subgraphs."""
    definitions = workflow.get("definitions")
    subgraphs = definitions.get("subgraphs") if isinstance(definitions, dict) else None
    return [workflow, *(subgraphs if isinstance(subgraphs, list) else [])]


def _is_graph(graph: Any) -> bool:
    if not isinstance(graph, dict):
        return False
    nodes, links = graph.get("nodes"), graph.get("links")
    return (
        isinstance(nodes, list)
        and isinstance(links, list)
        and all(isinstance(node, dict) and "id" in node and isinstance(node.get("type"), str) for node in nodes)
        and all(isinstance(link, dict) or (isinstance(link, list) and len(link) >= 5) for link in links)
    )


@dataclass(frozen=True)
class _Link:
    """A link of a graph, which a graph saves as a list and a subgraph as an object."""

    raw: Any

    def __getitem__(self, name: str) -> Any:
        return self.raw[name] if isinstance(self.raw, dict) else self.raw[_LINK.index(name)]

    def enter(self, slot: int) -> None:
        """Let it end at another input of its node."""
        self.raw["target_slot" if isinstance(self.raw, dict) else _LINK.index("target_slot")] = slot


_LINK = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")


def _links(graph: Json) -> Iterator[_Link]:
    return map(_Link, graph["links"])


def _swap_saved(workflow: Json) -> Swapped:
    result = Swapped(workflow)
    for graph in _graphs(workflow):
        for node in graph["nodes"]:
            kind = BY_STOCK.get(node["type"])
            if kind and (kind.gives_run or _feeds_consumer(workflow, graph, node["id"])):
                values = node.get("widgets_values")
                if isinstance(values, list) and values and len(values) != kind.values:
                    count = f"{len(values)} values instead of {kind.values}: open it in the browser and save it anew"
                    result.left.append(f"{node['id']} {kind.stock} ({count})")
                    continue
                _swap_node(graph, node, kind)
                result.done[kind.stock, kind.ours] += 1
            else:
                _note_left(result, node["id"], node["type"])
    groups = (workflow.get("extra") or {}).get("groupNodes") or {}
    for name, group in groups.items():
        if any(node.get("type") in BY_STOCK for node in group.get("nodes", [])):
            result.left.append(f"group node '{name}' (turn it into a subgraph)")
    return result


def _swap_node(graph: Json, node: Json, kind: Kind) -> None:
    node["type"] = kind.ours
    _rename(node, kind.stock, kind.ours, HOST, PACK)
    _retitle(node, kind.stock_title, kind.our_title)
    inputs = node.get("inputs") or []
    first = 1 + max((i for i, item in enumerate(inputs) if "widget" not in item), default=-1)
    sockets = [{"name": name, "shape": OPTIONAL, "type": type_, "link": None} for name, type_ in SOCKETS.items()]
    widgets = [
        {"name": name, "shape": OPTIONAL, "type": type_, "widget": {"name": name}, "link": None}
        for name, (type_, _) in WIDGETS.items()
    ]
    _set_inputs(graph, node, [*inputs[:first], *sockets, *inputs[first:], *widgets])
    if kind.gives_run:
        node["outputs"] = [*(node.get("outputs") or []), {"name": RUN, "type": RUN, "links": None}]
    if isinstance(node.get("widgets_values"), list) and node["widgets_values"]:
        node["widgets_values"] += [default for _, default in WIDGETS.values()]
    if isinstance(node.get("widgets_values_named"), dict):
        node["widgets_values_named"] |= {name: default for name, (_, default) in WIDGETS.items()}


def _back_saved(workflow: Json) -> Swapped:
    result = Swapped(workflow)
    ours = (*SOCKETS, *WIDGETS)
    for graph in _graphs(workflow):
        for node in graph["nodes"]:
            kind = BY_OURS.get(node["type"])
            if kind is None:
                continue
            linked = [item["name"] for item in node.get("inputs") or [] if item["name"] in ours and _linked(item)]
            linked += [item["name"] for item in node.get("outputs") or [] if item["name"] == RUN and item.get("links")]
            if linked:
                _note_connected(result, node["id"], kind, linked)
                continue
            node["type"] = kind.stock
            _rename(node, kind.ours, kind.stock, PACK, HOST)
            _retitle(node, kind.our_title, kind.stock_title)
            _set_inputs(graph, node, [item for item in node.get("inputs") or [] if item["name"] not in ours])
            node["outputs"] = [item for item in node.get("outputs") or [] if item["name"] != RUN]
            if isinstance(node.get("widgets_values"), list):
                node["widgets_values"] = node["widgets_values"][: kind.values]
            if isinstance(node.get("widgets_values_named"), dict):
                for name in WIDGETS:
                    node["widgets_values_named"].pop(name, None)
            result.done[kind.ours, kind.stock] += 1
    return result


def _linked(item: Json) -> bool:
    return item.get("link") is not None


def _set_inputs(graph: Json, node: Json, inputs: list[Json]) -> None:
    """Give a node other inputs and let its links end where they belong now.

    An input names its link; a link that no input names, which old files have, keeps to the input it ended at.
    """
    places = {id(item): slot for slot, item in enumerate(inputs)}
    slots = {item["link"]: slot for slot, item in enumerate(inputs) if _linked(item)}
    moved = {slot: places.get(id(item), slot) for slot, item in enumerate(node.get("inputs") or [])}
    for link in _links(graph):
        if link["target_id"] == node["id"]:
            link.enter(slots.get(link["id"], moved.get(link["target_slot"], link["target_slot"])))
    node["inputs"] = inputs


def _rename(node: Json, old: str, new: str, old_pack: str, new_pack: str) -> None:
    properties = node.get("properties")
    if not isinstance(properties, dict):
        return
    if properties.get("Node name for S&R") == old:
        properties["Node name for S&R"] = new
    if properties.get("cnr_id") == old_pack:
        properties["cnr_id"] = new_pack
        properties.pop("ver", None)  # that of the other pack


def _retitle(holder: Any, old: str, new: str) -> None:
    """A title of the user's own stays; one that only names the stock node names ours."""
    if isinstance(holder, dict) and holder.get("title") == old:
        holder["title"] = new


def _feeds_consumer(workflow: Json, graph: Json, node: Any, output: int = 0) -> bool:
    """Whether what a node puts out ends in a SamplerCustom, through reroutes and into or out of subgraphs."""
    subgraphs = {subgraph.get("id"): subgraph for subgraph in _graphs(workflow)[1:]}
    seen = set()
    open_ = [(graph, node, output)]
    while open_:
        graph, origin, slot = open_.pop()
        if (id(graph), origin, slot) in seen:
            continue
        seen.add((id(graph), origin, slot))
        nodes = {node["id"]: node for node in graph["nodes"]}
        for link in _links(graph):
            if (link["origin_id"], link["origin_slot"]) != (origin, slot):
                continue
            target = nodes.get(link["target_id"])
            if link["target_id"] == OUTPUT_NODE:
                open_ += [
                    (outer, instance["id"], link["target_slot"])
                    for outer in _graphs(workflow)
                    for instance in outer["nodes"]
                    if instance["type"] == graph.get("id")
                ]
            elif target is None:
                continue
            elif target["type"] in CONSUMERS:
                return True
            elif target["type"] == "Reroute":
                open_.append((graph, target["id"], 0))
            elif target["type"] in subgraphs:
                inner = subgraphs[target["type"]]
                open_.append((inner, INPUT_NODE, _inner_slot(target, inner, link["target_slot"])))
    return False


def _inner_slot(instance: Json, subgraph: Json, slot: int) -> int:
    """Which input of a subgraph that input of its node is: they go by name."""
    inputs = instance.get("inputs") or []
    name = inputs[slot]["name"] if slot < len(inputs) else None
    names = [item.get("name") for item in subgraph.get("inputs") or []]
    return names.index(name) if name in names else slot


# ---- what the user is told


def _note_left(result: Swapped, name: Any, kind: str) -> None:
    if kind in BY_STOCK:
        result.left.append(f"{name} {kind} (feeds no SamplerCustom)")
    elif SAMPLES.search(kind) and kind not in CONSUMERS and kind not in BY_OURS:
        result.left.append(f"{name} {kind}")


def _note_connected(result: Swapped, name: Any, kind: Kind, linked: list[str]) -> None:
    result.left.append(f"{name} {kind.ours} (disconnect {' and '.join(linked)} first)")


def summary(result: Swapped) -> str:
    """What happened, in a line."""
    done = ", ".join(f"{count} {old} -> {new}" for (old, new), count in result.done.items())
    left = f"; left as they are: {', '.join(result.left)}" if result.left else ""
    return (done or "nothing to swap") + left


# ---- files


def swap_text(text: str, change: Callable[[Any], Swapped] = swap) -> tuple[str, Swapped]:
    """A workflow file's text after the change, indented as it was."""
    try:
        workflow = json.loads(text)
    except ValueError as error:
        raise NotAWorkflow(f"not JSON: {error}") from None
    result = change(workflow)
    indented = re.match(r"\s*[{\[]\r?\n( *)", text)
    indent = len(indented[1]) if indented else None
    separators = None if indented or '": ' in text else (",", ":")
    end = "\n" if text.endswith("\n") else ""
    return json.dumps(result.workflow, ensure_ascii=False, indent=indent, separators=separators) + end, result


def swap_file(source: Path, target: Path, change: Callable[[Any], Swapped] = swap) -> Swapped:
    """Write a workflow file after the change to another (or the same) file."""
    try:
        text = source.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise NotAWorkflow("not JSON: it is no text") from None
    text, result = swap_text(text, change)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    return result


def _swap_folder(source: Path, target: Path, change: Callable[[Any], Swapped]) -> int:
    """Swap in all workflows of a folder; files that are none are named and not written."""
    written = 0
    for path in sorted(source.rglob("*.json")):
        name = path.relative_to(source)
        try:
            result = swap_file(path, target / name, change)
        except NotAWorkflow as error:
            print(f"{name}: skipped: {error}", file=sys.stderr)
            continue
        written += 1
        print(f"{name}: {summary(result)}")
    print(f"{written} workflows written to {target}")
    return 0 if written else 1


def main(arguments: list[str] | None = None) -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("source", type=Path, help="a workflow file, or a folder of them")
    parser.add_argument("target", type=Path, help="the file, or the folder, to write; may be the same")
    parser.add_argument("--back", action="store_true", help="put the stock samplers in place of ours")
    options = parser.parse_args(arguments)
    change = back if options.back else swap
    try:
        if options.source.is_dir():
            return _swap_folder(options.source, options.target, change)
        target = options.target / options.source.name if options.target.is_dir() else options.target
        print(f"{target}: {summary(swap_file(options.source, target, change))}")
    except (NotAWorkflow, OSError) as error:
        message = error if isinstance(error, OSError) else f"{options.source}: {error}"
        print(f"error: {message}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
