"""Puts the CHORDS samplers into a workflow, in place of the stock ones; nothing else in it changes.

    python swap.py workflow.json with_chords.json     one file, as saved by the browser or for the API
    python swap.py workflows with_chords              all workflows of a folder and of those in it
    python swap.py with_chords.json stock.json --back

KSampler becomes KSampler (CHORDS), KSampler Advanced its twin, and a KSamplerSelect that feeds SamplerCustom or
SamplerCustomAdvanced becomes CHORDS Sampler, in subgraphs, too. Other samplers stay, and are named.

A file is written whole or not at all. One that cannot be read or written is named, the others of its folder are swapped
all the same, and the exit status is 1.

This one file is all there is to it: copy it where you need it. It needs Python 3.10 and nothing else.
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 10):  # noqa: UP036 - this is what tells the user
    sys.exit(f"Python 3.10 or newer is needed; this is {sys.version.split()[0]}.")

import argparse
import contextlib
import copy
import json
import os
import re
import reprlib
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Json = dict[str, Any]

PACK = "comfyui-chords"  # what the frontend asks the registry for where a node is missing
HOST = "comfy-core"
OPTIONAL = 7  # the frontend's shape of an optional input
SOCKETS = {"devices": "CHORDS_DEVICE_SET", "preview_vae": "VAE"}
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
_MOST_DIGITS = 400  # of a number, more than a float can have


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


class BadWorkflow(NotAWorkflow):
    """What was given may have been a workflow, and cannot be read."""


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
    return isinstance(workflow, dict) and _fault(workflow) is None


def swap(workflow: Any) -> Swapped:
    """A copy of a workflow, in either format, with the CHORDS samplers in place of the stock ones."""
    return _change(workflow, _swap_saved, _swap_api)


def back(workflow: Any) -> Swapped:
    """A copy of a workflow with the stock samplers in place of ours. What ours were set to is lost."""
    return _change(workflow, _back_saved, _back_api)


def _change(workflow: Any, saved: Callable[[Json], Swapped], api: Callable[[Json], Swapped]) -> Swapped:
    try:
        if is_api(workflow):
            return api(copy.deepcopy(workflow))
        if is_saved(workflow):
            return saved(copy.deepcopy(workflow))
        raise _what_is_wrong(workflow)
    except RecursionError:
        raise BadWorkflow("it is nested too deep") from None


def _what_is_wrong(value: Any) -> NotAWorkflow:
    if not isinstance(value, dict):
        return NotAWorkflow(f"no workflow: a JSON object is needed, this is a {type(value).__name__}")
    if not value:
        return NotAWorkflow("no workflow: it is empty")
    for name in ("prompt", "workflow"):
        if is_api(value.get(name)) or is_saved(value.get(name)):
            return NotAWorkflow(
                f"no workflow by itself, but it holds one under '{name}': put that into a file of its own"
            )
    if "nodes" in value:
        return BadWorkflow(f"no workflow: it has nodes, but they are not as the browser saves them: {_fault(value)}")
    if any(isinstance(node, dict) and "class_type" in node for node in value.values()):
        name = next(name for name, node in value.items() if not is_api({name: node}))
        return BadWorkflow(f"no workflow: {_short(name)} is no node with class_type (a text) and inputs (an object)")
    return NotAWorkflow(
        "no workflow: neither nodes and links, as the browser saves, nor nodes with class_type and inputs (API)"
    )


def _short(value: Any) -> str:
    """A value for a message, of 80 characters at most."""
    text = reprlib.repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


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
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str | int) and isinstance(value[1], int)


# ---- the format the browser saves


def _graphs(workflow: Json) -> list[Any]:
    """The graph itself, and its subgraphs."""
    definitions = workflow.get("definitions")
    subgraphs = definitions.get("subgraphs") if isinstance(definitions, dict) else None
    return [workflow, *(subgraphs if isinstance(subgraphs, list) else [])]


def _fault(workflow: Json) -> str | None:
    """What is not as the browser saves it, if anything is not."""
    graphs = _graphs(workflow)
    for number, graph in enumerate(graphs):
        if (fault := _fault_of_graph(graph)) is not None:
            return f"subgraph {number}: {fault}" if number else fault
    names = [graph.get("id") for graph in graphs[1:]]
    if not all(isinstance(name, str) for name in names):
        return "the id of a subgraph is no text"
    twice = [name for name, count in Counter(names).items() if count > 1]
    return f"two subgraphs have the id {_short(twice[0])}" if twice else None


def _fault_of_graph(graph: Any) -> str | None:
    if not isinstance(graph, dict):
        return f"it is a {type(graph).__name__}"
    for part in ("nodes", "links"):
        if not isinstance(graph.get(part), list):
            return f"{part} is no list"
    for part in ("inputs", "outputs"):
        if not _is_list_of_objects(graph.get(part)):
            return f"{part} is no list of objects"
    ids = set()
    for node in graph["nodes"]:
        if (fault := _fault_of_node(node)) is not None:
            return fault
        if node["id"] in ids:
            return f"two nodes have the id {_short(node['id'])}"
        ids.add(node["id"])
    return next((f"no link: {_short(link)}" for link in graph["links"] if not _is_saved_link(link)), None)


def _fault_of_node(node: Any) -> str | None:
    if not isinstance(node, dict):
        return f"no node: {_short(node)}"
    if not _is_id(node.get("id")):
        return f"the id of a node is neither a whole number nor a text: {_short(node.get('id'))}"
    if not isinstance(node.get("type"), str):
        return f"node {_short(node['id'])} has no type"
    for part in ("inputs", "outputs"):
        if not _is_list_of_objects(node.get(part)):
            return f"{part} of node {_short(node['id'])} is no list of objects"
    for item in node.get("inputs") or []:
        if item.get("link") is not None and not _is_id(item["link"]):
            return f"an input of node {_short(node['id'])} has an odd link: {_short(item['link'])}"
    return None


def _is_list_of_objects(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(item, dict) for item in value))


def _is_id(value: Any) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _is_saved_link(link: Any) -> bool:
    if isinstance(link, dict):
        values = [link.get(name) for name in _LINK[:5]]
    elif isinstance(link, list) and len(link) >= 5:
        values = link[:5]
    else:
        return False
    return all(map(_is_id, values))


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


def _links_by_target(graph: Json) -> dict[Any, list[_Link]]:
    found = defaultdict(list)
    for link in _links(graph):
        found[link["target_id"]].append(link)
    return found


def _swap_saved(workflow: Json) -> Swapped:
    result = Swapped(workflow)
    feeding = _outputs_that_feed_consumers(workflow)
    for number, graph in enumerate(_graphs(workflow)):
        links = _links_by_target(graph)
        for node in graph["nodes"]:
            kind = BY_STOCK.get(node["type"])
            if kind and (kind.gives_run or (number, node["id"], 0) in feeding):
                values = node.get("widgets_values")
                if isinstance(values, list) and values and len(values) != kind.values:
                    count = f"{len(values)} values instead of {kind.values}: open it in the browser and save it anew"
                    result.left.append(f"{node['id']} {kind.stock} ({count})")
                    continue
                _swap_node(node, kind, links[node["id"]])
                result.done[kind.stock, kind.ours] += 1
            else:
                _note_left(result, node["id"], node["type"])
    for name, group in _object(_object(workflow.get("extra")).get("groupNodes")).items():
        nodes = _object(group).get("nodes")
        kinds = [_object(node).get("type") for node in nodes] if isinstance(nodes, list) else []
        if any(isinstance(kind, str) and kind in BY_STOCK for kind in kinds):
            result.left.append(f"group node '{name}' (turn it into a subgraph)")
    return result


def _object(value: Any) -> Json:
    """What is an object as it is, and anything else as an empty one."""
    return value if isinstance(value, dict) else {}


def _swap_node(node: Json, kind: Kind, links: Iterable[_Link]) -> None:
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
    _set_inputs(node, [*inputs[:first], *sockets, *inputs[first:], *widgets], links)
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
        links = _links_by_target(graph)
        for node in graph["nodes"]:
            kind = BY_OURS.get(node["type"])
            if kind is None:
                continue
            linked = [item["name"] for item in node.get("inputs") or [] if item.get("name") in ours and _linked(item)]
            linked += [RUN for item in node.get("outputs") or [] if item.get("name") == RUN and item.get("links")]
            if linked:
                _note_connected(result, node["id"], kind, linked)
                continue
            node["type"] = kind.stock
            _rename(node, kind.ours, kind.stock, PACK, HOST)
            _retitle(node, kind.our_title, kind.stock_title)
            inputs = [item for item in node.get("inputs") or [] if item.get("name") not in ours]
            _set_inputs(node, inputs, links[node["id"]])
            node["outputs"] = [item for item in node.get("outputs") or [] if item.get("name") != RUN]
            if isinstance(node.get("widgets_values"), list):
                node["widgets_values"] = node["widgets_values"][: kind.values]
            if isinstance(node.get("widgets_values_named"), dict):
                for name in WIDGETS:
                    node["widgets_values_named"].pop(name, None)
            result.done[kind.ours, kind.stock] += 1
    return result


def _linked(item: Json) -> bool:
    return item.get("link") is not None


def _set_inputs(node: Json, inputs: list[Json], links: Iterable[_Link]) -> None:
    """Give a node other inputs and let the ``links`` to it end where they belong now.

    An input names its link; a link that no input names, which old files have, keeps to the input it ended at.
    """
    places = {id(item): slot for slot, item in enumerate(inputs)}
    slots = {item["link"]: slot for slot, item in enumerate(inputs) if _linked(item)}
    moved = {slot: places.get(id(item), slot) for slot, item in enumerate(node.get("inputs") or [])}
    for link in links:
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


def _outputs_that_feed_consumers(workflow: Json) -> set[Hashable]:
    """The outputs, as (graph, node, slot), that end in a SamplerCustom, through reroutes and into or out of subgraphs:
    found from there backwards, so that each link is looked at once."""
    graphs = _graphs(workflow)
    subgraphs = {graph["id"]: number for number, graph in enumerate(graphs) if number}
    slots = [_slots_by_name(graph.get("inputs") or []) for graph in graphs]
    consumed: Hashable = "consumed"
    before: dict[Hashable, list[Hashable]] = defaultdict(list)
    for number, graph in enumerate(graphs):
        nodes = {node["id"]: node for node in graph["nodes"]}
        for link in _links(graph):
            origin, target = nodes.get(link["origin_id"]), nodes.get(link["target_id"])
            source = (number, link["origin_id"], link["origin_slot"])
            if origin is not None and origin["type"] in subgraphs:
                before[source].append((subgraphs[origin["type"]], OUTPUT_NODE, link["origin_slot"]))
            if link["target_id"] == OUTPUT_NODE:
                before[number, OUTPUT_NODE, link["target_slot"]].append(source)
            elif target is None:
                continue
            elif target["type"] in CONSUMERS:
                before[consumed].append(source)
            elif target["type"] == "Reroute":
                before[number, target["id"], 0].append(source)
            elif target["type"] in subgraphs:
                inner = subgraphs[target["type"]]
                slot = _inner_slot(target, slots[inner], link["target_slot"])
                before[inner, INPUT_NODE, slot].append(source)
    found: set[Hashable] = set()
    open_ = [consumed]
    while open_:
        for source in before[open_.pop()]:
            if source not in found:
                found.add(source)
                open_.append(source)
    return found


def _slots_by_name(items: list[Json]) -> dict[str, int]:
    """Of several items of one name the first."""
    named = [(item.get("name"), slot) for slot, item in enumerate(items)]
    return {name: slot for name, slot in reversed(named) if isinstance(name, str)}


def _inner_slot(instance: Json, slots: dict[str, int], slot: Any) -> Any:
    """Which input of a subgraph that input of its node is: they go by name."""
    inputs = instance.get("inputs") or []
    name = inputs[slot].get("name") if isinstance(slot, int) and 0 <= slot < len(inputs) else None
    return slots.get(name, slot) if isinstance(name, str) else slot


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
    """A workflow file's text after the change, indented and escaped as it was."""
    try:
        workflow = json.loads(text, parse_int=_whole, parse_float=_fraction, object_pairs_hook=_without_twins)
        result = change(workflow)
        if not result.done:
            return text, result
        start = re.match(r"\s*[{\[](\r?\n)([ \t]*)", text)
        text_after = json.dumps(
            result.workflow,
            ensure_ascii=text.isascii(),
            indent=start[2] if start else None,
            separators=None if start or '": ' in text else (",", ":"),
        )
    except NotAWorkflow:
        raise
    except RecursionError:
        raise BadWorkflow("it is nested too deep") from None
    except ValueError as error:
        raise BadWorkflow(f"not JSON: {error}") from None
    # Half a character, which JSON allows only as an escape. It can be in strings only.
    text_after = re.sub("[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", text_after)
    if start and start[1] == "\r\n":
        text_after = text_after.replace("\n", "\r\n")
    end = re.search(r"\r?\n\Z", text)
    return text_after + (end[0] if end else ""), result


