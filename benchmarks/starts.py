"""How far a first hit is from the sequential result, by steps and cores, on the demo model: what the planner rests on.

    .venv/bin/python benchmarks/starts.py

First hits against the sequential run of the same solver: the median over held-out prompts of the relative RMS
difference of the latents, for the lattice starts of a given number of cores, and for what the planner chooses for a
number of lanes. Writes results/starts.md.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))

from benchmarks._plans import planned_starts
from chords_core import Denoise, lattice_starts, sample
from demo import SHIFT
from demo.flow import Flow
from demo.prompts import encode_prompt
from demo.scenes import describe, random_scene

PROMPTS = 8
STEPS = (12, 20, 30)
CORES = (2, 3, 4, 6, 8)
LANES = (3, 4, 6, 8)
SETTINGS = ((3.5, "euler"), (3.5, "dpmpp_2m"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=REPO / "benchmarks" / "results" / "starts.md")
    arguments = parser.parse_args()
    flow = Flow().eval()
    weights = load_file(REPO / "models" / "chords_demo_flow.safetensors")
    flow.load_state_dict({name: value.float() for name, value in weights.items()})
    rng = random.Random(11)
    prompts = [describe(random_scene(rng)) for _ in range(PROMPTS)]
    x = torch.randn(PROMPTS, 16, 16, 16, generator=torch.Generator().manual_seed(3))
    lines = [
        "# First hits against the sequential result, demo model",
        "",
        f"`.venv/bin/python benchmarks/starts.py`: median over {PROMPTS} held-out prompts of the relative RMS "
        "difference of the latents, the depth, and the starts.",
    ]
    for cfg, solver in SETTINGS:
        heads = [*(f"cores = {cores}" for cores in CORES), *(f"chosen for {lanes} lanes" for lanes in LANES)]
        lines += ["", f"## {solver}, CFG {cfg}", "", "| steps | " + " | ".join(heads) + " |"]
        lines.append("|---" * (len(heads) + 1) + "|")
        for steps in STEPS:
            lines.append(row(guided(flow, prompts, cfg), x, steps, solver))
            print(lines[-1], flush=True)
    arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def row(denoise: Denoise, x: Tensor, steps: int, solver: str) -> str:
    """A line of the table."""
    schedule = sigmas(steps)
    exact = sample(denoise, x, schedule, solver=solver).x
    known: dict[tuple[int, ...], str] = {(0,): "one core"}
    cells = []
    for starts in [
        *(tuple(lattice_starts(steps, cores)) for cores in CORES),
        *(planned_starts(steps, lanes) for lanes in LANES),
    ]:
        if starts not in known:
            result = sample(denoise, x, schedule, starts=starts, solver=solver, accept=1)
            known[starts] = f"{difference(result.x, exact):.4f} D{result.depth} {list(starts)}"
        cells.append(known[starts])
    return f"| {steps} | " + " | ".join(cells) + " |"


def sigmas(steps: int) -> Tensor:
    """The host's simple schedule of the demo model."""
    t = torch.linspace(1, 0, steps + 1)
    return SHIFT * t / (1 + (SHIFT - 1) * t)


def guided(flow: Flow, prompts: list[str], cfg: float) -> Denoise:
    """The flow model's denoised estimate under classifier-free guidance, one prompt an item of the batch."""
    device = next(flow.parameters()).device
    context = torch.cat([encode_prompt(prompt) for prompt in prompts]).to(device)
    empty = encode_prompt("").expand(len(prompts), -1, -1).to(device)

    @torch.no_grad()
    def denoise(x: Tensor, sigma: float) -> Tensor:
        time = torch.full((len(x),), sigma, device=device)
        velocity = flow(x, time, context)
        if cfg != 1:
            unguided = flow(x, time, empty)
            velocity = unguided + cfg * (velocity - unguided)
        return x - sigma * velocity

    return denoise


def difference(x: Tensor, exact: Tensor) -> float:
    """The median over the batch of the relative RMS difference."""
    change = (x - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)
    return float(change.median())


if __name__ == "__main__":
    main()
