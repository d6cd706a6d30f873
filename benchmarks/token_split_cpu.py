"""How much faster two CPU cores compute a call that they share by tokens: results/token_split_cpu.md.

    .venv/bin/python benchmarks/token_split_cpu.py            on a machine with two idle cores, in about two minutes
    .venv/bin/python benchmarks/token_split_cpu.py --small    the same code on fewer tokens

Against one thread, and against one call with two intra-op threads. All ways in turn in each round; medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO / "benchmarks"), str(REPO / "nodes" / "host" / "devices")]

import torch
from gpu import ARCHITECTURES, Architecture, Inputs, Model, facts_of, start_comfy
from token_split import Member, SplitCall
from torch import Tensor

RESULTS = Path(__file__).parent / "results"
CPU = torch.device("cpu")
TIMEOUT = 600.0  # seconds for an exchange
WAYS = ("one thread", "two intra-op threads", "two members")


@dataclass(frozen=True)
class Case:
    """``tokens``: of picture and text, as the report says it."""

    name: str
    tokens: str
    architecture: Architecture
    latent: tuple[int, ...]


def cases() -> list[Case]:
    demo = replace(ARCHITECTURES["demo"], dtype=torch.float32)
    flux = _smaller("Flux", {"hidden_size": 512, "num_heads": 4, "depth": 2, "depth_single_blocks": 4})
    flux = replace(flux, conds=flux.conds | {"c_crossattn": (128, "context_in_dim")})
    wan = _smaller("Wan 2.1 1.3B", {"dim": 512, "ffn_dim": 2048, "num_heads": 4, "num_layers": 6})
    return [
        Case("demo model, 256x256", "256 + 12", demo, (16, 32, 32)),
        Case("demo model, 512x512", "1,024 + 12", demo, (16, 64, 64)),
        Case("demo model, 768x768", "2,304 + 12", demo, (16, 96, 96)),
        Case("Flux, width 512", "1,024 + 128", flux, (16, 64, 64)),
        Case("Wan, width 512", "1,600", wan, (16, 4, 40, 40)),
    ]


def _smaller(name: str, config: dict[str, Any]) -> Architecture:
    """The real architecture with a smaller width and fewer blocks, in single precision."""
    architecture = ARCHITECTURES[name]
    return replace(architecture, config=architecture.config | config, dtype=torch.float32)


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """Seconds of a call each way, and whether the members' bits are those of one thread."""
    with torch.inference_mode(False):
        model = Model(case.architecture, False, CPU)
    inputs = Inputs(model, case.latent, 1)

    def whole() -> Tensor:
        return model(inputs, slice(0, 1))

    def run(rank: int, options: dict[str, Any], control: Any) -> Tensor:
        return model(inputs, slice(0, 1), options=options)

    torch.set_num_threads(1)
    with SplitCall([Member(CPU, model.network)] * 2) as split:
        ways: dict[str, tuple[int, Callable[[], Tensor]]] = {
            "one thread": (1, whole),
            "two intra-op threads": (2, whole),
            "two members": (1, lambda: split(run, [{}, {}], timeout=TIMEOUT)[0]),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        results: dict[str, Tensor] = {}
        for done in range(rounds + 1):  # the first warms up
            for name, (threads, call) in ways.items():
                torch.set_num_threads(threads)
                began = time.perf_counter()
                results[name] = call()
                if done:
                    times[name].append(time.perf_counter() - began)
    return {
        "tokens": case.tokens,
        "seconds": {name: statistics.median(values) for name, values in times.items()},
        "spread": {name: [min(values), max(values)] for name, values in times.items()},
        "same_bits": torch.equal(results["two members"], results["one thread"]),
    }


def lines(report: dict[str, Any]) -> list[str]:
    facts = report["facts"]
    out = [
        "# The token split on two CPU cores",
        f"`{facts['command']}`, {facts['date']}: {facts['system']}, {facts['cores']} cores, load before "
        f"{facts['load']:.1f}; torch {facts['torch']}, Python {facts['python']}, ComfyUI {facts['comfyui']}.",
        "",
        "One call in single precision, batch 1; medians of "
        f"{report['rounds']} rounds, all ways in turn. *Times as fast*: against one thread.",
        "",
        "| model | tokens | one thread, s | two intra-op threads | two members | same bits as one thread |",
        "|---|---|---|---|---|---|",
    ]
    for name, entry in report["cases"].items():
        seconds = entry["seconds"]
        gains = [f"{seconds['one thread'] / seconds[way]:.2f}" for way in WAYS[1:]]
        out.append(
            f"| {name} | {entry['tokens']} | {seconds['one thread']:.3f} | {gains[0]} | **{gains[1]}** | "
            f"{'yes' if entry['same_bits'] else 'NO'} |"
        )
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="the first case only, to check that all of it runs")
    parser.add_argument("--out", type=Path, help="folder for the results (default benchmarks/results; output/)")
    parser.add_argument("--rounds", type=int, default=7, help="timed calls each way (default 7)")
    arguments = parser.parse_args()
    facts = facts_of(CPU, arguments) | start_comfy(CPU)
    facts |= {
        "command": "python benchmarks/token_split_cpu.py" + (" --small" if arguments.small else ""),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0,
    }
    rounds = 2 if arguments.small else arguments.rounds
    report: dict[str, Any] = {"facts": facts, "rounds": rounds, "cases": {}}
    with torch.inference_mode():
        for case in cases()[: 1 if arguments.small else None]:
            print(case.name, flush=True)
            report["cases"][case.name] = measure(case, rounds)
    folder = arguments.out or (REPO / "output" / "token-split-small" if arguments.small else RESULTS)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "token_split_cpu.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    text = "\n".join(lines(report)) + "\n"
    (folder / "token_split_cpu.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
