"""Ways to take fewer model calls in a row, each measured on the same pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from benchmarks import _peer_caches as caches
from benchmarks._cells import Cell, Pictures
from benchmarks._demo import differences
from chords_core import SOLVERS, Chords, ChordsPlan, Window, plan, solver_window, tolerance_window

FIDELITIES = {"near": 0.01, "fast": 0.03}
"""What the node's `fidelity` means as a tolerance."""

CORES = (1, 4)
MORE_CORES = (2, 8)
CHORDS_CORES = PARADIGMS_CORES = 4
HITS = ("first", "second")

FEWER_STEPS = {20: (11, 13, 15, 17), 50: (18, 26)}
LAZYCACHE = {20: (0.03, 0.05, 0.1, 0.2), 50: (0.05, 0.1)}
LAZYCACHE_EPS = (0.01, 0.02, 0.03, 0.05)  # 20 steps of an eps model, where it skips more
EASYCACHE = {20: (0.02, 0.03, 0.05, 0.1), 50: (0.02, 0.05)}
TEACACHE = {20: (0.19, 0.2, 0.25), 50: (0.25, 0.45)}
"""Thresholds for N steps; they take from fewer calls than ours to more."""


@dataclass(frozen=True)
class Measured:
    """What the pictures of a cell have shown, one value a picture.

    Attributes:
        setting: of the way: a threshold, a number of steps, which hit.
        cores: how many devices have work at the same time.
        calls: model calls in a row.
        errors: relative RMS differences of the latent from that of every step on one core.
    """

    cell: str
    way: str
    setting: str
    cores: int
    calls: tuple[int, ...]
    errors: tuple[float, ...]

    @property
    def key(self) -> tuple[str, ...]:
        """What is measured, for results that are measured again."""
        return self.cell, self.way, self.setting, str(self.cores)

    @property
    def mean_calls(self) -> float:
        return sum(self.calls) / len(self.calls)

    @property
    def figures(self) -> tuple[float, float, float]:
        """Median, 90th percentile and worst of the errors."""
        errors = torch.tensor(self.errors)
        return float(errors.median()), float(errors.quantile(0.9)), float(errors.max())


