"""The cost and the effect of optimising an initial noise, on the demo model with guidance: writes results/sdo.md.

    .venv/bin/python benchmarks/sdo.py cost
    .venv/bin/python benchmarks/sdo.py direction --seeds 8
    .venv/bin/python benchmarks/sdo.py effect --seeds 16 --iterations 50

``cost``: bytes saved for the backward pass, by the model's steps and by the objective (decoder), and forward-
equivalent evaluations. ``direction``: the cosine between the shortcut's gradient and that through all steps, by the
steps that are kept. ``effect``: four objectives of the decoded picture, SDO with several refreshes against full
backpropagation in as many iterations, and against the best of n random seeds for the same evaluations. Each run
replaces the section with its heading in the file and keeps the others.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint_sequential

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))

from benchmarks._demo import LATENT, decoder, guided, load_autoencoder, load_flow, simple_sigmas
from benchmarks._report import RESULTS, command, machine, row, table
from benchmarks._report import write as write_lines
from benchmarks._sdo_tasks import TASKS, blue_corners
from chords_core import Denoise, Optimized, choose_initial_noise, sample
from chords_core.methods.events import Evaluated, Event
from chords_core.sdo.gradients import Objective, shortcut
from chords_core.sdo.objectives import Reference, Through
from chords_core.sdo.optimize import optimize_latent
from chords_core.sdo.trajectory import Trajectory, steps_to_keep
from demo.autoencoder import Autoencoder
from demo.flow import Flow

CFG = 4.0
COST_STEPS = (10, 20, 50)
GRADIENTS: dict[str, dict[str, Any]] = {
    "shortcut": {},
    "full, checkpointed": {"gradient": "full"},
    "full": {"gradient": "full", "checkpoint": False},
}
COST_ITERATIONS = 50
PROMPTS = ("a big yellow star", "a big red circle", "a small white ring", "a big green cross")  # place, ground open
TITLE = "# SDO on the demo model"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("cost", "direction", "effect"))
    parser.add_argument("--seeds", type=int, default=16, help="initial noises a task")
    parser.add_argument("--iterations", type=int, default=50)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--random", type=int, default=32, help="random seeds a prompt, for best-of-n")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS / "sdo.md")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    flow, autoencoder = load_flow(), load_autoencoder()
    if arguments.part == "cost":
        sections: Iterable[list[str]] = [cost(flow, autoencoder)]
    elif arguments.part == "direction":
        sections = [direction(flow, autoencoder, arguments.seeds, arguments.steps, arguments.tasks)]
    else:
        sections = effect(
            flow,
            autoencoder,
            seeds=arguments.seeds,
            iterations=arguments.iterations,
            steps=arguments.steps,
            lr=arguments.lr,
            randoms=arguments.random,
            tasks=arguments.tasks,
            methods=arguments.methods,
        )
    for section in sections:
        write(arguments.out, section)


def checkpointed_decoder(autoencoder: Autoencoder) -> Callable[[Tensor], Tensor]:
    """The same, block by block without a graph until the backward pass, as the node in ComfyUI does it."""
    blocks = len(autoencoder.decoder)

    def decode(latents: Tensor) -> Tensor:
        return checkpoint_sequential(autoencoder.decoder, blocks, latents, use_reentrant=False).movedim(1, -1)

    return decode


@dataclass
class Saved:
    """Bytes of the distinct storages that graphs hold for the backward pass: now, and the most at one time."""

    holders: Counter[int] = field(default_factory=Counter)  # saved tensors, by the address of their storage
    now: int = 0
    peak: int = 0


class _Held:
    """A saved tensor, as long as a graph holds it."""

    def __init__(self, saved: Saved, tensor: Tensor) -> None:
        self.saved, self.tensor = saved, tensor
        self._count(1)
        saved.peak = max(saved.peak, saved.now)

    def __del__(self) -> None:
        self._count(-1)

    def _count(self, change: int) -> None:
        storage, holders = self.tensor.untyped_storage(), self.saved.holders
        # Frozen parameters exist anyway; everything else is an intermediate result.
        if storage.data_ptr() in PARAMETERS:
            return
        before = holders[storage.data_ptr()]
        holders[storage.data_ptr()] = after = before + change
        if before == 0 or after == 0:  # a storage counts once
            self.saved.now += change * storage.nbytes()


@contextmanager
def recording() -> Iterator[Saved]:
    """Count what the operations inside save for the backward pass, as long as it is held."""
    saved = Saved()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: _Held(saved, tensor), lambda held: held.tensor):
        yield saved


PARAMETERS: set[int] = set()  # addresses of the networks' parameters


def cost(flow: Flow, autoencoder: Autoencoder) -> list[str]:
    """The section on memory and evaluations."""
    for network in (flow, autoencoder):
        PARAMETERS.update(p.untyped_storage().data_ptr() for p in network.parameters())
    x = torch.randn(1, *LATENT, generator=torch.Generator().manual_seed(0))
    denoise = guided(flow, [PROMPTS[0]], CFG)
    decode = decoder(autoencoder)
    goals: dict[str, Objective] = {
        "a latent": Reference(torch.zeros(LATENT)),
        "the decoded picture": Through(decode, blue_corners([])),
        "the same, decoder checkpointed": Through(checkpointed_decoder(autoencoder), blue_corners([])),
    }
    bytes_of: dict[tuple[str, int, str], int] = {}
    for steps in COST_STEPS:
        for goal, objective in goals.items():
            for name, options in GRADIENTS.items():
                with recording() as saved:
                    optimize_latent(denoise, x, simple_sigmas(steps), objective, iterations=1, **options)
                bytes_of[name, steps, goal] = saved.peak
                print(steps, goal, name, saved.peak, flush=True)
    lines = [
        "## Cost",
        f"CFG {CFG:g}, one picture, euler, float32. The most bytes that graphs hold at one time for the backward pass "
        "of one iteration (`torch.autograd.graph.saved_tensors_hooks`, distinct storages, frozen parameters not "
        "counted). The shortcut holds the objective's graph or that of one evaluation, never both. "
        '"full" holds all graphs; "checkpointed" holds the states between steps (counted here), and besides, while it '
        "runs a step again, that step's graph, which is as large as the shortcut's.",
        "",
    ]
    rows = [
        [goal, name, *(f"{bytes_of[name, steps, goal] / 1e6:.2f}" for steps in COST_STEPS)]
        for goal in goals
        for name in ("shortcut", "full", "full, checkpointed")
    ]
    lines += table(["objective of", "gradient", *(f"N={steps}, MB" for steps in COST_STEPS)], rows)
    most = COST_STEPS[-1]
    lines.append("")
    for goal in goals:
        own = [bytes_of["shortcut", steps, goal] for steps in COST_STEPS]
        share = own[-1] / bytes_of["full", most, goal]
        lines.append(
            f"Objective of {goal}: over N the shortcut's bytes differ by {max(own) / min(own) - 1:.2%} (goal 1 %); at "
            f"N={most} they are {share:.2%} of full backpropagation's (goal under 4 %)."
        )
    decoding = bytes_of["full", most, "the decoded picture"] - bytes_of["full", most, "a latent"]
    lines.append(
        f"What the decoder saves, {decoding / 1e6:.1f} MB, is the same for every gradient and every N. The node in "
        "ComfyUI checkpoints the blocks of decoder and model alike; here only the decoder's are."
    )
    lines += ["", *_evaluations()]
    return lines


def _evaluations() -> list[str]:
    """The table of forward-equivalent evaluations, counted with a model that costs nothing."""

    def denoise(x: Tensor, sigma: float) -> Tensor:
        return 0.5 * x

    def counted(steps: int, **options: Any) -> int:
        x = torch.randn(1, 8, generator=torch.Generator().manual_seed(0))
        target = Reference(torch.full((8,), 100.0))  # never reached: no early stop
        return optimize_latent(
            denoise, x, simple_sigmas(steps), target, iterations=COST_ITERATIONS, patience=None, **options
        ).evaluations

    rows = []
    for steps in COST_STEPS:
        plain, carried = counted(steps, refresh=1, keep="last"), counted(steps, keep="last")
        several, whole = counted(steps), counted(steps, gradient="full", checkpoint=False)
        saving = counted(steps, gradient="full")
        rows.append([steps, plain, carried, several, whole, saving, f"{carried / whole:.1%}", f"{several / whole:.1%}"])
    titles = (
        "N",
        "last, refresh 1",
        "last, refresh 10",
        "spread, refresh 10",
        "full",
        "full, checkpointed",
        "last, refresh 10 / full",
        "spread, refresh 10 / full",
    )
    return [
        f"Forward-equivalent evaluations of {COST_ITERATIONS} iterations, with all samplings and the final check "
        "(forward 1, with graph and backward 3, checkpointed 4; an iteration that carries its trajectory makes each "
        "kept evaluation once more, without a graph). `keep` last is one step, spread is three:",
        "",
        *table(titles, rows),
        "",
        "Goal at N=50: at most 8 %.",
    ]


def direction(flow: Flow, autoencoder: Autoencoder, seeds: int, steps: int, tasks: list[str]) -> list[str]:
    """The section on how near the shortcut's gradient is to that through all steps."""
    prompts = [PROMPTS[number % len(PROMPTS)] for number in range(seeds)]
    x = torch.randn(seeds, *LATENT, generator=torch.Generator().manual_seed(1))
    denoise, decode, schedule = guided(flow, prompts, CFG), decoder(autoencoder), simple_sigmas(steps)
    evaluated: dict[int, Evaluated] = {}

    def listen(event: Event) -> None:
        if isinstance(event, Evaluated):
            evaluated[event.index] = event

    with torch.no_grad():
        end = sample(denoise, x, schedule, method="sequential", on_event=listen).x

    def gradient(keep: str | Sequence[int], objective: Objective) -> Tensor:
        indices = steps_to_keep(keep, steps, 1)
        kept = Trajectory.of_noise(x, end, evaluated, indices, schedule).kept
        return shortcut(denoise, kept, end, objective).gradient.flatten(1)

    several = steps_to_keep("spread", steps, 1)
    keeps: tuple[str | tuple[int, ...], ...] = ("last", *((index,) for index in several[:-1]), several[1:], "spread")
    rows = []
    for task in tasks:
        objective = Through(decode, TASKS[task](prompts))
        exact = gradient(range(steps), objective)
        cosines = [torch.cosine_similarity(gradient(keep, objective), exact).mean() for keep in keeps]
        rows.append([task, *(f"{float(cosine):.2f}" for cosine in cosines)])
        print(rows[-1], flush=True)
    return [
        "## Direction",
        f"N={steps}, CFG {CFG:g}, euler, {seeds} seeds over {len(PROMPTS)} prompts. Cosine between dJ/dx_0 by the "
        "shortcut and dJ/dx_0 through all steps, at the initial noise, mean over the seeds, by the steps that are kept "
        "(from 0).",
        "",
        *table(("objective", f"last ({steps - 1})", *map(str, keeps[1:-1]), f"spread {several}"), rows),
    ]


