"""What the nodes choose by themselves, against what the sampler gives with all steps, by how much a prompt leaves open.

    .venv/bin/python benchmarks/prompts.py

A prompt that names places and sizes leaves the model little to decide; where it does not, small differences early in
the run are decided upon, and grow. Depth is counted, not timed. Writes benchmarks/results/prompts.md.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO)]

import torch
from torch import Tensor

from benchmarks._problems import SEED, Problem, demo_problem, differences
from chords_core import Plan, choose_calls, plan, sample
from demo.scenes import describe, random_scene

RESULTS = Path(__file__).parent / "results" / "prompts.md"
CFG = 4.0
OPEN = (
    "a yellow star, blue background",
    "a red circle",
    "a green square and a blue ring, white background",
    "a purple cross on a yellow background",
    "a white triangle",
    "an orange ring and a black cross, green background",
)
LANES = (2, 3, 4, 8)
ELSEWHERE = ((1.0, 3.0), (8.0, 3.0), (4.0, 1.0), (4.0, 12.0))  # CFG and shift of the schedule


def settings(steps: int) -> Iterator[tuple[str, Plan]]:
    """Names and plans."""
    yield "`calls` at auto, one device", plan(steps, 1, calls=choose_calls(steps))
    for lanes in LANES:
        yield f"{lanes} devices", plan(steps, lanes)
    for lanes in LANES:
        yield f"`calls` at auto, {lanes} devices", plan(steps, lanes, calls=choose_calls(steps))
    for cores in (4, 8):
        yield f"CHORDS, {cores} cores", plan(steps, cores, cores, method="chords")


def settings_elsewhere(steps: int) -> Iterator[tuple[str, Plan]]:
    yield "`calls` at auto, one device", plan(steps, 1, calls=choose_calls(steps))
    for lanes in (2, 4, 8):
        yield f"{lanes} devices", plan(steps, lanes)
        yield f"{lanes} devices, `accept` second", plan(steps, lanes, accept=2)


def shifted(steps: int, shift: float) -> Tensor:
    """A flow model's `simple` schedule with this shift: steps + 1 sigmas from 1 to 0."""
    times = torch.linspace(1.0, 0.0, steps + 1)
    return shift * times / (1 + (shift - 1) * times)


def result_of(chosen: Plan, problem: Problem, sigmas: Tensor) -> Tensor:
    return sample(problem.denoise, problem.start, sigmas, **chosen.sample_options()).x


def told(found: Tensor) -> str:
    return f"{100 * found.median():.2f} % ({100 * found.max():.1f} %)"


def elsewhere(texts: list[list[str]], steps: int = 20) -> list[str]:
    """The same for other guidance and other schedules."""
    lines = [f"## {steps} steps with other guidance and other schedules", "", "| CFG | shift | setting | depth | "]
    lines[-1] += "places and sizes named | left open |"
    lines.append("|---|---|---|---|---|---|")
    for cfg, shift in ELSEWHERE:
        problems = [demo_problem(some, cfg, torch.device("cpu")) for some in texts]
        sigmas = shifted(steps, shift)
        whole = [sample(problem.denoise, problem.start, sigmas).x for problem in problems]
        fewer = 3 * steps // 4
        shorter = [sample(problem.denoise, problem.start, shifted(fewer, shift)).x for problem in problems]
        rows = [("fewer steps", fewer, shorter)]
        for name, chosen in settings_elsewhere(steps):
            rows.append((name, chosen.depth, [result_of(chosen, problem, sigmas) for problem in problems]))
        for name, depth, found in rows:
            cells = [told(differences(x, expected)) for x, expected in zip(found, whole, strict=True)]
            lines.append(f"| {cfg:g} | {shift:g} | {name} | {depth} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=12, help="pictures of each kind (default 12)")
    count = parser.parse_args().samples
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    rng = random.Random(SEED)
    named = [describe(random_scene(rng)) for _ in range(count)]
    left_open = [OPEN[i % len(OPEN)] for i in range(count)]
    problems = [demo_problem(texts, CFG, torch.device("cpu")) for texts in (named, left_open)]
    began = time.perf_counter()
    lines = [
        "# What the nodes choose, by how much a prompt leaves open",
        f"`python benchmarks/prompts.py`, {time.strftime('%Y-%m-%d')}: demo model, CFG {CFG:g}, euler, scheduler "
        f"simple, shift 3; {count} pictures each. Relative RMS difference of the latent from that of all steps on one "
        "core, median (largest). Depth: model calls in a row. Fewer steps: euler's own result with as many steps.",
        "",
    ]
    for steps in (20, 30, 50):
        lines += [
            f"## {steps} steps",
            "",
            "| setting | depth | places and sizes named | left open |",
            "|---|---|---|---|",
        ]
        sigmas = problems[0].grid("standard", steps)
        whole = [sample(problem.denoise, problem.start, sigmas).x for problem in problems]
        rows = [(name, chosen.depth, chosen) for name, chosen in settings(steps)]
        depths = sorted({depth for _, depth, chosen in rows if chosen.calls and chosen.cores == 1} | {3 * steps // 4})
        for name, depth, chosen in rows:
            cells = [
                told(differences(result_of(chosen, problem, sigmas), expected))
                for problem, expected in zip(problems, whole, strict=True)
            ]
            lines.append(f"| {name} | {depth} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
        for depth in depths:
            shorter = [
                sample(problem.denoise, problem.start, problem.grid("standard", depth)).x for problem in problems
            ]
            cells = [told(differences(x, expected)) for x, expected in zip(shorter, whole, strict=True)]
            lines.append(f"| fewer steps | {depth} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
        lines.append("")
    lines += elsewhere([named, left_open])
    RESULTS.write_text("\n".join(lines), encoding="utf-8")
    print(f"{time.perf_counter() - began:.0f} s; written to {RESULTS.relative_to(REPO)}")


if __name__ == "__main__":
    main()
