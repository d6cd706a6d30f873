"""Step caches run on one core, and the message says that `fidelity` near does the same, closer to KSampler's picture.

The figures are in benchmarks/results/peers.md.
"""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest
from graphs import Graph, demo, empty_latent, lanes, settings

from tests.host.compatibility.parallel_rows import Patch, on_model

_SALTS = count(8800)
_HOSTS = {"reuse_threshold": 0.2, "start_percent": 0.1, "end_percent": 0.9, "verbose": False}
CACHES: dict[str, Patch] = {
    "EasyCache": on_model("EasyCache", **_HOSTS),
    "LazyCache": on_model("LazyCache", **_HOSTS),
    "TeaCache": on_model("TestPatch", kind="teacache", salt=next(_SALTS)),
}
CLOSER = "that leaves out calls too, and usually stays closer to KSampler's picture"


def _message(run_graph, patches: list[Patch], count: int, steps: int = 20, **chords: Any) -> str:
    graph = Graph()
    sampling = demo(graph) | settings(steps=steps, seed=next(_SALTS)) | {"latent_image": empty_latent(graph)}
    for patch in patches:
        patch(graph, sampling)
    node = graph.add("ChordsKSampler", **sampling, **chords, devices=lanes(graph, count))
    graph.save("ours", node)
    summary = run_graph(graph)[0].outputs[node.name]["chords"][0]
    assert summary["cores"] == 1 and summary["depth"] == steps
    return summary["message"]


@pytest.mark.parametrize("cache", CACHES)
def test_the_message_says_what_to_use_instead(run_graph, cache: str) -> None:
    """With one device and with several; and if fidelity is set already, that the cache keeps it from acting."""
    assert f"without {cache}, set fidelity to near: {CLOSER}" in _message(run_graph, [CACHES[cache]], 1)
    told = _message(run_graph, [CACHES[cache]], 2)
    assert told.startswith("one core") and f"without {cache}, set fidelity to near: {CLOSER}" in told
    near = _message(run_graph, [CACHES[cache]], 1, fidelity="near")
    assert f"remove {cache}, and fidelity near acts: {CLOSER}" in near


def test_nothing_is_advised_that_would_not_help(run_graph) -> None:
    """With few steps, and where another patch needs one core as well."""
    assert CLOSER not in _message(run_graph, [CACHES["LazyCache"]], 2, steps=4)
    with_state = on_model("APG", eta=1.0, norm_threshold=5.0, momentum=-0.5)
    assert CLOSER not in _message(run_graph, [CACHES["LazyCache"], with_state], 2)
