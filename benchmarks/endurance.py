"""What a live ComfyUI holds after many runs: memory, threads, open files, models.

    .venv/bin/python benchmarks/endurance.py
    .venv/bin/python benchmarks/endurance.py --ray

Runs of KSampler (CHORDS) on four CPU lanes in one server, with different settings, two models, with and without a LoRA;
then the same with KSampler in another server, for comparison. With --ray, the same on two workers of a Ray that the
server starts, with what Ray and the workers hold. Needs `python scripts/test.py --setup-only` once.
Writes its part of benchmarks/results/endurance.md.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO), str(REPO / "scripts"), str(REPO / "tests" / "host")]

import host
from _server import ComfyServer
from client import ComfyClient
from graphs import Graph, Node, demo, lanes, settings

from benchmarks._live import TESTS, extra_paths
from benchmarks._report import RESULTS, command, machine, table

RAY_TITLE = "## The same runs on Ray workers"
RAY_OPTIONS = {  # the benchmark's own Ray, which writes every second what it holds
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_debug_dump_period_milliseconds": "1000",
}
LANES, WORKERS = 4, 2
EVERY = 20
WARM_UP = 40  # after so many runs everything has been loaded once
MEMORY = ("resident memory", "workers' memory", "Ray's memory")  # in bytes; the other figures are counts
GROWTH = 0.05  # of the memory that still counts as flat
CHORDS = [
    {"cores": 4, "fidelity": "near"},
    {"cores": 4, "fidelity": "exact"},
    {"cores": 0, "fidelity": "auto"},
    {"cores": 3, "fidelity": "fast"},
    {"cores": 1, "fidelity": "near"},
    {"cores": 8, "method": "CHORDS", "accept": "first"},
]


@dataclass(frozen=True)
class Sample:
    """What the server and its workers hold after so many runs."""

    runs: int
    figures: dict[str, int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200, help="how many runs of each sampler (default 200)")
    parser.add_argument("--ray", action="store_true", help="on Ray workers")
    parser.add_argument("--out", type=Path, default=RESULTS / "endurance.md")
    options = parser.parse_args()
    if not Path("/proc/self/status").exists():
        parser.error("this reads /proc, which this system does not have")
    with tempfile.TemporaryDirectory() as folder:
        comfy = host.prepare()
        arguments = _tiny_models(comfy, Path(folder))
        report = (_on_ray if options.ray else _on_lanes)(comfy, arguments, options.runs)
    before = options.out.read_text(encoding="utf-8") if options.out.exists() else ""
    lanes_part, title, ray_part = before.partition(RAY_TITLE)
    if options.ray:
        title, ray_part = "", report
    else:
        lanes_part = report
    options.out.write_text(f"{lanes_part.rstrip()}\n\n{title}{ray_part}".rstrip() + "\n", encoding="utf-8")
    print(report)


def _on_lanes(comfy: Path, arguments: list[str], runs: int) -> str:
    ours, seconds = _endure(comfy, arguments, runs, lambda graph: lanes(graph, LANES))
    stock, _ = _endure(comfy, arguments, runs, None)
    report = [
        "# Endurance",
        f"{command()}, {machine(threads=1)}. {runs} runs in one server, {seconds:.0f} s: KSampler (CHORDS) with "
        f"{LANES} CPU lanes, 8 steps, pictures of 64x64 and 128x128, {len(CHORDS)} choices of `fidelity` and `cores` "
        "and three solvers in turn, two models, in turn one of them or both, and a LoRA in every fifth run.",
        _table(ours),
        _verdict(ours),
        "## The same runs with KSampler",
        "In another server, for comparison.",
        _table(stock),
        _verdict(stock),
        "Loaded: what the host counts as loaded, including the copies on the lanes. In memory: all diffusion models "
        "that Python's garbage collector finds, loaded or not.",
    ]
    return "\n\n".join(report)


def _on_ray(comfy: Path, arguments: list[str], runs: int) -> str:
    def devices(graph: Graph) -> Node:
        return graph.add("ChordsDevices", ray_address="local", ray_workers=WORKERS)

    found, seconds = _endure(comfy, arguments, runs, devices)
    report = [
        RAY_TITLE,
        f"{command()}, {machine(threads=1)}. {runs} runs in one server, {seconds:.0f} s, the same choices on {WORKERS} "
        "workers of a Ray that the server started; a choice of one core runs in the server.",
        _table(found),
        _verdict(found),
        "Objects: entries in Ray's object store, as its node says. The workers' figures are sums over them; Ray's "
        "memory is that of its node and its directory (raylet, gcs_server).",
    ]
    return "\n\n".join(report)


def _tiny_models(comfy: Path, folder: Path) -> list[str]:
    """Make the models of the tests; returns the arguments with which a server finds them and the tests' nodes."""
    subprocess.run([sys.executable, str(TESTS / "tiny_models.py"), str(comfy), str(folder)], check=True)
    return extra_paths(
        folder,
        models={"base_path": str(folder), "diffusion_models": "diffusion_models", "loras": "loras"},
        nodes={"base_path": str(TESTS), "custom_nodes": "pack"},
    )


