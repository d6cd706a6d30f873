"""What one GPU says about batched cores, lanes on streams, the driver, the guidance split and windows in rows:
results/gpu.md.

    .venv/bin/python benchmarks/gpu.py            all of it, on one CUDA device, in about two minutes
    .venv/bin/python benchmarks/gpu.py --small    the same code on tiny models, on the CPU where there is no CUDA

Models have their real shapes and random weights, built by ComfyUI's own classes; only the demo model is a trained one.
Without CUDA, and without ``--small``, it says so and ends. Needs `python scripts/test.py --setup-only` once.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

BEGAN = time.perf_counter()
REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO), str(REPO / "scripts")]

import torch

from benchmarks._gpu_measurements import Deadline, measure_batches, measure_driver, measure_lanes
from benchmarks._gpu_models import (
    ARCHITECTURES,
    SHAPES,
    Architecture,
    Inputs,
    Model,
    Shape,
    median_ms,
    seconds_of,
    start_comfy,
    wait,
)
from benchmarks._gpu_report import Report
from benchmarks._gpu_rows import measure_windows
from benchmarks._report import RESULTS, device_facts, write

__all__ = [
    "ARCHITECTURES",
    "SHAPES",
    "Architecture",
    "Inputs",
    "Model",
    "Shape",
    "facts_of",
    "median_ms",
    "seconds_of",
    "start_comfy",
    "wait",
]

SMALL = 0.1  # of the seconds, with --small


def facts_of(device: torch.device, arguments: argparse.Namespace) -> dict[str, Any]:
    """The command, the date, the device and the versions, for the report."""
    command = "python benchmarks/gpu.py" + (" --small" if arguments.small else "")
    return {"command": command, "small": arguments.small, **device_facts(device)}


def measure(report: Report, shape: Shape, model: Model, small: bool) -> None:
    """All sections of one shape."""
    latent, deadline = shape.small if small else shape.latent, report.deadline
    entry = report.shapes[shape.name] = {
        "parameters": model.parameters,
        "dtype": str(model.dtype).removeprefix("torch."),
        "latent": latent,
        "latent_kib": 4 * math.prod(latent) / 1024,
        "guided": shape.guided,
        "notes": model.notes,
    }
    with report.section(f"{shape.name}: rows in one call"):
        entry["batches"] = measure_batches(model, shape, latent, shape.seconds * (SMALL if small else 1), deadline)
    if "batches" not in entry:
        return
    call_seconds = entry["batches"]["rows"]["1"]["ms"] / 1000
    if shape.lanes:
        with report.section(f"{shape.name}: lanes"):
            entry["lanes"] = measure_lanes(model, latent, call_seconds, deadline)
    if shape.driver:
        with report.section(f"{shape.name}: driver"):
            entry["driver"] = measure_driver(model, latent, call_seconds, 0.4 if small else 4.0, deadline)
    if shape.windows:
        trained = bool(ARCHITECTURES[shape.model].file)
        with report.section(f"{shape.name}: windows in rows"):
            entry["windows"] = measure_windows(model, latent, shape.guided, trained, call_seconds, deadline)


@torch.inference_mode()
def measure_all(report: Report, device: torch.device, small: bool) -> None:
    """All shapes, each model built once."""
    model, loaded = None, ""
    for shape in SHAPES:
        if report.deadline.left < 0:
            report.failures.append(f"{shape.name}: left out, no time left")
            report.save()
            continue
        if loaded != shape.model:
            model, loaded = None, ""
            with report.section(f"{shape.name}: building the model"), torch.inference_mode(False):
                gc.collect()
                if device.type == "cuda":
                    torch.cuda.empty_cache()
                model, loaded = Model(ARCHITECTURES[shape.model], small, device), shape.model
        if model is not None:
            measure(report, shape, model, small)
    report.save()


def write_report(folder: Path) -> None:
    """gpu.md of what is in the folder's gpu.json."""
    facts = json.loads((folder / "gpu.json").read_text(encoding="utf-8"))
    shapes, failures = facts.pop("shapes"), facts.pop("failures")
    write(folder / "gpu.md", Report(folder, facts, Deadline(BEGAN, 0), shapes, failures).lines())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="tiny models, to check that all of it runs")
    parser.add_argument("--out", type=Path, help="folder for gpu.md and gpu.json (default benchmarks/results; output/)")
    parser.add_argument("--limit", type=float, default=138.0, help="seconds after which no part begins (default 138)")
    parser.add_argument("--report", action="store_true", help="measure nothing, write gpu.md anew from gpu.json")
    arguments = parser.parse_args()
    if arguments.report:
        write_report(arguments.out or RESULTS)
        return
    if not torch.cuda.is_available() and not arguments.small:
        print("NOT MEASURED: torch sees no CUDA device here. --small checks the code on the CPU.")
        return
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)
    facts = facts_of(device, arguments) | start_comfy(device)
    folder = arguments.out or (REPO / "output" / "gpu-small" if arguments.small else RESULTS)
    report = Report(folder, facts, Deadline(BEGAN, arguments.limit))
    measure_all(report, device, arguments.small)
    print("\n".join(report.lines()))
    print(f"written to {report.folder}")


if __name__ == "__main__":
    main()
