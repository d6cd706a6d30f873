"""The ways of `peers.py` on a live ComfyUI: whether the nodes take the same calls to the same latents, and their time.

The model computes, and each of its calls takes `MILLISECONDS` longer: so lanes on one CPU take the time of devices of
their own, and a busy machine changes little.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from _server import ComfyServer
from client import ComfyClient, Run
from graphs import Graph, Node, demo, empty_latent, lanes, settings
from torch import Tensor

from benchmarks import _peer_caches as caches
from benchmarks._cells import Pictures
from benchmarks._demo import differences
from benchmarks._live import latent_of, server_with_test_nodes
from benchmarks._peer_ways import CHORDS_CORES, CORES, FIDELITIES, MORE_CORES
from benchmarks._peers_report import LIVE_CELL as CELL
from benchmarks._peers_report import LIVE_MILLISECONDS as MILLISECONDS
from chords_core import plan, sample

SCALE, OFFSET = 0.3611, 0.1159  # of Flux's latents, which the host applies when it saves them
SKIPPED = re.compile(r"(?:Lazy|Easy)Cache - skipped (\d+)/(\d+) steps")

Twin = Callable[[Pictures, caches.GuidedNetwork], caches.Sampled]


@dataclass(frozen=True)
class LiveWay:
    """A sampler node, and the same in this process.

    Attributes:
        cache: the class of a caching node before the sampler, with its threshold.
        inputs: of the sampler node.
        cores: how many lanes it gets; 0: it is the host's own sampler.
    """

    name: str
    twin: Twin
    cache: tuple[str, float] | None = None
    inputs: dict[str, Any] = field(default_factory=dict)
    cores: int = 0


@dataclass(frozen=True)
class Seen:
    """One picture by one node. ``apart``: relative RMS difference from the twin; ``time``: in KSampler's."""

    way: str
    calls: int
    twin_calls: int
    error: float
    apart: float
    time: float


def _ours(fidelity: str, cores: int) -> LiveWay:
    options: dict[str, Any] = {"cores": cores, "tolerance": FIDELITIES[fidelity]}
    options["method"] = "secant" if cores > 1 else "sequential"
    name = f"ours, {fidelity}, {cores} {'device' if cores == 1 else 'devices'}"
    return LiveWay(name, partial(_twin, options), inputs={"fidelity": fidelity, "cores": cores}, cores=cores)


def _chords(hit: int, name: str) -> LiveWay:
    chosen = plan(CELL.steps, CHORDS_CORES, CHORDS_CORES, method="chords", accept=hit)
    inputs = {"method": "CHORDS", "accept": name, "cores": CHORDS_CORES}
    return LiveWay(f"CHORDS, {name} result", partial(_twin, chosen.sample_options()), inputs=inputs, cores=CHORDS_CORES)


def _twin(options: Any, pictures: Pictures, _net: caches.GuidedNetwork) -> caches.Sampled:
    """`chords_core.sample` with these options."""
    return _depth_and_latent(pictures, pictures.cell.sigmas(pictures.cell.steps), options)


def _fewer_steps(steps: int, pictures: Pictures, _net: caches.GuidedNetwork) -> caches.Sampled:
    return _depth_and_latent(pictures, pictures.cell.sigmas(steps), {})


def _depth_and_latent(pictures: Pictures, sigmas: Tensor, options: Any) -> caches.Sampled:
    which = torch.tensor([0])

    def denoise(x: Tensor, sigma: float) -> Tensor:
        return pictures.denoise(x, torch.full((1,), sigma), which)

    found = sample(denoise, pictures.start(0), sigmas, solver=pictures.cell.solver, **options)
    return found.depth, found.x


def _lazycache(threshold: float, pictures: Pictures, _net: caches.GuidedNetwork) -> caches.Sampled:
    return caches.lazycache(pictures, 0, threshold)


def _easycache(threshold: float, pictures: Pictures, net: caches.GuidedNetwork) -> caches.Sampled:
    return caches.easycache(pictures, net, 0, threshold, shares_input=True)


