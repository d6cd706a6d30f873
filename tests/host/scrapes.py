"""What the metrics of a live server say, for tests that cause something."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from _server import ComfyServer
from prometheus_client.parser import text_string_to_metric_families


def fallbacks(server: ComfyServer) -> dict[str, float]:
    """How many runs have fallen back so far, by the class of the reason."""
    with urllib.request.urlopen(f"{server.url}/chords/metrics", timeout=300) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    (counted,) = [family for family in families if family.name == "chords_fallbacks"]
    return {each.labels["reason"]: each.value for each in counted.samples if each.name.endswith("_total")}


@contextmanager
def new_fallbacks(server: ComfyServer) -> Iterator[set[str]]:
    """The classes for which runs fall back within the block; they are there after it."""
    found: set[str] = set()
    before = fallbacks(server)
    yield found
    found |= {reason for reason, value in fallbacks(server).items() if value > before.get(reason, 0.0)}
