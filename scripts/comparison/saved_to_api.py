"""A workflow as the browser saves it, as a prompt in API format.

The page does this when it queues a workflow. It knows its nodes; here the server's /object_info says which inputs each
class has. What cannot be converted for sure is a fault: the workflow then has to be exported by the page itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from workflow_swap.validation import LINK_FIELDS, graphs_of

Json = dict[str, Any]

MUTED, BYPASSED = 2, 4  # modes of a node
_INPUT_NODE = -10  # of a subgraph: its links come from the inputs of the subgraph's node
_OUTPUT_NODE = -20
_WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
_DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO_V3"
_CONTROLS = ("fixed", "increment", "decrement", "randomize", "increment-wrap")
_SEEDS = ("seed", "noise_seed")
EXPORT = "export the workflow from the page (Workflow > Export (API)), and compare that file"


@dataclass(frozen=True)
class Converted:
    """A workflow in API format. ``faults``: by node id, why a node could not be converted."""

    prompt: Json
    faults: dict[str, str]


@dataclass(frozen=True)
class _Value:
    """A value that a page-only node or the node of a subgraph gives, in place of a link."""

    value: Any


_Source = tuple[str, int] | _Value | None


@dataclass(eq=False)
class _Scope:
    """One graph at one place: the workflow itself, or a subgraph within the node that stands for it."""

    graph: Json
    prefix: str = ""
    parent: _Scope | None = None
    instance: Json = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.nodes = {node["id"]: node for node in self.graph["nodes"]}
        self.links = {link["id"]: link for link in map(_link, self.graph["links"])}
        self.promoted = dict(_promoted(self.instance))
        self.inner: dict[Any, _Scope] = {}

    def name(self, node_id: Any) -> str:
        """The id of a node in the prompt, as the page gives it: "12", or "12:3" within the subgraph of node 12."""
        return f"{self.prefix}{node_id}"


def to_api(workflow: Json, classes: Json) -> Converted:
    """The prompt of a saved workflow.

    Args:
        workflow: as the browser saves it; `workflow_swap.validation.is_saved` has accepted it.
        classes: the server's /object_info.
    """
    subgraphs = {graph["id"]: graph for graph in graphs_of(workflow)[1:]}
    converted = Converted({}, {})
    _add(_Scope(workflow), subgraphs, classes, converted)
    return converted


def _add(scope: _Scope, subgraphs: Json, classes: Json, converted: Converted) -> None:
    """Add the nodes of a scope and of the subgraphs in it."""
    inside = {id_: node for id_, node in scope.nodes.items() if node["type"] in subgraphs}
    depth = scope.prefix.count(":")
    for node_id, node in inside.items():
        if depth < 32:  # a file may have a subgraph within itself
            scope.inner[node_id] = _Scope(subgraphs[node["type"]], f"{scope.name(node_id)}:", scope, node)
    for node_id, inner in scope.inner.items():
        if scope.nodes[node_id].get("mode") not in (MUTED, BYPASSED):
            _add(inner, subgraphs, classes, converted)
    for node_id, node in scope.nodes.items():
        if node_id in inside or node.get("mode") in (MUTED, BYPASSED) or node["type"] in ("Reroute", "PrimitiveNode"):
            continue
        name = scope.name(node_id)
        inputs: Json = {}
        if node["type"] in classes:
            inputs, fault = _widgets(node, classes[node["type"]])
        else:
            fault = "the server does not have it: install its pack. If only the page has it"
        if fault:
            converted.faults[name] = f"node {name} ({node['type']}): {fault}, {EXPORT}"
        inputs |= {key: value for (where, key), value in scope.promoted.items() if where == str(node_id)}
        for item in node.get("inputs") or []:
            source = _origin(scope, item["link"]) if item.get("link") is not None else None
            if isinstance(source, _Value):
                inputs[item["name"]] = source.value
            elif source is not None:
                inputs[item["name"]] = list(source)
        title = node.get("title") or classes.get(node["type"], {}).get("display_name") or node["type"]
        converted.prompt[name] = {"class_type": node["type"], "inputs": inputs, "_meta": {"title": title}}


def _link(link: Any) -> Json:
    return link if isinstance(link, dict) else dict(zip(LINK_FIELDS, link, strict=False))


def _promoted(instance: Json) -> Iterator[tuple[tuple[str, str], Any]]:
    """The values that the node of a subgraph saves for widgets within, by (inner node id, name)."""
    values = instance.get("widgets_values")
    proxies = (instance.get("properties") or {}).get("proxyWidgets") or []
    if isinstance(values, list) and len(values) == len(proxies):
        for (node_id, name, *_), value in zip(proxies, values, strict=True):
            if value is not None and name != "control_after_generate":
                yield (str(node_id), str(name)), value


def _own_values(instance: Json) -> Json:
    """The values of a subgraph's node by input, where it saves one for each input with a widget (older frontends)."""
    values = instance.get("widgets_values")
    names = [item["name"] for item in instance.get("inputs") or [] if "widget" in item]
    proxies = (instance.get("properties") or {}).get("proxyWidgets")
    return dict(zip(names, values, strict=True)) if not proxies and values and len(values) == len(names) else {}