WAYS = (
    LiveWay("KSampler", partial(_fewer_steps, CELL.steps)),
    *(LiveWay(f"{steps} steps", partial(_fewer_steps, steps), inputs={"steps": steps}) for steps in (13,)),
    *(LiveWay(f"LazyCache {at:g}", partial(_lazycache, at), cache=("LazyCache", at)) for at in (0.05, 0.1)),
    LiveWay("EasyCache 0.05", partial(_easycache, 0.05), cache=("EasyCache", 0.05)),
    *(_ours("near", cores) for cores in sorted((*CORES, *MORE_CORES))),
    *(_ours("fast", cores) for cores in CORES),
    _chords(1, "first"),
    _chords(2, "second"),
)


def measure(texts: Sequence[str], first_seed: int) -> list[Seen]:
    """Each picture by each node, after another picture that warms up."""
    with server_with_test_nodes() as server:
        client = server.client()
        _picture(server, client, texts[0], first_seed - 1)
        return [seen for k, text in enumerate(texts) for seen in _picture(server, client, text, first_seed + k)]


def _picture(server: ComfyServer, client: ComfyClient, text: str, seed: int) -> list[Seen]:
    nodes: dict[str, Node] = {}
    graph = Graph()
    shared = demo(graph, text) | settings(CELL.solver, seed=seed, steps=CELL.steps, cfg=CELL.cfg)
    latent, model = empty_latent(graph), shared["model"]
    for way in WAYS:
        # The time that EasyCache spares is the network's.
        inside = way.cache is not None and way.cache[0] == "EasyCache"
        inputs = shared | way.inputs | {"latent_image": latent, "model": model}
        if way.cache:
            inputs["model"] = graph.add(way.cache[0], model=model, **_cache_inputs(way.cache[1]))
        inputs["model"] = graph.add("TestSlowModel", model=inputs["model"], milliseconds=MILLISECONDS, inside=inside)
        if way.cores:
            inputs["devices"] = lanes(graph, way.cores, split="off")
        nodes[way.name] = graph.add("ChordsKSampler" if way.cores else "KSampler", **inputs)
        graph.save(way.name, nodes[way.name])
    before = len(server.log())
    run = client.run(graph.nodes)
    skipped = [int(found[1]) for found in SKIPPED.finditer(server.log()[before:])]
    return _compared(server, run, graph, nodes, skipped, Pictures(CELL, [text], seed), text)


def _cache_inputs(threshold: float) -> dict[str, Any]:
    shares = {"start_percent": caches.START, "end_percent": caches.END}
    return {"reuse_threshold": threshold, "verbose": False, **shares}


def _compared(
    server: ComfyServer,
    run: Run,
    graph: Graph,
    nodes: dict[str, Node],
    skipped: Sequence[int],
    pictures: Pictures,
    text: str,
) -> list[Seen]:
    """What the run has shown. ``skipped``: of the caching nodes, in the order of their runs."""
    net = caches.GuidedNetwork([text], CELL.cfg)
    latents = {way.name: _in_model(latent_of(server, run, graph.saved[way.name])) for way in WAYS}
    seconds = {way.name: run.node_seconds(nodes[way.name].name) or 0.0 for way in WAYS}
    ran = [data.get("node") for data in run.of_kind("executing")]
    cached = sorted((way.name for way in WAYS if way.cache), key=lambda name: ran.index(nodes[name].name))
    left_out = dict(zip(cached, skipped, strict=True))
    found = []
    for way in WAYS:
        twin_calls, twin = way.twin(pictures, net)
        calls = way.inputs.get("steps", CELL.steps) - left_out.get(way.name, 0)
        if way.cores:
            calls = run.outputs[nodes[way.name].name]["chords"][0]["depth"]
        error, apart = (float(differences(latents[way.name], other)) for other in (latents["KSampler"], twin))
        found.append(Seen(way.name, calls, twin_calls, error, apart, seconds[way.name] / seconds["KSampler"]))
        print(*found[-1].__dict__.values(), flush=True)
    return found


def _in_model(latent: Tensor) -> Tensor:
    """A saved latent with the scale that the model has seen."""
    return (latent - OFFSET) * SCALE
