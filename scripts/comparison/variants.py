"""The variants of a workflow that are compared: KSampler, KSampler (CHORDS) at each fidelity, and peers.

A variant is a prompt that makes the workflow's pictures and nothing else: nothing is saved on the server.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from comfy_client import UsageError
from workflow_swap.files import swap
from workflow_swap.node_pairs import BY_OURS, BY_STOCK, SOCKETS, WIDGETS, summary

Json = dict[str, Any]

STOCK = "KSampler"
OURS = "KSampler (CHORDS)"
SAMPLERS = ("KSampler", "KSamplerAdvanced", "SamplerCustom", "SamplerCustomAdvanced")
"""The nodes that sample, before a swap."""
_SEEDS = ("seed", "noise_seed")
_PICTURE, _PEER = "compare_picture_", "compare_peer_"  # of the ids of nodes that are added
_KEPT = (*SOCKETS, "cores")  # of KSampler (CHORDS) in the workflow: where it runs, which stays as it is


@dataclass(frozen=True)
class Peer:
    """A node of the server that takes a model and gives one that is faster: it goes before the samplers.

    Attributes:
        inputs: those that differ from their defaults.
        several_devices: whether it needs more than one.
    """

    node: str
    inputs: tuple[tuple[str, Any], ...] = ()
    several_devices: bool = False

    @property
    def name(self) -> str:
        given = ", ".join(f"{key} {value}" for key, value in self.inputs)
        return f"{self.node} ({given})" if given else self.node


_EASYCACHE_NOTE = (
    "EasyCache writes into the network's input. Where a model computes in float32, as on many CPUs, ComfyUI goes on "
    "with the changed values and the picture is lost; that says nothing about EasyCache with a model in half precision."
)
PEERS = (
    Peer("EasyCache"),
    Peer("EasyCache", (("reuse_threshold", 0.05),)),
    Peer("LazyCache"),
    Peer("MultiGPU_WorkUnits", several_devices=True),
)
"""Those that are tried without being asked for, where the server has them: with the host's defaults, and EasyCache with
a threshold nearer to KSampler's picture, too."""


@dataclass(frozen=True)
class Variant:
    """One way to make the pictures.

    Attributes:
        name: in a few words. The name is also what `--variants` takes.
        prompt: in API format. Its `picture_nodes` show the pictures.
        samplers: the ids of the nodes that sample.
        peer: whether it is neither KSampler as it is nor ours.
        note: what a reader of its figures has to know; may be empty.
    """

    name: str
    prompt: Json
    samplers: tuple[str, ...]
    peer: bool = False
    note: str = ""

    @property
    def picture_nodes(self) -> list[str]:
        """The ids of the nodes that give the pictures."""
        return [name for name in self.prompt if name.startswith(_PICTURE)]

    def at(self, seed_offset: int) -> Json:
        """The prompt with each of its seeds moved by so much."""
        prompt = copy.deepcopy(self.prompt)
        for node, key in sorted(seed_places(prompt)):
            prompt[node]["inputs"][key] = _wrapped(prompt[node]["inputs"][key] + seed_offset)
        return prompt


@dataclass(frozen=True)
class Variants:
    """What is compared.

    Attributes:
        about: what a reader has to know of the workflow.
        left_out: why nodes that are usually tried are not.
    """

    all: tuple[Variant, ...]
    about: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """All that a reader has to know."""
        return tuple(dict.fromkeys([*self.about, *self.left_out, *(each.note for each in self.all if each.note)]))


