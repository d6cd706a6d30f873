"""What a live ComfyUI holds after many runs: memory, threads, open files, models.

    .venv/bin/python benchmarks/endurance.py

Runs of KSampler (CHORDS) on four CPU lanes in one server, of other settings, of two models, with and without a LoRA;
then the same with KSampler in another server, to compare with. Needs `python scripts/test.py --setup-only` once.
Writes benchmarks/results/endurance.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

REPO = Path(__file__).resolve().parent.parent
TESTS = REPO / "tests" / "host"
sys.path[:0] = [str(REPO), str(REPO / "scripts"), str(TESTS)]

import host
from _server import ComfyServer
from client import ComfyClient
from graphs import Graph, demo, lanes, settings

RESULTS = Path(__file__).parent / "results" / "endurance.md"
LANES = 4
EVERY = 20
WARM_UP = 40  # runs after which everything has been loaded once
COUNTED = {"threads": "threads", "files": "open files", "loaded": "loaded models", "alive": "models in memory"}
GROWTH = 0.05  # of the memory that still counts as flat
CHORDS = [
    {"cores": 4, "accept": "first"},
    {"cores": 4, "accept": "exact"},
    {"cores": 0, "accept": "auto"},
    {"cores": 3, "accept": "second"},
    {"cores": 1, "accept": "auto"},
    {"cores": 8, "accept": "first"},
]


@dataclass(frozen=True)
class Sample:
    """What the server holds after so many runs; memory in bytes."""

    runs: int
    memory: int
    threads: int
    files: int
    loaded: int
    alive: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200, help="how many runs of each sampler (default 200)")
    runs = parser.parse_args().runs
    if not Path("/proc/self/status").exists():
        parser.error("this reads /proc, which this system does not have")
    with tempfile.TemporaryDirectory() as folder:
        comfy = host.prepare()
        arguments = _tiny_models(comfy, Path(folder))
        ours, seconds = _endure(comfy, arguments, runs, chords=True)
        stock, _ = _endure(comfy, arguments, runs, chords=False)
    report = [
        "# Endurance",
        f"`{' '.join(['python', *sys.argv])}`, torch {torch.__version__}, {os.cpu_count()} CPU cores, one intra-op "
        f"thread. {runs} runs in one server, {seconds:.0f} s: KSampler (CHORDS) with {LANES} CPU lanes, 8 steps, "
        f"pictures of 64x64 and 128x128, {len(CHORDS)} choices of `cores` and `accept` and three solvers in turn, two "
        "models, by turns one of them or both, and a LoRA in every fifth run.",
        _table(ours),
        _verdict(ours),
        "## The same runs with KSampler",
        "In another server, to compare with.",
        _table(stock),
        _verdict(stock),
        "Loaded: what the host counts as loaded, among it the copies on the lanes. In memory: all diffusion models "
        "that Python's collector can find, loaded or not.",
    ]
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("\n\n".join(report) + "\n", encoding="utf-8")
    print("\n\n".join(report))


def _tiny_models(comfy: Path, folder: Path) -> list[str]:
    """Make the models of the tests; the arguments for a server that shall find them and the tests' nodes."""
    subprocess.run([sys.executable, str(TESTS / "tiny_models.py"), str(comfy), str(folder)], check=True)
    models = {"base_path": str(folder), "diffusion_models": "diffusion_models", "loras": "loras"}
    nodes = {"base_path": str(TESTS), "custom_nodes": "pack"}
    paths = folder / "paths.yaml"
    paths.write_text(json.dumps({"models": models, "nodes": nodes}), encoding="utf-8")  # JSON is YAML
    return ["--extra-model-paths-config", str(paths)]


def _endure(comfy: Path, arguments: list[str], runs: int, chords: bool) -> tuple[list[Sample], float]:
    """What the server holds after every so many runs, and how many seconds they took."""
    with ComfyServer(comfy, threads=1, cpu=True, arguments=arguments) as server:
        client = server.client()
        begin, samples = time.monotonic(), []
        for number in range(1, runs + 1):
            client.run(_graph(number, chords).nodes)
            if number % EVERY == 0:
                samples.append(_sample(server, client, number))
                print(samples[-1], flush=True)
        return samples, time.monotonic() - begin


def _graph(number: int, chords: bool) -> Graph:
    """The graph of one run, or of one with each model: what the choices are by its number."""
    graph = Graph()
    sampling = demo(graph) | settings(("euler", "dpmpp_2m", "res_multistep")[number % 3], seed=number, steps=8)
    size = 64 if number % 7 else 128
    sampling["latent_image"] = graph.add("EmptyLatentImage", width=size, height=size, batch_size=1)
    if chords:
        sampling |= CHORDS[number % len(CHORDS)] | {"devices": lanes(graph, LANES)}
    models = [sampling["model"]]
    if number % 4:
        other = graph.add("UNETLoader", unet_name="demo_other.safetensors", weight_dtype="default")
        models = [other] if number % 2 else [*models, other]
    for model in models:
        if number % 5 == 0:
            lora = {"lora_name": "tiny_lora.safetensors", "strength_model": 0.5}
            model = graph.add("LoraLoaderModelOnly", model=model, **lora)
        node = graph.add("ChordsKSampler" if chords else "KSampler", **{**sampling, "model": model})
        graph.save(f"latent{len(graph.saved)}", node)
    return graph


def _sample(server: ComfyServer, client: ComfyClient, runs: int) -> Sample:
    graph = Graph()
    node = graph.add("TestLoadedModels", salt=runs)
    counts = client.run(graph.nodes).outputs[node.name]
    process = Path(f"/proc/{server.pid}")
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    memory, threads = int(status["VmRSS"].split()[0]) * 1024, int(status["Threads"])
    files = len(list((process / "fd").iterdir()))
    return Sample(runs, memory, threads, files, counts["loaded"][0], counts["alive"][0])


def _table(samples: list[Sample]) -> str:
    rows = [
        "| after runs | resident memory, MB | threads | open files | models loaded | diffusion models in memory |",
        "|---|---|---|---|---|---|",
    ]
    for sample in samples:
        counts = f"{sample.threads} | {sample.files} | {sample.loaded} | {sample.alive}"
        rows.append(f"| {sample.runs} | {sample.memory / 1e6:.0f} | {counts} |")
    return "\n".join(rows)


def _verdict(samples: list[Sample]) -> str:
    """Whether the second half of what came after the warm-up reached higher than the first, and by how much."""
    settled = [sample for sample in samples if sample.runs >= WARM_UP] or samples
    earlier, later = settled[: (len(settled) + 1) // 2], settled[len(settled) // 2 :]

    def peaks(name: str) -> tuple[int, int]:
        return max(getattr(sample, name) for sample in earlier), max(getattr(sample, name) for sample in later)

    before, after = peaks("memory")
    lowest = min(sample.memory for sample in settled)
    facts = [
        f"memory was between {lowest / 1e6:.0f} and {max(before, after) / 1e6:.0f} MB, its peak {before / 1e6:.0f} MB "
        f"in the first half and {after / 1e6:.0f} MB in the second ({after / before - 1:+.1%})"
    ]
    counts = {said: peaks(name) for name, said in COUNTED.items()}
    facts += [f"{said} at most {first}, then {second}" for said, (first, second) in counts.items()]
    flat = after <= (1 + GROWTH) * before and all(second <= first for first, second in counts.values())
    span = f"from run {settled[0].runs} to run {settled[-1].runs}"
    return f"**{'Flat' if flat else 'Not flat'}** {span}: {'; '.join(facts)}."


if __name__ == "__main__":
    main()