def _endure(
    comfy: Path, arguments: list[str], runs: int, devices: Callable[[Graph], Node] | None
) -> tuple[list[Sample], float]:
    """What the server holds after every `EVERY` runs on these devices, and the seconds of all runs.

    Without devices, the runs are KSampler's.
    """
    with ComfyServer(comfy, threads=1, cpu=True, arguments=arguments, environment=RAY_OPTIONS) as server:
        client = server.client()
        begin, samples = time.monotonic(), []
        for number in range(1, runs + 1):
            client.run(_graph(number, devices).nodes)
            if number % EVERY == 0:
                samples.append(_sample(server, client, number))
                print(samples[-1], flush=True)
        return samples, time.monotonic() - begin


def _graph(number: int, devices: Callable[[Graph], Node] | None) -> Graph:
    """The graph of one run, or of one run with each model; the choices depend on its number."""
    graph = Graph()
    sampling = demo(graph) | settings(("euler", "dpmpp_2m", "res_multistep")[number % 3], seed=number, steps=8)
    size = 64 if number % 7 else 128
    sampling["latent_image"] = graph.add("EmptyLatentImage", width=size, height=size, batch_size=1)
    if devices is not None:
        sampling |= CHORDS[number % len(CHORDS)] | {"devices": devices(graph)}
    models = [sampling["model"]]
    if number % 4:
        other = graph.add("UNETLoader", unet_name="demo_other.safetensors", weight_dtype="default")
        models = [other] if number % 2 else [*models, other]
    for model in models:
        if number % 5 == 0:
            lora = {"lora_name": "tiny_lora.safetensors", "strength_model": 0.5}
            model = graph.add("LoraLoaderModelOnly", model=model, **lora)
        node = graph.add("ChordsKSampler" if devices is not None else "KSampler", **{**sampling, "model": model})
        graph.save(f"latent{len(graph.saved)}", node)
    return graph


def _sample(server: ComfyServer, client: ComfyClient, runs: int) -> Sample:
    counts = _asked(client, "TestLoadedModels", runs)
    process = psutil.Process(server.pid)
    figures = {
        "resident memory": process.memory_info().rss,
        "threads": process.num_threads(),
        "open files": process.num_fds(),
        "models loaded": counts["loaded"],
        "diffusion models in memory": counts["alive"],
    }
    children = process.children(recursive=True)
    raylet = next((child for child in children if child.name() == "raylet"), None)
    return Sample(runs, figures | (_sample_ray(children, raylet) if raylet else {}))


def _sample_ray(children: list[psutil.Process], raylet: psutil.Process) -> dict[str, int]:
    workers = [child for child in children if "RayActor" in " ".join(child.cmdline())]
    services = [child for child in children if child.name() in ("raylet", "gcs_server")]
    return {
        "objects": _objects_in_store(raylet),
        "workers": len(workers),
        "workers' memory": sum(worker.memory_info().rss for worker in workers),
        "workers' threads": sum(worker.num_threads() for worker in workers),
        "workers' open files": sum(worker.num_fds() for worker in workers),
        "Ray's memory": sum(service.memory_info().rss for service in services),
    }


def _objects_in_store(raylet: psutil.Process) -> int:
    """The number that the node writes into its log every second."""
    (folder,) = (word.split("=", 1)[1] for word in raylet.cmdline() if word.startswith("--log_dir="))
    said, asked = Path(folder) / "debug_state.txt", time.time()
    while said.stat().st_mtime < asked + 1.0:  # not of a second that began before
        time.sleep(0.1)
    time.sleep(0.1)  # written to its end
    (count,) = (line for line in said.read_text().splitlines() if "num local plasma objects" in line)
    return int(count.rsplit(":", 1)[1])


def _asked(client: ComfyClient, node: str, runs: int) -> dict[str, int]:
    """What a node of the tests counts in the server."""
    graph = Graph()
    counter = graph.add(node, salt=runs)
    return {name: values[0] for name, values in client.run(graph.nodes).outputs[counter.name].items()}


def _table(samples: list[Sample]) -> str:
    titles = [f"{name}, MB" if name in MEMORY else name for name in samples[0].figures]
    rows = [
        [sample.runs]
        + [f"{value / 1e6:.0f}" if name in MEMORY else str(value) for name, value in sample.figures.items()]
        for sample in samples
    ]
    return "\n".join(table(["after runs", *titles], rows))


def _verdict(samples: list[Sample]) -> str:
    """Whether the peak of the second half of the runs after the warm-up is above that of the first half."""
    settled = [sample for sample in samples if sample.runs >= WARM_UP] or samples
    earlier, later = settled[: (len(settled) + 1) // 2], settled[len(settled) // 2 :]
    facts, flat = [], True
    for name in settled[0].figures:
        before, after = (max(sample.figures[name] for sample in half) for half in (earlier, later))
        if name in MEMORY:
            lowest = min(sample.figures[name] for sample in settled)
            facts.append(
                f"{name} was between {lowest / 1e6:.0f} and {max(before, after) / 1e6:.0f} MB, its peak "
                f"{before / 1e6:.0f} MB in the first half and {after / 1e6:.0f} MB in the second "
                f"({after / before - 1:+.1%})"
            )
            flat = flat and after <= (1 + GROWTH) * before
        else:
            facts.append(f"{name} at most {before}, then {after}")
            flat = flat and after <= before
    span = f"from run {settled[0].runs} to run {settled[-1].runs}"
    return f"**{'Flat' if flat else 'Not flat'}** {span}: {'; '.join(facts)}."


if __name__ == "__main__":
    main()