def variants_of(workflow: Json, classes: Json, devices: int = 1, peers: Sequence[Peer] = ()) -> Variants:
    """All variants of a workflow that this server can run, KSampler as it is first.

    Args:
        workflow: in API format, with KSampler or KSampler (CHORDS).
        classes: the server's /object_info.
        devices: how many devices the server has.
        peers: nodes to try beside `PEERS`.

    Raises:
        UsageError: the workflow cannot be compared. The message says why, and what helps.
    """
    stock, given = _with_stock_samplers(workflow)
    stock = _pictures_only(stock, classes)
    samplers = tuple(name for name, node in stock.items() if node["class_type"] in SAMPLERS)
    if not seed_places(stock):
        raise UsageError("no sampler of the workflow has a seed that can be changed, so that all pictures are the same")
    found, about, left_out = [Variant(STOCK, stock, samplers)], [], []
    ours, left = _with_our_samplers(stock, given, workflow)
    if left:
        about.append(f"These stay as they are with {OURS}: {', '.join(left)}.")
    for fidelity in _choices(classes, "fidelity"):
        found.append(Variant(f"{OURS}, {fidelity}", _set_ours(ours, fidelity=fidelity), samplers))
    special = {key: value for node in given.values() for key, value in node.items() if key in ("method", "accept")}
    if any(value != WIDGETS[key][1] for key, value in special.items()):
        found.append(Variant(f"{OURS}, as in the file", _given(ours, given, tuple(WIDGETS), workflow), samplers))
    own = {node["class_type"] for node in stock.values()}
    tried = {each.name: each for each in [*(each for each in PEERS if each.node in classes), *peers]}  # each once
    for peer in tried.values():
        if peer.several_devices and devices < 2:
            left_out.append(f"{peer.node} was left out: it needs several devices.")
        elif peer.node in own:
            about.append(f"The workflow has {peer.node} in it, for all variants.")
        else:
            note = _EASYCACHE_NOTE if peer.node == "EasyCache" else ""
            found.append(Variant(peer.name, _with_peer(stock, peer, classes), samplers, peer=True, note=note))
    return Variants(tuple(found), tuple(about), tuple(left_out))


def chosen(variants: Variants, names: Sequence[str]) -> Variants:
    """Those whose name has one of these words in it, and KSampler. All if there are no words.

    Raises:
        UsageError: a word is in no name.
    """
    for word in names:
        if not any(word.lower() in each.name.lower() for each in variants.all):
            raise UsageError(f"no variant has {word!r} in its name; there are: {'; '.join(_names(variants.all))}")
    stock, *others = variants.all
    kept = [each for each in others if not names or any(word.lower() in each.name.lower() for word in names)]
    return Variants((stock, *kept), variants.about, () if names else variants.left_out)


def parse_peer(text: str, classes: Json) -> Peer:
    """A peer from NODE or NODE:INPUT=VALUE,INPUT=VALUE.

    Raises:
        UsageError: the server has no such node, or it cannot go before a sampler.
    """
    from client import parse_value

    node, _, settings = text.partition(":")
    known = classes.get(node)
    if known is None:
        raise UsageError(f"--peer {text}: the server has no node {node!r}; the name is that of its class")
    if not _model_inputs(known) or list(known.get("output", []))[:1] != ["MODEL"]:
        raise UsageError(f"--peer {text}: {node} does not take a MODEL and give one, so it cannot go before a sampler")
    specs = _specs(known)
    given = []
    for setting in filter(None, settings.split(",")):
        key, equals, value = setting.partition("=")
        if not equals or key not in specs:
            raise UsageError(f"--peer {text}: {key!r} is not an input of {node}; it has {', '.join(specs)}")
        given.append((key, parse_value(value)))
    return Peer(node, tuple(given))


def seed_places(prompt: Json) -> set[tuple[str, str]]:
    """Where the seeds of the samplers are set, as (node id, input): on the samplers, or on what they take it from."""
    places = set()
    for name, node in prompt.items():
        if node["class_type"] not in (*SAMPLERS, *BY_OURS, "RandomNoise"):
            continue
        for key in _SEEDS:
            place = _literal(prompt, name, key)
            if place is not None:
                places.add(place)
    return places


