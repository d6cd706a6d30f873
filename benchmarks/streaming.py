"""What streaming costs: the same CHORDS run with all previews and a client that follows, and without both.

    .venv/bin/python benchmarks/streaming.py

The model of the test pack sleeps instead of computing: for the host this is like a model on other devices. Needs
`python scripts/test.py --setup-only` once. Writes benchmarks/results/streaming.md.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO), str(REPO / "scripts"), str(REPO / "tests" / "host")]

from client import ComfyClient
from graphs import Graph, demo, empty_latent, lanes, settings

from benchmarks._live import server_with_test_nodes
from benchmarks._report import RESULTS, command, machine, write

STEPS, CORES = 50, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15, help="pairs of runs (default 15)")
    parser.add_argument("--milliseconds", type=float, default=20.0, help="length of a model call (default 20)")
    parser.add_argument("--out", type=Path, default=RESULTS / "streaming.md")
    arguments = parser.parse_args()
    with server_with_test_nodes() as server:
        client = server.client()
        watched_seconds, alone_seconds = [], []
        for seed in range(2 * arguments.pairs + 2):
            watched = (seed // 2 + seed) % 2 == 0
            seconds = sampling_seconds(client, seed, watched, arguments.milliseconds)
            (watched_seconds if watched else alone_seconds).append(seconds)
    pairs = [on / off for on, off in zip(watched_seconds, alone_seconds, strict=True)][1:]  # the first pair warms up
    text = (
        f"{command()}, {machine(threads=1)}. {STEPS} steps, {CORES} cores on as many lanes to the exact result, "
        f"{arguments.milliseconds:g} ms a model call. Sampling time with a client that receives previews of every step "
        "and hit, a stream preview node and the events, over the sampling time without a client that follows, pair by "
        f"pair: median {statistics.median(pairs):.4f}, from {min(pairs):.3f} to {max(pairs):.3f} in {len(pairs)} pairs."
    )
    write(arguments.out, ["# What streaming costs", "", text])
    print(text)


def sampling_seconds(client: ComfyClient, seed: int, watched: bool, milliseconds: float) -> float:
    """The sampling time that the run reports."""
    graph = Graph()
    inputs = demo(graph) | settings(seed=seed, steps=STEPS) | {"latent_image": empty_latent(graph)}
    inputs["model"] = graph.add("TestSleepingModel", model=inputs["model"], milliseconds=milliseconds)
    devices = lanes(graph, CORES)
    sampler = graph.add("ChordsKSampler", **inputs, cores=CORES, fidelity="exact", devices=devices)
    graph.save("latent", sampler)
    if watched:
        graph.add("ChordsStreamPreview", run=sampler[1], vae=["1", 1])
        run = client.run(graph.nodes, extra={"extra_data": {"preview_method": "latent2rgb"}})
    else:
        run = client.run_polling(graph.nodes, extra={"extra_data": {"preview_method": "none"}})
    return run.outputs[sampler.name]["chords"][0]["seconds"]


if __name__ == "__main__":
    main()