def _whole(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise BadWorkflow(f"it has a number of {len(digits)} digits")
    return int(digits)


def _fraction(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise BadWorkflow(f"it has the number {digits[:20]}, which is too large")
    return value


def _without_twins(pairs: list[tuple[str, Any]]) -> Json:
    """An object. Of two values under one key, one would be lost."""
    value = dict(pairs)
    if len(value) != len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise BadWorkflow(f"the key {_short(twice)} is there twice in one object")
    return value


def swap_file(source: Path, target: Path, change: Callable[[Any], Swapped] = swap) -> Swapped:
    """Write a workflow file after the change to another (or the same) file, whole or not at all."""
    try:
        text = source.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadWorkflow("not JSON: it is no text in UTF-8") from None
    text, result = swap_text(text, change)
    _write(target, text.encode())
    return result


def _write(target: Path, data: bytes) -> None:
    """Write a file in one step: whatever happens, it is the old one or the whole new one. Of a link, the file that it
    points to is written."""
    target = Path(os.path.realpath(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and not target.is_file():  # such as /dev/stdout
        target.write_bytes(data)
        return
    beside = target.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with beside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(OSError):  # a new file, or a disk without permissions
            os.chmod(beside, target.stat().st_mode & 0o7777)
        os.replace(beside, target)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


def _swap_folder(source: Path, target: Path, change: Callable[[Any], Swapped]) -> int:
    """Swap in all workflows of a folder. Files that are none are named and not written; so are those that cannot be
    read or written, and then the result is 1."""
    written = failed = 0
    for path in _files(source, target):
        name = path.relative_to(source)
        try:
            if not path.is_file():
                raise OSError("no file, or a link to none")
            result = swap_file(path, target / name, change)
        except BadWorkflow as error:
            failed += 1
            _say(f"{name}: error: {error}", sys.stderr)
        except NotAWorkflow as error:
            _say(f"{name}: skipped: {error}", sys.stderr)
        except OSError as error:
            failed += 1
            _say(f"{name}: error: {error}", sys.stderr)
        else:
            written += 1
            _say(f"{name}: {summary(result)}")
    _say(f"{written} workflows written to {target}" + (f"; {failed} files could not be swapped" if failed else ""))
    return 0 if written and not failed else 1


def _files(source: Path, target: Path) -> list[Path]:
    """The files to swap in: not those that an earlier run has written into a folder of the same folder."""
    outer, inner = os.path.realpath(source), Path(os.path.realpath(target))
    own = inner.is_relative_to(outer) and inner != Path(outer)
    found = sorted(path for path in source.rglob("*.json") if path.is_symlink() or not path.is_dir())
    return [path for path in found if not (own and Path(os.path.realpath(path.parent)).is_relative_to(inner))]


def _say(message: str, stream: Any = None) -> None:
    """Print one line, whatever the names in it are made of."""
    odd = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\ud800-\\udfff]")
    line = odd.sub(lambda found: found[0].encode("unicode_escape").decode(), message)
    stream = stream or sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    print(line.encode(encoding, "backslashreplace").decode(encoding), file=stream)


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
        _say(f"{target}: {summary(swap_file(options.source, target, change))}")
    except (NotAWorkflow, OSError) as error:
        message = str(error) if isinstance(error, OSError) else f"{options.source}: {error}"
        _say(f"error: {message}", sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
