"""Links of a workflow that the browser saves, and which outputs end in a SamplerCustom."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any

from .node_pairs import CONSUMERS, Json
from .validation import LINK_FIELDS, graphs_of

_INPUT_NODE, _OUTPUT_NODE = -10, -20  # the ends of a subgraph


@dataclass(frozen=True)
class Link:
    """A link of a graph. A graph saves it as a list and a subgraph as an object."""

    raw: Any

    def __getitem__(self, name: str) -> Any:
        return self.raw[name] if isinstance(self.raw, dict) else self.raw[LINK_FIELDS.index(name)]

    def move_target(self, slot: int) -> None:
        """Let the link end at another input of its node."""
        self.raw["target_slot" if isinstance(self.raw, dict) else LINK_FIELDS.index("target_slot")] = slot


def links_of(graph: Json) -> Iterator[Link]:
    """All links of a graph."""
    return map(Link, graph["links"])


def links_by_target(graph: Json) -> dict[Any, list[Link]]:
    """All links of a graph, by the id of the node where they end."""
    found = defaultdict(list)
    for link in links_of(graph):
        found[link["target_id"]].append(link)
    return found


def outputs_that_feed_consumers(workflow: Json) -> set[Hashable]:
    """The outputs, as (graph, node, slot), that end in a SamplerCustom: through reroutes, into and out of subgraphs.

    The search goes backwards from the consumers, so that it follows each link once.
    """
    consumed: Hashable = "consumed"
    before = _sources_by_place(workflow, consumed)
    found: set[Hashable] = set()
    waiting = [consumed]
    while waiting:
        for source in before[waiting.pop()]:
            if source not in found:
                found.add(source)
                waiting.append(source)
    return found


def _sources_by_place(workflow: Json, consumed: Hashable) -> dict[Hashable, list[Hashable]]:
    """For each place that a value passes, (graph, node, slot), the places that it comes from.

    ``consumed``: stands for the inputs of all consumers.
    """
    graphs = graphs_of(workflow)
    subgraphs = {graph["id"]: number for number, graph in enumerate(graphs) if number}
    slots = [_slots_by_name(graph.get("inputs") or []) for graph in graphs]
    before: dict[Hashable, list[Hashable]] = defaultdict(list)
    for number, graph in enumerate(graphs):
        nodes = {node["id"]: node for node in graph["nodes"]}
        for link in links_of(graph):
            origin, target = nodes.get(link["origin_id"]), nodes.get(link["target_id"])
            source = (number, link["origin_id"], link["origin_slot"])
            if origin is not None and origin["type"] in subgraphs:
                before[source].append((subgraphs[origin["type"]], _OUTPUT_NODE, link["origin_slot"]))
            if link["target_id"] == _OUTPUT_NODE:
                before[number, _OUTPUT_NODE, link["target_slot"]].append(source)
            elif target is None:
                continue
            elif target["type"] in CONSUMERS:
                before[consumed].append(source)
            elif target["type"] == "Reroute":
                before[number, target["id"], 0].append(source)
            elif target["type"] in subgraphs:
                inner = subgraphs[target["type"]]
                slot = _inner_slot(target, slots[inner], link["target_slot"])
                before[inner, _INPUT_NODE, slot].append(source)
    return before


def _slots_by_name(items: list[Json]) -> dict[str, int]:
    """The slot of each name; of several items with one name, the first one's."""
    named = [(item.get("name"), slot) for slot, item in enumerate(items)]
    return {name: slot for name, slot in reversed(named) if isinstance(name, str)}


def _inner_slot(instance: Json, slots: dict[str, int], slot: Any) -> Any:
    """The input of a subgraph that belongs to input ``slot`` of its node. Names connect them."""
    inputs = instance.get("inputs") or []
    name = inputs[slot].get("name") if isinstance(slot, int) and 0 <= slot < len(inputs) else None
    return slots.get(name, slot) if isinstance(name, str) else slot
