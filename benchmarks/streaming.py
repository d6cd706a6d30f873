"""What streaming costs: the same CHORDS run with all previews on and watched, and with nobody listening.

    .venv/bin/python benchmarks/streaming.py

The model of the test pack sleeps instead of computing, as a model on devices of its own would look to the host. Needs
`python scripts/test.py --setup-only` once. Writes benchmarks/results/streaming.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

import torch

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO), str(REPO / "scripts"), str(REPO / "tests" / "host")]

import host
from _server import ComfyServer
from client import ComfyClient
from graphs import Graph, demo, empty_latent, lanes, settings

RESULTS = Path(__file__).parent / "results" / "streaming.md"
STEPS, CORES = 50, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15, help="pairs of runs (default 15)")
    parser.add_argument("--milliseconds", type=float, default=20.0, help="length of a model call (default 20)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder) / "paths.yaml"
        nodes = {"base_path": str(REPO / "tests" / "host"), "custom_nodes": "pack"}
        paths.write_text(json.dumps({"nodes": nodes}), encoding="utf-8")  # JSON is YAML
        with ComfyServer(host.prepare(), threads=1, arguments=["--extra-model-paths-config", str(paths)]) as server:
            client = server.client()
            ratios, alone = [], []
            for seed in range(2 * arguments.pairs + 2):
                watched = (seed // 2 + seed) % 2 == 0
                seconds = sampling_seconds(client, seed, watched, arguments.milliseconds)
                (ratios if watched else alone).append(seconds)
    pairs = [on / off for on, off in zip(ratios, alone, strict=True)][1:]  # the first pair warms up
    text = (
        f"# What streaming costs\n\n`python {' '.join(sys.argv)}`, torch {torch.__version__}, {os.cpu_count()} CPU "
        f"cores. {STEPS} steps, {CORES} cores on as many lanes to the exact result, {arguments.milliseconds:g} ms a "
        "model call. Sampling time with a client that has previews of every step and hit, a stream preview node and "
        "the events, over that of a prompt nobody follows, pair by pair: median "
        f"{statistics.median(pairs):.4f}, from {min(pairs):.3f} to {max(pairs):.3f} in {len(pairs)} pairs.\n"
    )
    RESULTS.write_text(text, encoding="utf-8")
    print(text)


def sampling_seconds(client: ComfyClient, seed: int, watched: bool, milliseconds: float) -> float:
    """The run's own time, as it reports it."""
    graph = Graph()
    inputs = demo(graph) | settings(seed=seed, steps=STEPS) | {"latent_image": empty_latent(graph)}
    inputs["model"] = graph.add("TestSleepingModel", model=inputs["model"], milliseconds=milliseconds)
    devices = lanes(graph, CORES)
    sampler = graph.add("ChordsKSampler", **inputs, cores=CORES, accept="exact", devices=devices)
    graph.save("latent", sampler)
    if watched:
        graph.add("ChordsStreamPreview", run=sampler[1], vae=["1", 1])
        run = client.run(graph.nodes, extra={"extra_data": {"preview_method": "latent2rgb"}})
    else:
        run = client.run_polling(graph.nodes, extra={"extra_data": {"preview_method": "none"}})
    return run.outputs[sampler.name]["chords"][0]["seconds"]


if __name__ == "__main__":
    main()
