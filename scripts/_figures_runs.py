"""The runs behind the figures of docs/how-it-works.md: what is computed, without any drawing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.overrides import TorchFunctionMode

from benchmarks._demo import LATENT, decoder, guided, load_autoencoder, load_flow, simple_sigmas
from benchmarks._sdo_tasks import on_the_right
from chords_core import (
    SOLVERS,
    ChordsPlan,
    Denoise,
    Evaluated,
    Event,
    InlinePool,
    Iterated,
    OptimizationEvent,
    Optimized,
    Rectified,
    Result,
    Through,
    Window,
    optimize_latent,
    plan,
    sample,
    tolerance_window,
)
from chords_core.execution.driver import drive
from chords_core.solvers.euler import euler
from demo.flow import PATCH

CFG, SEARCH_CFG = 3.5, 4.0
CORES = 4
TOLERANCE = 0.01  # of the nodes' fidelity "near"
STARS = "a big purple star on the left and a small green star on the right, orange background"
CROSS = "a big blue cross at the top and a big black ring at the bottom, yellow background"
STAR, STAR_SEED = "a big yellow star, blue background", 4  # the noise decides where it lies
FEW_STEPS_SEED = 3  # from which few steps give another star
SEEDS = range(1, 11)
LUCKY, UNLUCKY = 9, 1  # of these seeds: with the stars, the first hit is the closest and the furthest
OPEN_PROMPT = "a big red circle"  # it names neither a place nor the background


@dataclass(frozen=True)
class Scale:
    """How much is computed, and how large it is drawn."""

    steps: int = 20
    many_steps: int = 50
    iterations: int = 30
    points: int = 160
    seeds: int = 10
    dpi: int = 200


SMALL = Scale(steps=12, many_steps=14, iterations=2, points=12, seeds=1, dpi=40)
"""For `--check`."""


# --- what is sampled


@dataclass(frozen=True, eq=False)
class Subject:
    """What is sampled: a model, a start at the first sigma, and N+1 sigmas."""

    denoise: Denoise
    start: Tensor
    sigmas: Tensor

    @property
    def steps(self) -> int:
        return len(self.sigmas) - 1


@dataclass(frozen=True, eq=False)
class Chain:
    """A run on one core.

    ``nodes``: the steps at which the model was called. ``answers``: what it answered there. ``states``: those that it
    was given there, and the end.
    """

    nodes: list[int]
    states: list[Tensor]
    answers: list[Tensor]


@dataclass(frozen=True, eq=False)
class ChordsRun:
    """A CHORDS run to the end.

    ``calls``: the evaluations, by (core, index). ``corrected``: for each correction, by (core, index), the state
    without it and the state with it.
    """

    starts: tuple[int, ...]
    calls: dict[tuple[int, int], Evaluated]
    corrected: dict[tuple[int, int], tuple[Tensor, Tensor]]
    result: Result

    def path(self, core: int) -> list[Tensor]:
        """The core's states from its start to the end."""
        end = next(hit.x for hit in self.result.hits if hit.core == core)
        return [*(call.x for (number, _), call in sorted(self.calls.items()) if number == core), end]

    def moment(self, core: int, index: int) -> int:
        """How many rounds are done when the core arrives at this step."""
        return index - self.starts[core - 1] + core - 1


@dataclass(frozen=True, eq=False)
class Rounds:
    """A run of a window.

    ``lines``: after each round, the states at all N+1 steps. ``windows``: the steps that are called in each round.
    """

    lines: list[list[Tensor]]
    windows: list[tuple[int, ...]]
    result: Result


@cache
def networks() -> tuple[Any, Callable[[Tensor], Tensor]]:
    """The demo's flow network, and the decoder of its latents."""
    return load_flow(), decoder(load_autoencoder())


def demo_subject(prompt: str, seed: int, steps: int, cfg: float = CFG) -> Subject:
    """The demo model with this prompt."""
    start = torch.randn(1, *LATENT, generator=torch.Generator().manual_seed(seed))
    return Subject(torch.no_grad()(guided(networks()[0], [prompt], cfg)), start, simple_sigmas(steps))


CENTRES = ((-2.2, 1.3), (2.1, 1.7), (0.5, -2.2))
SPREAD = 0.22


def plane_denoise(x: Tensor, sigma: float) -> Tensor:
    """The exact mean of a point before noise, [B, 2], for points of the plane that lie around the `CENTRES`."""
    alpha, centres = 1 - sigma, x.new_tensor(CENTRES)
    variance = (alpha * SPREAD) ** 2 + sigma**2
    offsets = x[:, None] - alpha * centres
    odds = torch.softmax(-offsets.square().sum(-1) / (2 * variance), -1)
    return (odds[..., None] * (centres + alpha * SPREAD**2 / variance * offsets)).sum(1)


def plane_subject(start: Tensor, steps: int) -> Subject:
    """The flow of points in the plane, from ``start`` [B, 2]."""
    return Subject(plane_denoise, start.double(), torch.linspace(1, 0, steps + 1, dtype=torch.float64))


# --- the runs


def run_chain(subject: Subject, tolerance: float | None = None) -> Chain:
    """One core: every step, or adaptive steps within a tolerance."""
    asked: list[Evaluated] = []
    keep = _keep(Evaluated, asked)
    result = sample(subject.denoise, subject.start, subject.sigmas, tolerance=tolerance, on_event=keep)
    nodes, answers = [call.index for call in asked], [call.denoised for call in asked]
    return Chain(nodes, [*(call.x for call in asked), result.x], answers)


def start_indices(steps: int) -> tuple[int, ...]:
    """The start indices that the nodes choose for `CORES` cores of CHORDS."""
    chosen = plan(steps, CORES, CORES, method="chords")
    assert isinstance(chosen, ChordsPlan)
    return chosen.starts


