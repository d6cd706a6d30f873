"""Training a LoRA towards an objective, on the demo model with guidance: writes results/sdo_lora.md.

    .venv/bin/python benchmarks/sdo_lora.py direction
    .venv/bin/python benchmarks/sdo_lora.py cost
    .venv/bin/python benchmarks/sdo_lora.py effect --iterations 50
    .venv/bin/python benchmarks/sdo_lora.py staying --iterations 50

``direction``: how near the gradients of several sets of kept steps are to that of all steps. ``cost``: bytes kept for
the backward pass, and forward-equivalent evaluations, over the steps. ``effect``: three objectives, a few steps (SDO)
against full backpropagation, the last step alone (DRaFT-1) and a random late step
whose predicted picture is judged (as ReFL). Each is judged on noise and prompts that it was not trained on.
``staying``: what the weight that holds the network near the old one changes, on target and on prompts of another kind.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))

from benchmarks._demo import LATENT, decoder, describe_scenes, guided, load_autoencoder, load_flow, simple_sigmas
from benchmarks._lora import Lora
from benchmarks._report import RESULTS, command, machine, table, write
from benchmarks._saved import peak_saved
from benchmarks._sdo_tasks import TASKS
from chords_core import Denoise, optimize_parameters, sample
from chords_core.sdo.gradients import KeptStep, evaluate, objective_gradient
from chords_core.sdo.parameter_gradients import (
    ParameterGradient,
    full_of_parameters,
    gradient_of_full,
    shortcut_of_parameters,
)
from chords_core.solvers import find_step
from demo.content import matches

CFG, STEPS, RANK = 4.0, 20, 8
OBJECTIVES = ("corners blue", "contrast", "content on the right")
TRAINED = tuple(
    f"a {size} {colour} {shape}"
    for size, colour, shape in (
        ("big", "yellow", "star"),
        ("small", "red", "circle"),
        ("big", "white", "ring"),
        ("small", "green", "cross"),
        ("big", "orange", "square"),
        ("small", "purple", "triangle"),
        ("big", "red", "ring"),
        ("small", "yellow", "square"),
    )
)
HELD_OUT = tuple(
    f"a {size} {colour} {shape}"
    for size, colour, shape in (
        ("small", "yellow", "ring"),
        ("big", "red", "square"),
        ("small", "white", "star"),
        ("big", "green", "triangle"),
        ("small", "orange", "circle"),
        ("big", "purple", "cross"),
        ("small", "green", "star"),
        ("big", "yellow", "triangle"),
    )
)
"""Prompts of things; place and background are left open. No held-out prompt is trained on."""
METHODS: dict[str, dict[str, Any]] = {
    "full backpropagation": {"gradient": "full"},
    "three steps (the default)": {},
    "the same, sampled within 1 %": {"tolerance": 0.01},
    "last step only (as DRaFT-1)": {"keep": [STEPS - 1]},
    "one random late step, its prediction (as ReFL)": {"predicted": True},
}


class TrainedModel:
    """The demo model with a LoRA, and what is needed to train and to judge it."""

    def __init__(self, batch: int, device: str = "cpu") -> None:
        self.flow, autoencoder = load_flow().to(device), load_autoencoder().to(device)
        self.decode = decoder(autoencoder)
        self.frozen = [*self.flow.parameters(), *autoencoder.parameters()]
        self.lora = Lora(self.flow, RANK)
        self.batch, self.device = batch, device
        self._guided: dict[tuple[str, ...], Denoise] = {}

    def denoise(self, x: Tensor, sigma: float, prompts: Sequence[str]) -> Tensor:
        key = tuple(prompts)
        if key not in self._guided:
            self._guided[key] = guided(self.flow, prompts, CFG)
        return self._guided[key](x, sigma)

    def reference(self, x: Tensor, sigma: float, prompts: Sequence[str]) -> Tensor:
        with self.lora.off():
            return self.denoise(x, sigma, prompts)

    def objective(self, task: str) -> Callable[[Tensor, Sequence[str]], Tensor]:
        return lambda latents, prompts: TASKS[task](list(prompts))(self.decode(latents))

    def prompts(self, iteration: int) -> list[str]:
        first = iteration * self.batch
        return [TRAINED[(first + number) % len(TRAINED)] for number in range(self.batch)]

    def starts(self, iteration: int) -> Tensor:
        return self.noise(self.batch, 1000 + iteration)

    def noise(self, count: int, seed: int) -> Tensor:
        return torch.randn(count, *LATENT, generator=torch.Generator().manual_seed(seed)).to(self.device)

    @torch.no_grad()
    def pictures(self, prompts: Sequence[str], seed: int) -> Tensor:
        """Latents [n, ...] of these prompts, each from its own noise."""
        x, parts = self.noise(len(prompts), seed), []
        for first in range(0, len(prompts), 8):
            some = prompts[first : first + 8]
            denoise = guided(self.flow, some, CFG)
            parts.append(sample(denoise, x[first : first + 8], SCHEDULE, method="sequential").x)
        return torch.cat(parts)

    @torch.no_grad()
    def judged(self, task: str) -> Tensor:
        """The objective of 16 held-out seeds, two for each held-out prompt."""
        prompts = [*HELD_OUT, *HELD_OUT]
        return self.objective(task)(self.pictures(prompts, 7), prompts)

    def content(self, prompts: Sequence[str], seed: int) -> int:
        """In how many pictures everything is that the prompt names, in its colour and shape."""
        shown = self.decode(self.pictures(prompts, seed)).clamp(0, 1).cpu()
        return sum(matches(picture.movedim(-1, 0), prompt) for picture, prompt in zip(shown, prompts, strict=True))


SCHEDULE = simple_sigmas(STEPS)


@dataclass(frozen=True)
class Outcome:
    """What a training gave: the mean objective of held-out pictures before and after, and what it took."""

    before: float
    after: float
    evaluations: int
    seconds: float
    drift: float | None

    @property
    def gain(self) -> float:
        return self.before - self.after


def train(
    trained_model: TrainedModel, task: str, iterations: int, lr: float, hold: float, method: dict[str, Any]
) -> Outcome:
    """Train the LoRA from the beginning, and judge it."""
    objective = trained_model.objective(task)
    before = float(trained_model.judged(task).mean())
    began = time.perf_counter()
    drift = None
    if method.get("predicted"):
        evaluations = _train_predicted(trained_model, objective, iterations, lr)
    else:
        trained = optimize_parameters(
            trained_model.denoise,
            trained_model.lora.parameters,
            trained_model.starts,
            SCHEDULE,
            objective,
            iterations=iterations,
            lr=lr,
            hold=hold,
            conditions=trained_model.prompts,
            reference=trained_model.reference,
            micro_batch=trained_model.batch,
            patience=None,
            **method,
        )
        evaluations, drift = trained.evaluations, trained.drift[-1] if trained.drift else None
    seconds = time.perf_counter() - began
    return Outcome(before, float(trained_model.judged(task).mean()), evaluations, seconds, drift)


def _train_predicted(trained_model: TrainedModel, objective: Callable[..., Tensor], iterations: int, lr: float) -> int:
    """ReFL's gradient (arXiv 2304.05977): sample to a random step of the last quarter, and judge the prediction there.
    Returns the evaluations."""
    parameters, rng = trained_model.lora.parameters, random.Random(0)
    optimizer, evaluations = torch.optim.Adam(parameters, lr=lr), 0
    for parameter in parameters:
        parameter.requires_grad_(True)
    for iteration in range(iterations):
        prompts, x = trained_model.prompts(iteration), trained_model.starts(iteration)
        last = rng.randrange(STEPS - STEPS // 4, STEPS)
        with torch.no_grad():
            denoise = guided(trained_model.flow, prompts, CFG)
            here = sample(denoise, x, SCHEDULE[: last + 1], method="sequential").x
            predicted = trained_model.denoise(here, float(SCHEDULE[last]), prompts)
        leaf = predicted.requires_grad_()
        slope = objective_gradient(evaluate(lambda s, p=prompts: objective(s, p), leaf), leaf)
        kept = KeptStep(here, SCHEDULE[last], SCHEDULE[-1], torch.zeros_like(here))
        found = shortcut_of_parameters(
            lambda x, sigma, p=prompts: trained_model.denoise(x, sigma, p),
            parameters,
            [kept],
            slope,
        )
        for parameter, gradient in zip(parameters, found.gradients, strict=True):
            parameter.grad = gradient
        for group in optimizer.param_groups:  # as in the other trainings
            group["lr"] = lr * (1 - 0.9 * iteration / iterations)
        optimizer.step()
        optimizer.zero_grad()
        evaluations += last + 3  # the prediction is the forward call of the three
    for parameter in parameters:
        parameter.requires_grad_(False)
    return evaluations


SETS: dict[str, tuple[int, ...]] = {
    "4, 10, 16 (the default)": (4, 10, 16),
    "4, 12, 19": (4, 12, 19),
    "2, 8, 14, 19": (2, 8, 14, 19),
    "11, 16, 19": (11, 16, 19),
    "12, 19": (12, 19),
    "19 (the last)": (19,),
}
LATE = (19, 16, 11)


def direction() -> Iterator[list[str]]:
    """The section on the direction of the gradients, again after every row."""
    titles = ("objective", "LoRA", *SETS, "19, 16, 11 each alone")
    rows: list[tuple[object, ...]] = []
    for size, name in ((0.0, "new"), (0.05, "random")):
        for task in OBJECTIVES:
            found = [_cosines(task, size, iteration) for iteration in range(4)]
            means = (sum(values) / len(values) for values in zip(*found, strict=True))
            rows.append((task, name, *(f"{mean:.2f}" for mean in means)))
            print(rows[-1], flush=True)
            yield [
                "## Direction of the gradient",
                f"{command()}: {machine(torch.get_num_threads())}.",
                "",
                f"N={STEPS}, CFG {CFG:g}, rank {RANK}: the cosine between the LoRA's gradient through the kept steps "
                "and that through all steps, mean of 4 batches of 4 pictures. The kept steps are a chain: each goes to "
                "the next one. In the last column each of three late steps is taken alone, and the terms are added.",
                "",
                *table(titles, rows),
            ]


def _cosines(task: str, size: float, iteration: int) -> list[float]:
    """For a LoRA whose ``up`` is random of that size."""
    trained_model = TrainedModel(4)
    parameters = trained_model.lora.parameters
    generator = torch.Generator().manual_seed(iteration)
    for up in parameters[1::2]:
        up.copy_(size * torch.randn(up.shape, generator=generator))
    for parameter in parameters:
        parameter.requires_grad_(True)
    prompts, objective, states = trained_model.prompts(iteration), trained_model.objective(task), dict[int, Tensor]()

    def denoise(x: Tensor, sigma: float) -> Tensor:
        states.setdefault(int((SCHEDULE - sigma).abs().argmin()), x.detach())
        return trained_model.denoise(x, sigma, prompts)

    end = full_of_parameters(denoise, trained_model.starts(iteration), SCHEDULE, find_step("euler"))
    leaf = end.detach().requires_grad_()
    slope = objective_gradient(evaluate(lambda x: objective(x, prompts), leaf), leaf)
    whole = gradient_of_full(end, parameters, slope)

    def through(steps: Sequence[int], after: Sequence[int]) -> ParameterGradient:
        kept = [
            KeptStep(states[i], SCHEDULE[i], SCHEDULE[j], torch.zeros_like(slope))
            for i, j in zip(steps, after, strict=True)
        ]
        return shortcut_of_parameters(denoise, parameters, kept, slope)

    chains = [through(steps, [*steps[1:], STEPS]) for steps in SETS.values()]
    alone = sum((through([step], [step + 1]) for step in LATE), ParameterGradient.zero(parameters))
    return [_cosine(found, whole) for found in (*chains, alone)]


def _cosine(a: ParameterGradient, b: ParameterGradient) -> float:
    one, other = (torch.cat([part.flatten() for part in found.gradients]) for found in (a, b))
    return float(torch.nn.functional.cosine_similarity(one, other, dim=0))


def effect(arguments: argparse.Namespace) -> Iterator[list[str]]:
    """The section on the effect, again after every task."""
    lines = [
        f"## Effect, {arguments.iterations} iterations",
        f"{command()}: {machine(torch.get_num_threads())}.",
        "",
        f"N={STEPS}, CFG {CFG:g}, rank {RANK}, {arguments.iterations} iterations of {arguments.batch} pictures, lr "
        f"{arguments.lr:g}, hold {arguments.hold:g} (not in ReFL). Trained on {len(TRAINED)} prompts; judged by the "
        f"mean objective of 16 held-out seeds on {len(HELD_OUT)} held-out prompts. Share: the improvement as a share "
        "of full backpropagation's. Evaluations are forward equivalents of the batch (full backpropagation is "
        "checkpointed: 4 a step; without checkpoints it would be 3; what holds the network costs it 12 more). Goals: "
        "share at least 90 %, evaluations at most half.",
    ]
    for task in arguments.tasks:
        rows: list[tuple[object, ...]] = []
        whole: Outcome | None = None
        for name, method in METHODS.items():
            found = train(
                TrainedModel(arguments.batch, arguments.device),
                task,
                arguments.iterations,
                arguments.lr,
                arguments.hold,
                method,
            )
            whole = whole or found
            if not rows:
                rows.append(("(before)", f"{found.before:.4f}", "", "", "", "", ""))
            share, cost = found.gain / whole.gain, found.evaluations / whole.evaluations
            drift = "" if found.drift is None else f"{found.drift:.1%}"
            rows.append(
                (
                    name,
                    f"{found.after:.4f}",
                    f"{share:.0%}",
                    found.evaluations,
                    f"{cost:.0%}",
                    drift,
                    f"{found.seconds:.0f}",
                )
            )
            print(task, rows[-1], flush=True)
        titles = ("gradient", "held-out objective", "share", "evaluations", "of full's", "drift at the end", "seconds")
        lines += ["", f"### {task}", "", *table(titles, rows)]
        yield lines


def staying(arguments: argparse.Namespace) -> Iterator[list[str]]:
    """The section on what holds the network: on target, and on prompts of another kind."""
    other = describe_scenes(20, 4711)
    lines = [
        f"## Staying what it was, {arguments.iterations} iterations",
        f"{command()}: {machine(torch.get_num_threads())}.",
        "",
        "The default gradient, with the network held by several weights. Content: pictures in which everything is that "
        "the prompt names, in its colour and shape; of 16 held-out pictures, and of 20 pictures of prompts of another "
        "kind, which name one or two things, their places and a background (goal 18). Change: the relative RMS "
        "difference of these 20 latents from those of the network before.",
    ]
    for task in arguments.tasks:
        rows: list[tuple[object, ...]] = []
        for hold in (None, *arguments.holds):
            trained_model = TrainedModel(arguments.batch, arguments.device)
            plain = trained_model.pictures(other, 8)
            after = float(trained_model.judged(task).mean())
            if hold is not None:
                after = train(trained_model, task, arguments.iterations, arguments.lr, hold, {}).after
            changed = trained_model.pictures(other, 8)
            change = float((changed - plain).square().mean().sqrt() / plain.square().mean().sqrt())
            name = "(before)" if hold is None else f"{hold:g}"
            seen = trained_model.content([*HELD_OUT, *HELD_OUT], 7), trained_model.content(other, 8)
            rows.append((name, f"{after:.4f}", f"{seen[0]} of 16", f"{seen[1]} of 20", f"{change:.1%}"))
            print(task, rows[-1], flush=True)
        titles = ("hold", "held-out objective", "content", "content, other prompts", "change, other prompts")
        lines += ["", f"### {task}", "", *table(titles, rows)]
        yield lines


def cost() -> list[str]:
    """The section on cost."""
    rows = []
    for steps in (10, 20, 50):
        schedule = simple_sigmas(steps)
        kept = {
            name: _peak(schedule, options)
            for name, options in (("sdo", {}), ("full", {"gradient": "full", "checkpoint": False}))
        }
        calls = {name: _calls(schedule, options) for name, options in (("sdo", {}), ("full", {"gradient": "full"}))}
        rows.append(
            (
                steps,
                f"{kept['sdo'] / 1e6:.1f}",
                f"{kept['full'] / 1e6:.1f}",
                f"{kept['sdo'] / kept['full']:.1%}",
                calls["sdo"],
                calls["full"],
                f"{calls['sdo'] / calls['full']:.0%}",
            )
        )
    titles = ("N", "SDO, MB", "full, MB", "SDO / full", "SDO, evaluations", "full, checkpointed", "SDO / full")
    return [
        "## Cost of an iteration",
        f"{command()}: {machine(torch.get_num_threads())}.",
        "",
        f"CFG {CFG:g}, rank {RANK}, a batch of 4 in micro-batches of one, the decoded picture's contrast. Bytes: the "
        "most that is kept for a backward pass at one time, the decoder's included (distinct storages; frozen "
        "parameters not counted). Goals at N=20: a tenth of the bytes, half of the evaluations.",
        "",
        *table(titles, rows),
    ]


def _peak(schedule: Tensor, options: dict[str, Any]) -> int:
    trained_model = TrainedModel(4)
    with peak_saved(trained_model.frozen) as peak:
        optimize_parameters(
            trained_model.denoise,
            trained_model.lora.parameters,
            trained_model.starts,
            schedule,
            trained_model.objective("contrast"),
            iterations=1,
            conditions=trained_model.prompts,
            reference=trained_model.reference,
            micro_batch=1,
            **options,
        )
    return peak.bytes


def _calls(schedule: Tensor, options: dict[str, Any]) -> int:
    """Evaluations of an iteration, by the difference of two trainings of a model that costs nothing."""
    weight = torch.zeros(8)

    def evaluations(iterations: int) -> int:
        return optimize_parameters(
            lambda x, sigma: 0.5 * x + weight,
            [weight],
            lambda i: torch.ones(1, 8),
            schedule,
            lambda x: (x - 100).square().mean(1),
            iterations=iterations,
            patience=None,
            **options,
        ).evaluations

    return evaluations(3) - evaluations(2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("direction", "cost", "effect", "staying"))
    parser.add_argument("--iterations", type=int, default=50)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--hold", type=float, default=1.0)
    parser.add_argument("--holds", type=float, nargs="+", default=[0.0, 0.3, 1.0, 3.0])
    parser.add_argument("--tasks", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="for effect and staying")
    parser.add_argument("--out", type=Path, default=RESULTS / "sdo_lora.md")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    parts: dict[str, Callable[[], Iterable[list[str]]]] = {
        "direction": direction,
        "cost": lambda: [cost()],
        "effect": lambda: effect(arguments),
        "staying": lambda: staying(arguments),
    }
    for lines in parts[arguments.part]():
        write_section(arguments.out, "# A LoRA towards an objective, on the demo model", lines)


def write_section(path: Path, title: str, section: list[str]) -> None:
    """Put ``section``, which begins with its heading, into the file in place of the section with that heading."""
    text = path.read_text(encoding="utf-8") if path.exists() else f"{title}\n"
    blocks = [block.strip() for block in text.split("\n## ")]
    name = section[0].removeprefix("## ")
    kept = [block for block in blocks[1:] if block.splitlines()[0] != name]
    write(path, ["\n\n## ".join([blocks[0], *sorted([*kept, "\n".join([name, *section[1:]])])])])


if __name__ == "__main__":
    main()
