"""How much faster two CPU lanes make a picture whose calls they share by tokens: KSampler against CHORDS Devices.

    .venv/bin/python benchmarks/token_split_live.py

On a machine with two idle cores, in about two minutes. A live ComfyUI with the demo model; KSampler computes with one
thread, as each lane does. Needs `python scripts/test.py --setup-only` once. Writes
benchmarks/results/token_split_live.md.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO), str(REPO / "scripts"), str(REPO / "tests" / "host")]

import host
import torch
from _server import ComfyServer
from client import ComfyClient
from graphs import Graph, demo, settings

from benchmarks._live import latent_of
from benchmarks._report import RESULTS, Table, command, machine, write

WAYS = ("KSampler", "tokens", "auto")
"""KSampler alone, and KSampler (CHORDS) on two lanes with ``split`` set so."""

WARM_UP = 2


@dataclass(frozen=True)
class Case:
    """Settings of a picture."""

    size: int
    steps: int
    cfg: float
    sampler: str


CASES = (
    Case(768, 4, 1.0, "euler"),
    Case(768, 4, 1.0, "lcm"),
    Case(512, 4, 1.0, "euler"),
    Case(256, 4, 1.0, "euler"),
    Case(512, 4, 3.5, "euler_ancestral"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="timed pictures each way (default 7)")
    parser.add_argument("--out", type=Path, default=RESULTS / "token_split_live.md")
    arguments = parser.parse_args()
    table = Table(
        "picture", "sampler", "CFG", "KSampler, s", "`tokens`: times as fast", "`auto`: times as fast", "same bits"
    )
    with ComfyServer(host.prepare(), threads=1) as server:
        client = server.client()
        for case in CASES:
            seconds, same = measure(server, client, case, arguments.rounds)
            base = seconds["KSampler"]
            gains = [f"{base / seconds[way]:.2f}" for way in WAYS[1:]]
            size = f"{case.size}x{case.size}, {case.steps} steps"
            table.add(size, case.sampler, f"{case.cfg:g}", f"{base:.2f}", *gains, "yes" if same else "NO")
    report = [
        "# Two CPU lanes share each call by tokens, on a live ComfyUI",
        "",
        f"{command()}, {machine(threads=1)}.",
        "",
        f"Seconds of the sampler's node on the demo model; medians of {arguments.rounds} rounds, all ways in turn. In "
        f"{WARM_UP} rounds before them `auto` measures its ways. *Same bits*: of both ways, all rounds.",
        "",
        *table.lines,
    ]
    write(arguments.out, report)


def measure(server: ComfyServer, client: ComfyClient, case: Case, rounds: int) -> tuple[dict[str, float], bool]:
    """Seconds of the sampler's node each way, and whether all latents of a round were equal."""
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    same = True
    for done in range(WARM_UP + rounds):
        latents = {}
        for way in WAYS:
            graph = Graph()
            inputs = demo(graph) | settings(case.sampler, seed=done, steps=case.steps, cfg=case.cfg)
            inputs["latent_image"] = graph.add("EmptyLatentImage", width=case.size, height=case.size, batch_size=1)
            if way == "KSampler":
                node = graph.add("KSampler", **inputs)
            else:
                devices = graph.add("ChordsDevices", devices="auto", cpu_lanes=2, split=way)
                node = graph.add("ChordsKSampler", **inputs, devices=devices)
            graph.save("latent", node)
            run = client.run(graph.nodes)
            latents[way] = latent_of(server, run, graph.saved["latent"])
            if done >= WARM_UP:
                times[way].append(run.node_seconds(node.name))
        same = same and all(torch.equal(latent, latents["KSampler"]) for latent in latents.values())
    return {way: statistics.median(values) for way, values in times.items()}, same


if __name__ == "__main__":
    main()
