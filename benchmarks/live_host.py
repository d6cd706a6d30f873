"""Figures on a live ComfyUI with the demo model: distance from the stock latent, and cost on one device.

    .venv/bin/python benchmarks/live_host.py

Needs `python scripts/test.py --setup-only` once. Writes benchmarks/results/live_host.md.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO), str(REPO / "scripts"), str(REPO / "tests" / "host")]

import host
from _server import ComfyServer
from client import ComfyClient
from graphs import Graph, demo, empty_latent, lanes, settings

from benchmarks._live import latent_of
from benchmarks._report import RESULTS, Table, command, machine, write

CFG = 3.5
PROMPTS = (
    "a big red circle in the center, blue background",
    "a small blue star at the top, yellow background",
    "a big yellow ring on the left, black background",
    "a big purple star on the left and a small green star on the right, orange background",
    "a small orange circle on the left and a small black cross on the right, yellow background",
    "a big blue cross at the top and a big black ring at the bottom, yellow background",
    "a small white triangle at the bottom, green background",
    "a big green square at the top, white background",
)
VARIANTS = [(1, "near"), (1, "fast"), (4, "near"), (4, "fast"), (8, "near"), (8, "fast")]  # cores, fidelity


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=8, help="how many prompts, 1 to 8 (default 8)")
    parser.add_argument("--pairs", type=int, default=15, help="pairs of runs for the cost on one device (default 15)")
    parser.add_argument("--out", type=Path, default=RESULTS / "live_host.md")
    arguments = parser.parse_args()
    with ComfyServer(host.prepare(), threads=1) as server:
        client = server.client()
        report = [
            "# Figures on a live ComfyUI",
            "",
            f"{command()}, {machine(threads=1)}.",
            *fidelity(server, client, arguments.prompts),
            *one_device(client, arguments.pairs),
        ]
    write(arguments.out, report)
    print("\n".join(report))


def fidelity(server: ComfyServer, client: ComfyClient, prompts: int) -> list[str]:
    """Relative RMSE against the latent of the stock sampler with the same steps."""
    table = Table("sampler", "steps", "cores", "fidelity", "calls in a row", "difference, median", "largest")
    texts = PROMPTS[:prompts]
    for sampler in ("euler", "dpmpp_2m", "res_multistep"):
        for steps in (20, 30, 50):
            runs = [_against_stock(server, client, text, sampler, steps, seed) for seed, text in enumerate(texts)]
            for cores, choice in VARIANTS:
                depths, errors = zip(*(run[cores, choice] for run in runs), strict=True)
                told = f"{statistics.median(errors):.4f}", f"{max(errors):.4f}"
                table.add(sampler, steps, cores, choice, f"{statistics.mean(depths):.1f}", *told)
    return [
        "",
        "## Distance from the stock latent",
        "",
        f"Relative RMSE of the latent against KSampler with the same steps and seed; demo model, CFG {CFG}, scheduler "
        f"simple, shift 3, {len(texts)} prompts. Mean calls in a row: they count the time if every core has a device.",
        "",
        *table.lines,
    ]


def _against_stock(
    server: ComfyServer, client: ComfyClient, text: str, sampler: str, steps: int, seed: int
) -> dict[tuple[int, str], tuple[int, float]]:
    """(cores, fidelity) -> (calls in a row, relative RMSE against the stock latent), for one prompt."""
    graph = Graph()
    shared = demo(graph, text) | settings(sampler, seed=seed, steps=steps, cfg=CFG)
    shared["latent_image"] = empty_latent(graph)
    devices = lanes(graph, 2)
    graph.save("stock", graph.add("KSampler", **shared))
    nodes = {}
    for cores, choice in VARIANTS:
        node = graph.add("ChordsKSampler", **shared, fidelity=choice, cores=cores, devices=devices)
        graph.save(f"{cores}-{choice}", node)
        nodes[cores, choice] = node.name
    run = client.run(graph.nodes)
    stock = latent_of(server, run, graph.saved["stock"])
    result = {}
    for (cores, choice), node in nodes.items():
        latent = latent_of(server, run, graph.saved[f"{cores}-{choice}"])
        depth = run.outputs[node]["chords"][0]["depth"]
        result[cores, choice] = depth, float((latent - stock).norm() / stock.norm())
    return result


def one_device(client: ComfyClient, pairs: int) -> list[str]:
    """Wall time of KSampler (CHORDS) on one device against KSampler, pair by pair in one server."""
    ratios = []
    for seed in range(pairs + 1):
        seconds = {}
        kinds = ["KSampler", "ChordsKSampler"]
        for kind in kinds if seed % 2 else kinds[::-1]:
            graph = Graph()
            shared = demo(graph) | settings(seed=seed, steps=50, cfg=CFG) | {"latent_image": empty_latent(graph)}
            node = graph.add(kind, **shared)
            graph.save("latent", node)
            seconds[kind] = client.run(graph.nodes).node_seconds(node.name)
        if seed:  # the first pair warms up
            ratios.append(seconds["ChordsKSampler"] / seconds["KSampler"])
    return [
        "",
        "## One device",
        "",
        f"Wall time of the node, KSampler (CHORDS) with its defaults / KSampler, 50 steps, {pairs} pairs: "
        f"median {statistics.median(ratios):.3f}, from {min(ratios):.3f} to {max(ratios):.3f}.",
    ]


if __name__ == "__main__":
    main()