def run_chords(subject: Subject, starts: Sequence[int]) -> ChordsRun:
    """CHORDS with these start indices, until its first core is at the end."""
    events: list[Event] = []
    result = sample(
        subject.denoise, subject.start, subject.sigmas, starts=starts, accept="exact", on_event=events.append
    )
    calls = {(event.core, event.index): event for event in events if isinstance(event, Evaluated)}
    ends = {hit.core: hit.x for hit in result.hits}
    corrected = {}
    for event in events:
        if isinstance(event, Rectified):
            before, index = calls[event.core, event.index - 1], event.index
            alone = euler(before.x, before.denoised, subject.sigmas[index - 1], subject.sigmas[index])
            got = calls[event.core, index].x if index < subject.steps else ends[event.core]
            corrected[event.core, index] = (alone, got)
    return ChordsRun(tuple(starts), calls, corrected, result)


class RecordedAttention(TorchFunctionMode):
    """Keeps the attention weights, [tokens, tokens], of each attention: the mean of its heads, of the first item."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[Tensor] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.nn.functional.scaled_dot_product_attention:
            queries, keys = args[0][0], args[1][0]
            scores = queries @ keys.transpose(-1, -2) / queries.shape[-1] ** 0.5
            self.weights.append(scores.softmax(-1).mean(0))
        return function(*args, **(kwargs or {}))


def attention_weights(subject: Subject, state: Tensor, index: int, block: int = -1) -> Tensor:
    """How strongly each token of the picture attends to each, [64, 64], in a block of the demo model.

    Its call at this step, from ``state``. Words come before the picture's tokens, and are left out.
    """
    with RecordedAttention() as recorded:
        subject.denoise(state, float(subject.sigmas[index]))
    tokens = LATENT[1] * LATENT[2] // PATCH**2
    return recorded.weights[block][-tokens:, -tokens:]


class _RecordedWindow(Window):
    """A window that keeps all its states after each round."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.lines: list[list[Tensor]] = []

    def _solve(self, first: int) -> None:
        super()._solve(first)
        self.lines.append([self._state_at(step).reshape(self._shape) for step in range(self._path.steps + 1)])


def run_window(subject: Subject, cores: int) -> Rounds:
    """The secant window within the tolerance."""
    planned = tolerance_window(subject.sigmas, cores, SOLVERS["euler"], TOLERANCE)
    window = _RecordedWindow(subject.start, planned)
    asked: list[Evaluated] = []
    evaluations = drive(window, InlinePool(subject.denoise), subject.steps, on_event=_keep(Evaluated, asked))
    assert window.accepted is not None
    windows = [
        tuple(sorted(call.index for call in asked if call.depth == depth)) for depth in range(1, len(window.lines) + 1)
    ]
    result = Result(window.accepted.x, tuple(window.hits), window.accepted.depth, evaluations)
    return Rounds(window.lines, windows, result)


def run_search(iterations: int, steps: int) -> tuple[list[Iterated], Optimized]:
    """SDO with the objective that the circle is on the right; the prompt does not say where it is."""
    flow, decode = networks()
    start = torch.randn(1, *LATENT, generator=torch.Generator().manual_seed(1))
    events: list[OptimizationEvent] = []
    found = optimize_latent(
        guided(flow, [OPEN_PROMPT], SEARCH_CFG),
        start,
        simple_sigmas(steps),
        Through(decode, on_the_right([OPEN_PROMPT])),
        iterations=iterations,
        refresh="adaptive",
        on_event=events.append,
    )
    return [event for event in events if isinstance(event, Iterated)], found


# --- what the runs give


def difference(x: Tensor, exact: Tensor) -> float:
    """The relative RMS difference, in percent."""
    return 100 * float((x - exact).norm() / exact.norm())


def ranges(nodes: Sequence[int]) -> list[tuple[int, int]]:
    """Increasing numbers as ranges without gaps, each from its first number to the one after its last."""
    breaks = [place for place in range(1, len(nodes)) if nodes[place] != nodes[place - 1] + 1]
    return [(nodes[a], nodes[b - 1] + 1) for a, b in pairwise([0, *breaks, len(nodes)])]


def in_words(counts: Sequence[int]) -> str:
    """From the lowest count to the highest."""
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


def _keep(kind: type, kept: list[Any]) -> Callable[[Event], None]:
    return lambda event: kept.append(event) if isinstance(event, kind) else None


def decoded(latent: Tensor, size: int = 256) -> Image.Image:
    """The picture of a latent [1, 16, 16, 16] by the demo's decoder, ``size`` pixels wide and high."""
    with torch.no_grad():
        pixels = networks()[1](latent.float())[0].clamp(0, 1)
    height, width, _ = pixels.shape
    values = (pixels * 255).round().to(torch.uint8).flatten().tolist()
    return Image.frombytes("RGB", (width, height), bytes(values)).resize((size, size), Image.Resampling.LANCZOS)


def paper_start(steps: int) -> Tensor:
    """The point of noise, [1, 2], whose path is the furthest from straight, of many points with a good first hit."""
    points = torch.randn(200, 2, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    points = points[points.norm(dim=-1) < 2.6]
    subject = plane_subject(points, steps)
    run = run_chords(subject, start_indices(steps))
    path = torch.stack(run.path(1))
    along = path[-1] - path[0]
    across = torch.stack([-along[:, 1], along[:, 0]], -1) / along.norm(dim=-1, keepdim=True)
    bend = ((path - path[0]) * across).sum(-1).abs().amax(0)
    error = (run.result.hits[1].x - run.result.x).norm(dim=-1)
    best = int((bend - 10 * error).argmax())
    return points[best : best + 1]
