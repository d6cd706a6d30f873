"""Which node replaces which, what our nodes have in addition, and the result of a swap."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

PACK = "comfyui-chords"  # the frontend asks the registry for this name where a node is missing
HOST = "comfy-core"
OPTIONAL = 7  # the frontend's shape of an optional input
SOCKETS = {"devices": "CHORDS_DEVICE_SET", "preview_vae": "VAE"}
"""The sockets that our nodes have in addition to the stock node's, and their types."""
WIDGETS = {
    "fidelity": ("COMBO", "auto"),
    "cores": ("INT", 0),
    "method": ("COMBO", "auto"),
    "accept": ("COMBO", "auto"),
}
"""The widgets that our nodes have in addition, with their types and defaults."""
RUN = "CHORDS_RUN"
CONSUMERS = ("SamplerCustom", "SamplerCustomAdvanced")

_SAMPLER_NAME = re.compile("(?<!up)(?<!down)sampler", re.IGNORECASE)  # the type of a node that samples has this


@dataclass(frozen=True)
class Kind:
    """A stock node and the CHORDS node that replaces it.

    ``values``: how many widget values the stock node saves. ``gives_run``: whether our node has the output CHORDS_RUN.
    """

    stock: str
    ours: str
    stock_title: str
    our_title: str
    values: int
    gives_run: bool


KINDS = (
    Kind("KSampler", "ChordsKSampler", "KSampler", "KSampler (CHORDS)", 7, True),
    Kind("KSamplerAdvanced", "ChordsKSamplerAdvanced", "KSampler (Advanced)", "KSampler Advanced (CHORDS)", 10, True),
    Kind("KSamplerSelect", "ChordsSampler", "KSamplerSelect", "CHORDS Sampler", 1, False),
)
BY_STOCK = {kind.stock: kind for kind in KINDS}
BY_OURS = {kind.ours: kind for kind in KINDS}


@dataclass
class Swapped:
    """A workflow after the swap.

    ``done``: how often each node type was replaced, by (old type, new type). ``left``: the samplers that stay, each
    with its reason.
    """

    workflow: Json
    done: Counter[tuple[str, str]] = field(default_factory=Counter)
    left: list[str] = field(default_factory=list)

    def note_left(self, name: Any, node_type: str) -> None:
        """Note a node that stays, if it is a sampler."""
        if node_type in BY_STOCK:
            self.left.append(f"{name} {node_type} (feeds no SamplerCustom)")
        elif _SAMPLER_NAME.search(node_type) and node_type not in CONSUMERS and node_type not in BY_OURS:
            self.left.append(f"{name} {node_type}")

    def note_connected(self, name: Any, kind: Kind, linked: list[str]) -> None:
        """Note one of our nodes that stays because of links that the stock node cannot have."""
        self.left.append(f"{name} {kind.ours} (disconnect {' and '.join(linked)} first)")


def summary(result: Swapped) -> str:
    """What was swapped and what stays, in one line."""
    done = ", ".join(f"{count} {old} -> {new}" for (old, new), count in result.done.items())
    left = f"; left as they are: {', '.join(result.left)}" if result.left else ""
    return (done or "nothing to swap") + left


def retitle(holder: Any, old: str, new: str) -> None:
    """Rename a title that is the old node's own name. A title that the user chose stays."""
    if isinstance(holder, dict) and holder.get("title") == old:
        holder["title"] = new