def _literal(prompt: Json, name: str, key: str) -> tuple[str, str] | None:
    """The input that holds a whole number which this input gets, over links to nodes that pass one number on."""
    for _ in range(len(prompt) + 1):
        value = prompt[name]["inputs"].get(key)
        if isinstance(value, int) and not isinstance(value, bool):
            return name, key
        if not is_link(value) or str(value[0]) not in prompt:
            return None
        name = str(value[0])
        numbers = [key for key, value in prompt[name]["inputs"].items() if isinstance(value, int) or is_link(value)]
        if len(numbers) != 1:
            return None
        (key,) = numbers
    return None


def _wrapped(seed: int) -> int:
    return seed % 2**64


def is_link(value: Any) -> bool:
    """Whether the value of an input is a link: [node id, output]."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str | int) and isinstance(value[1], int)


# --- KSampler as it is, and ours in its place


def _with_stock_samplers(workflow: Json) -> tuple[Json, dict[str, Json]]:
    """A copy with KSampler in place of ours, and what ours have beyond KSampler's inputs, by node id."""
    stock, given = copy.deepcopy(workflow), {}
    for name, node in stock.items():
        kind = BY_OURS.get(node["class_type"])
        if kind is not None:
            node["class_type"] = kind.stock
            own = (*SOCKETS, *WIDGETS)
            given[name] = {key: node["inputs"].pop(key) for key in own if key in node["inputs"]}
    if not any(node["class_type"] in SAMPLERS for node in stock.values()):
        raise UsageError(
            f"the workflow has none of the nodes {', '.join(SAMPLERS)} or {OURS}: other samplers cannot be compared"
        )
    return stock, given


def _with_our_samplers(stock: Json, given: dict[str, Json], workflow: Json) -> tuple[Json, list[str]]:
    """The prompt with ours in place of each sampler that ours can replace, and the samplers that stay."""
    swapped = swap(stock)
    if not swapped.done:
        raise UsageError(f"none of its samplers can be replaced by {OURS}: {summary(swapped)}")
    return _given(swapped.workflow, given, _KEPT, workflow), swapped.left


def _set_ours(prompt: Json, **inputs: Any) -> Json:
    """A copy with these inputs on each of our samplers."""
    changed = copy.deepcopy(prompt)
    for node in changed.values():
        if node["class_type"] in BY_OURS:
            node["inputs"] |= inputs
    return changed


def _given(prompt: Json, given: dict[str, Json], inputs: Sequence[str], workflow: Json) -> Json:
    """A copy in which our samplers have the values of these inputs that the workflow gives them."""
    changed = copy.deepcopy(prompt)
    for name, values in given.items():
        if name in changed:
            new = {key: value for key, value in values.items() if key in inputs}
            changed[name]["inputs"] |= new
            needed = _leading_to(workflow, [up for up, _ in _links({"inputs": new})])
            changed |= {up: copy.deepcopy(workflow[up]) for up in needed - changed.keys()}
    return changed


def _choices(classes: Json, name: str) -> list[str]:
    """The values that an input of KSampler (CHORDS) can have."""
    node = BY_STOCK["KSampler"].ours
    if node not in classes:
        raise UsageError(
            f"the server has no {OURS}: install the pack there (docs/install.md), and start ComfyUI again. If it is "
            "installed and does not load, ComfyUI's log says why"
        )
    spec = _specs(classes[node])[name]
    return list(spec[0] if isinstance(spec[0], list) else spec[1]["options"])


# --- Peers


def _with_peer(stock: Json, peer: Peer, classes: Json) -> Json:
    """A copy with the peer's node before each sampler."""
    prompt, known = copy.deepcopy(stock), classes[peer.node]
    (takes, *_) = _model_inputs(known)
    inputs = {key: value for key, spec in _specs(known).items() if (value := _default(spec)) is not None}
    inputs |= dict(peer.inputs)
    added: dict[tuple[str, int], str] = {}
    for name, key in list(_model_places(prompt, classes)):
        link = (str(prompt[name]["inputs"][key][0]), prompt[name]["inputs"][key][1])
        if link not in added:
            added[link] = f"{_PEER}{len(added) + 1}"
            prompt[added[link]] = {"class_type": peer.node, "inputs": {**inputs, takes: list(link)}}
        prompt[name]["inputs"][key] = [added[link], 0]
    return prompt