class Bench:
    """Measures ways on the pictures of one cell."""

    def __init__(self, pictures: Pictures, texts: Sequence[str]) -> None:
        self.pictures, self.texts, self.cell = pictures, texts, pictures.cell
        self._sigmas, self._solver = self.cell.sigmas(self.cell.steps), SOLVERS[self.cell.solver]
        self._flow = self.cell.prediction == "flow"
        self.exact = pictures.one_core(self.cell.steps)
        self._ours_near: dict[int, Measured] = {}

    def run(self, way: str) -> list[Measured]:
        """All settings of a way; none where it does not apply to the cell."""
        ways: dict[str, Callable[[], list[Measured]]] = {
            "ours": self._ours,
            "ours on 2 and 8": self._ours_elsewhere,
            "fewer steps": self._fewer_steps,
            "LazyCache": self._lazycache,
            "EasyCache": self._easycache,
            "TeaCache": self._teacache,
            "CHORDS": self._chords,
            "ParaDiGMS": self._paradigms,
        }
        return ways[way]()

    def _measured(self, way: str, setting: str, cores: int, calls: Sequence[int], latents: Tensor) -> Measured:
        errors = differences(latents, self.exact).tolist()
        return Measured(str(self.cell), way, setting, cores, tuple(calls), tuple(errors))

    def _machines(self, way: str, setting: str, cores: int, make: Callable[[Tensor], Window | Chords]) -> Measured:
        """Each picture by itself, to the hit that the method takes."""
        hits = [run.accepted for run in self.pictures.each(make)]
        taken = [hit for hit in hits if hit is not None]
        return self._measured(way, setting, cores, [h.depth for h in taken], torch.cat([h.x for h in taken]))

    def _ours(self) -> list[Measured]:
        return [*map(self._near, CORES), *(self._within(cores, "fast") for cores in CORES)]

    def _ours_elsewhere(self) -> list[Measured]:
        return [*map(self._near, MORE_CORES)]

    def _near(self, cores: int) -> Measured:
        if cores not in self._ours_near:
            self._ours_near[cores] = self._within(cores, "near")
        return self._ours_near[cores]

    def _within(self, cores: int, fidelity: str) -> Measured:
        spec = tolerance_window(self._sigmas, cores, self._solver, FIDELITIES[fidelity], flow=self._flow)
        return self._machines("ours", fidelity, cores, partial(Window, spec=spec))

    def _fewer_steps(self) -> list[Measured]:
        found = []
        for steps in FEWER_STEPS[self.cell.steps]:
            calls = [steps] * len(self.texts)
            found.append(self._measured("fewer steps", f"{steps}", 1, calls, self.pictures.one_core(steps)))
        return found

    def _sampled(self, way: str, threshold: float, one: Callable[[int, float], caches.Sampled]) -> Measured:
        runs = [one(k, threshold) for k in range(len(self.texts))]
        calls, latents = [calls for calls, _ in runs], torch.cat([latent for _, latent in runs])
        return self._measured(way, f"{threshold:g}", 1, calls, latents)

    def _lazycache(self) -> list[Measured]:
        one = partial(caches.lazycache, self.pictures)
        thresholds = LAZYCACHE[self.cell.steps] if self._flow else LAZYCACHE_EPS
        return [self._sampled("LazyCache", threshold, one) for threshold in thresholds]

    def _easycache(self) -> list[Measured]:
        if self.cell.prediction != "flow":
            return []  # it acts on the network, and the eps model's network is that of the flow model
        one = partial(caches.easycache, self.pictures, caches.GuidedNetwork(self.texts, self.cell.cfg, self.cell.model))
        return [self._sampled("EasyCache", threshold, one) for threshold in EASYCACHE[self.cell.steps]]

    def _teacache(self) -> list[Measured]:
        if self.cell.prediction != "flow":
            return []
        one = partial(caches.teacache, self.pictures, caches.GuidedNetwork(self.texts, self.cell.cfg, self.cell.model))
        return [self._sampled("TeaCache", threshold, one) for threshold in TEACACHE[self.cell.steps]]

    def _chords(self) -> list[Measured]:
        """As published, with the planner's start indices: the first and the second hit of the same runs."""
        chosen = plan(self.cell.steps, CHORDS_CORES, CHORDS_CORES, method="chords", accept=2, solver=self.cell.solver)
        assert isinstance(chosen, ChordsPlan)
        make = partial(Chords, sigmas=self._sigmas, starts=chosen.starts, solver=self._solver, accept=len(HITS))
        runs = self.pictures.each(make)
        found = []
        for number, name in enumerate(HITS):
            hits = [[hit for hit in run.hits if hit.core > 0][number] for run in runs]
            latents = torch.cat([hit.x for hit in hits])
            found.append(self._measured("CHORDS", name, CHORDS_CORES, [hit.depth for hit in hits], latents))
        return found

    def _paradigms(self) -> list[Measured]:
        """Picard iteration in a window, with as many rounds as ours takes at `near`."""
        cores = PARADIGMS_CORES
        rounds = min(math.ceil(self._near(cores).mean_calls), self.cell.steps)
        spec = solver_window(self._sigmas, cores, self._solver, flow=self._flow, slopes=False, rounds=rounds)
        return [self._machines("ParaDiGMS", f"{rounds} rounds", cores, partial(Window, spec=spec))]


WAYS = ("ours", "ours on 2 and 8", "fewer steps", "LazyCache", "EasyCache", "TeaCache", "CHORDS", "ParaDiGMS")


def flow_cells(model: str) -> tuple[Cell, ...]:
    """The most usual first."""
    return tuple(Cell("flow", "simple", steps, cfg, "euler", model) for steps in (20, 50) for cfg in (3.5, 8.0, 1.0))


def eps_cells(model: str) -> tuple[Cell, ...]:
    """Each schedule with each strength of guidance and each sampler once."""
    return tuple(
        Cell("eps", schedule, 20, cfg, solver, model)
        for schedule, cfg, solver in (
            ("karras", 7.5, "dpmpp_2m"),
            ("normal", 4.0, "dpmpp_2m"),
            ("normal", 7.5, "euler"),
            ("karras", 4.0, "euler"),
        )
    )