METHODS: dict[str, dict[str, Any]] = {
    "full": {"gradient": "full", "checkpoint": False},
    "last, every iteration": {"refresh": 1, "keep": "last"},
    "last, every 10th": {"refresh": 10, "keep": "last"},
    "last, adaptive": {"refresh": "adaptive", "keep": "last"},
    "spread, every iteration": {"refresh": 1},
    "spread, every 10th": {"refresh": 10},
    "spread, adaptive": {"refresh": "adaptive"},
    "best of 8, then spread, adaptive": {"refresh": "adaptive", "candidates": 8},
}


def effect(
    flow: Flow,
    autoencoder: Autoencoder,
    *,
    seeds: int,
    iterations: int,
    steps: int,
    lr: float,
    randoms: int,
    tasks: list[str],
    methods: list[str],
) -> Iterator[list[str]]:
    """The section on the effect, again after every task, so that a run that is cut short keeps what it has."""
    prompts = [PROMPTS[number % len(PROMPTS)] for number in range(seeds)]
    x = torch.randn(seeds, *LATENT, generator=torch.Generator().manual_seed(1))
    denoise, decode, schedule = guided(flow, prompts, CFG), decoder(autoencoder), simple_sigmas(steps)
    pool = _random_samples(flow, schedule, randoms)
    lines = [
        f"## Effect, {seeds} seeds, {iterations} iterations",
        f"N={steps}, CFG {CFG:g}, {seeds} seeds over {len(PROMPTS)} prompts (place and background left open), "
        f"{iterations} iterations, lr {lr:g}; {torch.get_num_threads()} CPU thread(s). Mean objective over the seeds. "
        "Share: the improvement over that noise as a share of full backpropagation's (goal 90 %). Evaluations are "
        f"forward equivalents. Best of n: the average of the best of n random seeds for as many evaluations, from "
        f"{randoms} a prompt.",
    ]
    for task in tasks:
        objective = TASKS[task](prompts)
        goal = Through(decode, objective)
        spread = {p: _values(decode, TASKS[task], p, pool[p]) for p in PROMPTS}
        titles = ("gradient", "final", "share", "evaluations", "best of n", "seconds")
        lines += ["", f"### {task}", "", *table(titles, [])]
        gained: float | None = None
        for name in methods:
            began = time.perf_counter()
            found, first = _search(denoise, x, schedule, goal, METHODS[name], iterations, lr)
            seconds = time.perf_counter() - began
            line, gained = _row(name, found, first, gained, steps, [spread[p] for p in prompts], seconds)
            if name == methods[0]:
                lines.append(row(("(initial noise)", f"{float(first.mean()):.3f}", "", "", "", "")))
                print(lines[-1])
            lines.append(line)
            print(task, line, flush=True)
        yield lines