def _origin(scope: _Scope, link_id: Any) -> _Source:
    """Where a link comes from in the end, through everything that only the page knows."""
    link = scope.links.get(link_id)
    return None if link is None else _output(scope, link["origin_id"], link["origin_slot"])


def _output(scope: _Scope, node_id: Any, slot: int) -> _Source:
    if node_id == _INPUT_NODE:
        return _outside(scope, slot)
    node = scope.nodes.get(node_id)
    if node is None or node.get("mode") == MUTED:
        return None
    if node.get("mode") == BYPASSED:
        return _passed_by(scope, node, slot)
    if node["type"] == "Reroute":
        link = next((item.get("link") for item in node.get("inputs") or []), None)
        return _origin(scope, link)
    if node["type"] == "PrimitiveNode":
        values = node.get("widgets_values") or [None]
        return _Value(values[0])
    inner = scope.inner.get(node_id)
    if inner is None:
        return scope.name(node_id), slot
    ends = (link for link in inner.links.values() if link["target_id"] == _OUTPUT_NODE)
    return next((_origin(inner, link["id"]) for link in ends if link["target_slot"] == slot), None)


def _outside(scope: _Scope, slot: int) -> _Source:
    """What an input of a subgraph gets from outside; None: nothing, so that the widget within keeps its value."""
    inputs = scope.graph.get("inputs") or []
    if scope.parent is None or not 0 <= slot < len(inputs):
        return None
    name = inputs[slot]["name"]
    item: Json = next((item for item in scope.instance.get("inputs") or [] if item["name"] == name), {})
    if item.get("link") is not None:
        return _origin(scope.parent, item["link"])
    own = _own_values(scope.instance)
    return _Value(own[name]) if name in own else None


def _passed_by(scope: _Scope, node: Json, slot: int) -> _Source:
    """What an output of a bypassed node gives: the input of the same type, best at the same place."""
    outputs, inputs = node.get("outputs") or [], node.get("inputs") or []
    if not 0 <= slot < len(outputs):
        return None
    kind = outputs[slot].get("type")
    in_order = [*inputs[slot : slot + 1], *inputs]
    link = next((item.get("link") for item in in_order if item.get("type") == kind), None)
    return _origin(scope, link)


def _widgets(node: Json, known: Json) -> tuple[Json, str | None]:
    """The values of a node's widgets by input, and what is wrong with them."""
    values = node.get("widgets_values") or []
    specs = {**known["input"].get("required", {}), **known["input"].get("optional", {})}
    if isinstance(values, dict):
        return {key: value for key, value in values.items() if key in specs}, None
    shown = {item["widget"]["name"] for item in node.get("inputs") or [] if isinstance(item.get("widget"), dict)}
    left: list[Any] = list(values)
    found: Json = {}
    uploads = _take(specs, "", shown, left, found)
    _fill(known["input"].get("required", {}), found)
    surplus = [value for value in left if value is not None]
    if surplus and found and not uploads:  # a node without widgets may save what it has shown
        count = "a value" if len(surplus) == 1 else f"{len(surplus)} values"
        return found, f"it has {count} more than its class has inputs, so it is of another version"
    return found, None


def _fill(required: Json, found: Json) -> None:
    """Give required inputs without a value their default, as the page does: the file may be of an older version."""
    for name, spec in required.items():
        options = spec[1] if len(spec) > 1 and isinstance(spec[1], dict) else {}
        if "default" in options:
            found.setdefault(name, options["default"])


def _take(specs: Json, prefix: str, shown: set[str], left: list[Any], found: Json) -> bool:
    """Move the values of these inputs, in order, from ``left`` to ``found``. Returns whether one has an upload button,
    which is a widget, too."""
    uploads = False
    for key, spec in specs.items():
        name = f"{prefix}{key}"
        kind, options = spec[0], spec[1] if len(spec) > 1 and isinstance(spec[1], dict) else {}
        plain = isinstance(kind, list) or kind in _WIDGETS or options.get("widgetType")
        if not left or options.get("forceInput") or not (plain or kind == _DYNAMIC_COMBO or name in shown):
            continue
        found[name] = left.pop(0)
        uploads |= any(option.endswith("upload") and set_ for option, set_ in options.items())
        if kind == _DYNAMIC_COMBO:
            chosen: Json = next((each for each in options.get("options", []) if each.get("key") == found[name]), {})
            inner = chosen.get("inputs") or {}
            parts = {**inner.get("required", {}), **inner.get("optional", {})}
            uploads |= _take(parts, f"{name}.", shown, left, found)
        controlled = options.get("control_after_generate") or (kind == "INT" and key in _SEEDS)
        if controlled and left and left[0] in _CONTROLS:
            left.pop(0)
    return uploads