def _model_places(prompt: Json, classes: Json) -> Iterator[tuple[str, str]]:
    """The inputs, as (node id, input), from which the samplers have their model: their own, or those of a guider."""
    for name, node in prompt.items():
        is_guider = "GUIDER" in classes.get(node["class_type"], {}).get("output", [])
        if node["class_type"] in SAMPLERS or is_guider:
            known = _model_inputs(classes[node["class_type"]])
            yield from ((name, key) for key in known if is_link(node["inputs"].get(key)))


def _model_inputs(known: Json) -> list[str]:
    return [key for key, spec in _specs(known).items() if spec[0] == "MODEL"]


def _specs(known: Json) -> Json:
    return {**known["input"].get("required", {}), **known["input"].get("optional", {})}


def _default(spec: list[Any]) -> Any:
    """The value of an input that nobody has set; None for a socket."""
    options = spec[1] if len(spec) > 1 and isinstance(spec[1], dict) else {}
    choices = spec[0] if isinstance(spec[0], list) else options.get("options")
    return options.get("default", choices[0] if choices else None)


# --- Only what makes the pictures


def _pictures_only(prompt: Json, classes: Json) -> Json:
    """The nodes that lead to pictures of a sampler, and a PreviewImage for each."""
    behind = _behind(prompt, [name for name, node in prompt.items() if node["class_type"] in SAMPLERS])
    links = list(dict.fromkeys(_shown(prompt, classes, behind) or _decoded(prompt, classes, behind)))
    if not links:
        raise UsageError("no node of the workflow decodes what its sampler makes (VAE Decode), so there is no picture")
    kept = _leading_to(prompt, [name for name, _ in links])
    small = {name: node for name, node in prompt.items() if name in kept}
    for number, (name, slot) in enumerate(links, 1):
        node = {"class_type": "PreviewImage", "inputs": {"images": [name, slot]}}
        small[f"{_PICTURE}{number}"] = node
    return small


def _shown(prompt: Json, classes: Json, behind: set[str]) -> Iterable[tuple[str, int]]:
    """The pictures of samplers that a node saves or shows."""
    return [
        link
        for node in prompt.values()
        if classes.get(node["class_type"], {}).get("output_node")
        for link in _links(node)
        if link[0] in behind and _type(prompt, classes, link) == "IMAGE"
    ]


def _decoded(prompt: Json, classes: Json, behind: set[str]) -> Iterable[tuple[str, int]]:
    """The pictures that a node makes of a latent of a sampler; frames of a video are pictures, too."""
    return [
        (name, slot)
        for name, node in prompt.items()
        if any(link[0] in behind and _type(prompt, classes, link) == "LATENT" for link in _links(node))
        for slot, kind in enumerate(classes.get(node["class_type"], {}).get("output", []))
        if kind == "IMAGE"
    ]


def _type(prompt: Json, classes: Json, link: tuple[str, int]) -> str | None:
    outputs = classes.get(prompt[link[0]]["class_type"], {}).get("output", []) if link[0] in prompt else []
    return outputs[link[1]] if 0 <= link[1] < len(outputs) else None


def _links(node: Json) -> Iterator[tuple[str, int]]:
    return ((str(value[0]), value[1]) for value in node["inputs"].values() if is_link(value))


def _behind(prompt: Json, first: Iterable[str]) -> set[str]:
    """These nodes and all that depend on them."""
    found = set(first)
    while more := {name for name, node in prompt.items() if any(up in found for up, _ in _links(node))} - found:
        found |= more
    return found


def _leading_to(prompt: Json, last: Iterable[str]) -> set[str]:
    """These nodes and all that they need."""
    found: set[str] = set()
    ways = list(last)
    while ways:
        name = ways.pop()
        if name in prompt and name not in found:
            found.add(name)
            ways += [up for up, _ in _links(prompt[name])]
    return found


def _names(variants: Iterable[Variant]) -> list[str]:
    return [each.name for each in variants]