def _search(
    denoise: Denoise,
    x: Tensor,
    schedule: Tensor,
    goal: Objective,
    method: dict[str, Any],
    iterations: int,
    lr: float,
) -> tuple[Optimized, Tensor]:
    """What a method found, and the objective [B] at ``x``; of several candidates ``x`` is the first."""
    options = {**method}
    count = int(options.pop("candidates", 1))
    if count == 1:
        found = optimize_latent(denoise, x, schedule, goal, iterations=iterations, lr=lr, patience=None, **options)
        return found, found.history[0]
    others = torch.randn(count - 1, *x.shape, generator=torch.Generator().manual_seed(2))
    chosen = choose_initial_noise(denoise, torch.cat((x[None], others)), schedule, goal)
    found = optimize_latent(denoise, chosen.x, schedule, goal, iterations=iterations, lr=lr, patience=None, **options)
    return replace(found, evaluations=found.evaluations + chosen.evaluations), chosen.values[0]


def _row(
    name: str,
    found: Optimized,
    first: Tensor,
    full_gain: float | None,
    steps: int,
    spread: list[Tensor],
    seconds: float,
) -> tuple[str, float | None]:
    gain = float((first - found.objective).mean())
    full_gain = gain if name == "full" else full_gain
    count = max(1, found.evaluations // steps)
    lucky = sum(_expected_best(values, count) for values in spread) / len(spread)
    share = f"{gain / full_gain:.0%}" if full_gain is not None and full_gain > 0 else ""
    cells = (name, f"{float(found.objective.mean()):.3f}", share, str(found.evaluations))
    best = f"{lucky:.3f} (n={count}{', pool spent' if count > len(spread[0]) else ''})"
    return row((*cells, best, f"{seconds:.0f}")), full_gain


def _random_samples(flow: Flow, schedule: Tensor, count: int) -> dict[str, Tensor]:
    """Samples of each prompt from ``count`` random noises."""
    samples = {}
    for number, prompt in enumerate(PROMPTS):
        x = torch.randn(count, *LATENT, generator=torch.Generator().manual_seed(100 + number))
        parts = []
        for part in x.split(8):
            with torch.no_grad():
                parts.append(sample(guided(flow, [prompt] * len(part), CFG), part, schedule, method="sequential").x)
        samples[prompt] = torch.cat(parts)
    return samples


@torch.no_grad()
def _values(
    decode: Callable[[Tensor], Tensor], task: Callable[[list[str]], Objective], prompt: str, samples: Tensor
) -> Tensor:
    return torch.cat([task([prompt] * len(part))(decode(part)) for part in samples.split(8)])


def _expected_best(values: Tensor, count: int) -> float:
    """The mean of the least of ``count`` values drawn without repeating from ``values`` (all of them if fewer)."""
    ordered, total = values.sort().values.tolist(), len(values)
    if count >= total:
        return float(ordered[0])
    left, chance, mean = 1.0, 0.0, 0.0
    for rank, value in enumerate(ordered):
        if rank > total - count:
            break
        chance = left * count / (total - rank)  # this one is drawn, and none before it was
        mean += chance * value
        left -= chance
    return mean


def write(path: Path, section: list[str]) -> None:
    """Put ``section``, which begins with its heading, into the file; it replaces the section with that heading."""
    heading, *rest = section
    text = path.read_text(encoding="utf-8") if path.exists() else f"{TITLE}\n"
    blocks = [block.strip() for block in text.split("\n## ")]
    name = heading.removeprefix("## ")
    kept = [block for block in blocks[1:] if block.splitlines()[0] != name]
    new = "\n".join([name, f"{command()}: {machine(torch.get_num_threads())}.", "", *rest])
    write_lines(path, ["\n\n## ".join([blocks[0], *sorted([*kept, new])])])


if __name__ == "__main__":
    main()
