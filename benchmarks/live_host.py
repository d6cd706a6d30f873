"""Figures on a live ComfyUI with the demo model: distance from the stock latent, and cost on one device.

    .venv/bin/python benchmarks/live_host.py

Needs `python scripts/test.py --setup-only` once. Writes benchmarks/results/live_host.md.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO), str(REPO / "scripts"), str(REPO / "tests" / "host")]

import host
from _server import ComfyClient, ComfyServer, Run
from graphs import Graph, demo, empty_latent, lanes, settings

from demo.scenes import describe, random_scene

RESULTS = Path(__file__).parent / "results" / "live_host.md"
CFG = 3.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=12, help="prompts to take the median over (default 12)")
    parser.add_argument("--pairs", type=int, default=15, help="pairs of runs for the cost on one device (default 15)")
    arguments = parser.parse_args()
    with ComfyServer(host.prepare(), threads=1) as server:
        client = server.client()
        report = [
            "# Figures on a live ComfyUI",
            f"`{' '.join(['python', *sys.argv])}`, torch {torch.__version__}, {os.cpu_count()} CPU cores, "
            "one intra-op thread.",
            *fidelity(server, client, arguments.prompts),
            *one_device(client, arguments.pairs),
        ]
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("\n\n".join(report) + "\n", encoding="utf-8")
    print("\n\n".join(report))


def fidelity(server: ComfyServer, client: ComfyClient, prompts: int) -> list[str]:
    """Relative RMSE of each early hit against the stock sampler's latent: the same steps, sooner."""
    rows = [
        "| sampler | steps | cores | hit | depth | fewer calls in a row | difference, median | largest |",
        "|---|---|---|---|---|---|---|---|",
    ]
    rng = random.Random(2026)
    texts = [describe(random_scene(rng)) for _ in range(prompts)]
    for sampler in ("euler", "dpmpp_2m", "res_multistep"):
        for steps in (20, 30, 50):
            for cores in (4, 8):
                for accept in ("first", "second"):
                    errors = []
                    for seed, text in enumerate(texts):
                        graph = Graph()
                        shared = demo(graph, text) | settings(sampler, seed=seed, steps=steps, cfg=CFG)
                        shared["latent_image"] = empty_latent(graph)
                        graph.save("stock", graph.add("KSampler", **shared))
                        chords = {"cores": cores, "accept": accept, "devices": lanes(graph, 2)}
                        node = graph.add("ChordsKSampler", **shared, **chords)
                        graph.save("ours", node)
                        run = client.run(graph.nodes)
                        stock, ours = (_latent(server, run, graph.saved[key]) for key in ("stock", "ours"))
                        errors.append(float((ours - stock).norm() / stock.norm()))
                    summary = run.outputs[node.name]["chords"][0]
                    rows.append(
                        f"| {sampler} | {steps} | {cores} | {accept} | {summary['depth']} | "
                        f"{steps / summary['depth']:.2f}x | {statistics.median(errors):.4f} | {max(errors):.4f} |"
                    )
                    print(rows[-1], flush=True)
    return [
        "## Distance from the stock latent",
        f"Relative RMSE of the latent against KSampler with the same steps and seed; CFG {CFG}, scheduler simple, "
        f"shift 3, {prompts} prompts.",
        "\n".join(rows),
    ]


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
        "## One device",
        f"Wall time of the node, KSampler (CHORDS) with its defaults / KSampler, 50 steps, {pairs} pairs: "
        f"median {statistics.median(ratios):.3f}, from {min(ratios):.3f} to {max(ratios):.3f}.",
    ]


def _latent(server: ComfyServer, run: Run, node: str) -> torch.Tensor:
    (file,) = run.outputs[node]["latents"]
    return load_file(server.output_directory / file["subfolder"] / file["filename"])["latent_tensor"]


if __name__ == "__main__":
    main()
