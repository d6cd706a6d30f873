"""The named sets of problems on which samplers are judged by their worst pictures: models, schedules and prompts.

Two models: the demo's shapes, and the emoji model (`_emoji.py`), which knows more things in finer detail. Each is a
flow model, and by an exact change of variables, x_flow = x / (1 + sigma), an eps model on SDXL's sigmas. Half of the
prompts name what is seen (the demo's: every place and size), half leave it open.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks._demo import LATENT, describe_scenes, load_flow, simple_sigmas
from benchmarks._emoji import LATENT as EMOJI_LATENT
from benchmarks._emoji import emoji_prompts, load_emoji
from benchmarks._problems import eps_grid, guided_flow
from chords_core import Chords, Window, sample
from demo import SHIFT
from demo.flow import Flow
from demo.scenes import COLOURS, SHAPES

AT_ONCE = 48  # pictures in a call


@dataclass(frozen=True)
class Cell:
    """What is sampled."""

    prediction: str
    schedule: str
    steps: int
    cfg: float
    solver: str
    model: str = "demo"

    def __str__(self) -> str:
        model = "" if self.model == "demo" else f"{self.model} "
        return f"{model}{self.prediction} {self.schedule}, {self.steps} steps, CFG {self.cfg:g}, {self.solver}"

    def sigmas(self, steps: int) -> Tensor:
        """``steps`` + 1 sigmas, for a flow model with the demo's shift."""
        if self.prediction == "eps":
            return torch.tensor(eps_grid(self.schedule, steps))
        return simple_sigmas(steps, shift=SHIFT)


def _eps_cells(solvers: Sequence[str], steps: Sequence[int], model: str) -> tuple[Cell, ...]:
    return tuple(
        Cell("eps", schedule, count, cfg, solver, model)
        for solver in solvers
        for cfg in (4.0, 7.5)
        for schedule in ("normal", "karras")
        for count in steps
    )


PROBLEMS: dict[str, tuple[Cell, ...]] = {
    "demo flow": tuple(Cell("flow", "simple", steps, cfg, "euler") for cfg in (1.0, 3.5, 8.0) for steps in (20, 50)),
    "demo eps": _eps_cells(("euler", "dpmpp_2m"), (20, 30), "demo"),
    "demo solvers": tuple(
        Cell("flow", "simple", 20, 8.0, solver) for solver in ("dpmpp_2m", "res_multistep", "uni_pc")
    ),
    "emoji flow": tuple(
        Cell("flow", "simple", steps, cfg, solver, "emoji")
        for cfg in (1.0, 3.5, 8.0)
        for solver, steps in (("euler", 20), ("euler", 50), ("dpmpp_2m", 20))
    ),
    "emoji eps": _eps_cells(("euler", "dpmpp_2m"), (20,), "emoji"),
}
"""The cells of each set; the first word is the model."""


def problems_of(model: str) -> tuple[Cell, ...]:
    """All cells of a model."""
    return tuple(cell for cells in PROBLEMS.values() for cell in cells if cell.model == model)


def prompts(count: int, seed: int, model: str = "demo") -> list[str]:
    """Half of them name what is seen, half leave it open: of the demo model every place and size."""
    if model == "emoji":
        return emoji_prompts(load_emoji().emoji, count, seed)
    rng = random.Random(seed)
    named = describe_scenes(count // 2, rng)
    return [*named, *(_open_prompt(rng) for _ in range(count - count // 2))]


def _open_prompt(rng: random.Random) -> str:
    colours = rng.sample(list(COLOURS), 3)
    things = [f"a {colour} {rng.choice(SHAPES)}" for colour in colours[: rng.choice((1, 1, 1, 2))]]
    background = f", {colours[2]} background" if rng.random() < 0.5 else ""
    return " and ".join(things) + background


def network_of(model: str) -> Flow:
    """The network of a model, in float32, frozen."""
    return load_emoji().flow if model == "emoji" else load_flow()


class Pictures:
    """The cell's model with these prompts; each picture is sampled by itself."""

    def __init__(self, cell: Cell, texts: Sequence[str], seed: int) -> None:
        self.cell = cell
        shape = EMOJI_LATENT if cell.model == "emoji" else LATENT
        self._model = guided_flow(network_of(cell.model), texts, cell.cfg)
        self._noise = torch.randn(len(texts), *shape, generator=torch.Generator().manual_seed(seed))

    def denoise(self, x: Tensor, sigma: Tensor, which: Tensor) -> Tensor:
        """The model's predictions for states x [m, ...] at sigma [m] of the pictures ``which`` [m]."""
        if self.cell.prediction == "eps":
            x, sigma = x / (1 + sigma.view(-1, 1, 1, 1)), sigma / (1 + sigma)
        parts = zip(x.split(AT_ONCE), sigma.split(AT_ONCE), which.split(AT_ONCE), strict=True)
        return torch.cat([self._model(*part) for part in parts])

    def start(self, k: int) -> Tensor:
        """The state of picture ``k`` at the first sigma: [1, 16, h, w]."""
        return self._noise[k : k + 1] * self.cell.sigmas(self.cell.steps)[0]

    def one_core(self, steps: int) -> Tensor:
        """All pictures by the sampler itself, on one core."""
        sigmas, everyone = self.cell.sigmas(steps), torch.arange(len(self._noise))

        def denoise(x: Tensor, sigma: float) -> Tensor:
            return self.denoise(x, torch.full((len(x),), sigma), everyone)

        start = self._noise * sigmas[0]
        return sample(denoise, start, sigmas, method="sequential", solver=self.cell.solver).x

    def each(self, make: Callable[[Tensor], Window | Chords]) -> list[Window | Chords]:
        """Run the method that ``make`` makes of a start for each picture by itself, with their calls in one batch."""
        runs = [make(self.start(k)) for k in range(len(self._noise))]
        going = list(range(len(runs)))
        while going:
            tasks = [(k, task) for k in going for task in runs[k].ready()]
            states = torch.cat([task.x for _, task in tasks])
            sigmas = torch.tensor([task.sigma for _, task in tasks])
            answers = self.denoise(states, sigmas, torch.tensor([k for k, _ in tasks]))
            for (k, task), answer in zip(tasks, answers, strict=True):
                runs[k].complete(task, answer[None])
            going = [k for k in going if runs[k].accepted is None]
        return runs
