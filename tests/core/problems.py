"""Small sampling problems, and models that wait, count or fail, for the tests of the core."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from chords_core import Chords, Denoise, Evaluation, Event, Residual, Result
from chords_core.solvers import SOLVERS

STEP_SOLVERS = tuple(name for name, solver in SOLVERS.items() if solver.step is not None)
CORRECTING_SOLVERS = tuple(name for name, solver in SOLVERS.items() if solver.step is None)


def case_name(value: object) -> str:
    """The name of a case of a parametrised test: without addresses, so it is the same in each process."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


def geometric(steps: int, high: float = 10.0, low: float = 0.1, last_zero: bool = False) -> Tensor:
    """``steps`` steps, evenly spaced in log sigma; with ``last_zero`` the last of them goes to 0."""
    if last_zero:
        return torch.cat(
            [
                geometric(steps - 1, high, low) if steps > 1 else torch.tensor([high]).double(),
                torch.zeros(1, dtype=torch.float64),
            ]
        )
    return torch.logspace(torch.log10(torch.tensor(high)), torch.log10(torch.tensor(low)), steps + 1).double()


def karras(steps: int, high: float = 10.0, low: float = 0.1, rho: float = 7.0) -> Tensor:
    """Karras' schedule: steps of different length in log sigma."""
    ramp = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    return (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho


def noise(*shape: int, seed: int = 0, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Normal noise from a seed."""
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Gaussian:
    """Data N(mean, std^2): the ideal model and the exact solution of its sampling ODE are known."""

    def __init__(self, mean: float = 1.5, std: float = 0.7) -> None:
        self.mean, self.std = mean, std

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        variance, square = self.std**2, sigma**2
        return (variance * x + square * self.mean) / (variance + square)

    def solution(self, x: Tensor, sigma: float, sigma_end: float) -> Tensor:
        """The state at ``sigma_end`` of the trajectory through ``x`` at ``sigma``."""
        ratio = ((self.std**2 + sigma_end**2) / (self.std**2 + sigma**2)) ** 0.5
        return self.mean + (x - self.mean) * ratio


class Mixture:
    """Data from a mixture of normal distributions of width ``std`` about fixed centres, along the last dimension of
    x. The
    ideal model is nonlinear between the centres."""

    def __init__(self, size: int, centres: int = 4, std: float = 0.4) -> None:
        self.centres, self.std = 1.5 * noise(centres, size, seed=7), std

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        variance = self.std**2 + sigma**2
        to_centres = x.unsqueeze(-2) - self.centres
        weights = torch.softmax(-to_centres.square().sum(-1) / (2 * variance), -1)
        mean = weights @ self.centres
        return (self.std**2 * x + sigma**2 * mean) / variance


def nonlinear(x: Tensor, sigma: float) -> Tensor:
    """A smooth model that mixes all elements and depends on sigma. Another order of operations rounds differently."""
    flat = x.reshape(-1)
    mixed = torch.sin(flat.cumsum(0) / (1 + sigma)) + 0.3 * flat.roll(1) / (1 + sigma)
    return (mixed + 0.1 * sigma / (1 + sigma)).reshape(x.shape)


def linear(x: Tensor, sigma: float) -> Tensor:
    """A model linear in the state that mixes neighbours."""
    return (0.6 * x + 0.3 * x.roll(1, -1)) / (1 + sigma)


class Counted:
    """A model that knows how often it was called and how many calls are under way."""

    def __init__(self, denoise: Denoise = nonlinear) -> None:
        self._denoise = denoise
        self._lock = threading.Lock()
        self.calls = 0
        self.active = 0

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        with self._lock:
            self.calls += 1
            self.active += 1
            number = self.calls
        try:
            return self.call(number, x, sigma)
        finally:
            with self._lock:
                self.active -= 1

    def call(self, number: int, x: Tensor, sigma: float) -> Tensor:
        """What the ``number``-th call (from 1, over all lanes) does."""
        return self._denoise(x, sigma)


class Slow:
    """A model that takes a random time of at most ``most`` seconds for each call."""

    def __init__(self, seed: int, most: float = 0.002, denoise: Denoise = nonlinear) -> None:
        self._random, self._most, self._denoise = random.Random(seed), most, denoise

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        time.sleep(self._random.random() * self._most)
        return self._denoise(x, sigma)


def assert_same(result: Result, expected: Result) -> None:
    """Two runs gave the same bits."""
    assert result.depth == expected.depth
    assert result.evaluations == expected.evaluations
    assert [(hit.core, hit.depth) for hit in result.hits] == [(hit.core, hit.depth) for hit in expected.hits]
    for hit, other in zip(result.hits, expected.hits, strict=True):
        assert torch.equal(hit.x, other.x), f"the hit of core {hit.core} differs"
    assert torch.equal(result.x, expected.x)


def by_hand(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    starts: Sequence[int],
    solver: str,
    accept: int | Residual,
    choose: Callable[[list[Evaluation]], int] = lambda open_tasks: 0,
    after: Callable[[list[Evaluation], set[tuple[int, int]]], None] = lambda open_tasks, done: None,
) -> tuple[Chords, list[Event], set[tuple[int, int]]]:
    """Run the state machine without driver or pool, completing ready evaluations in the order ``choose`` says.

    ``choose`` gets the open evaluations and returns the place of the one to complete, or -1 to stop. ``after`` sees
    the open evaluations and the (core, index) completed so far each time the machine has been asked for evaluations.
    Returns the machine, its events and what was completed; it ends when nothing is open or a hit is accepted.
    """
    machine = Chords(x, sigmas, starts, SOLVERS[solver], accept)
    open_tasks: list[Evaluation] = []
    done: set[tuple[int, int]] = set()
    events: list[Event] = []
    while machine.accepted is None:
        open_tasks += machine.ready()
        after(open_tasks, done)
        place = choose(open_tasks) if open_tasks else -1
        if place < 0:
            break
        evaluation = open_tasks.pop(place)
        assert (evaluation.core, evaluation.index) not in done, "the same evaluation was asked for twice"
        done.add((evaluation.core, evaluation.index))
        events += machine.complete(evaluation, denoise(evaluation.x, evaluation.sigma))
    return machine, events, done


def dependencies(starts: Sequence[int], core: int, index: int) -> set[tuple[int, int]]:
    """The evaluations (core, index) that ``core`` needs to arrive at ``index``, by the paper's rule."""
    start = starts[core - 1]
    if core == 1:
        return {(1, index - 1)} if index > 0 else set()
    before = starts[core - 2]
    if index == start:
        return {(core - 1, before)}
    gap = start - before
    return {(core, index - 1)} | ({(core - 1, index - gap)} if (index - start) % gap == 0 else set())


def needed(steps: int, starts: Sequence[int], accept: int) -> set[tuple[int, int]]:
    """Every evaluation (core, index) that the first ``accept`` hits depend on."""
    cores = len(starts)
    todo = [
        evaluation for core in range(cores - accept + 1, cores + 1) for evaluation in dependencies(starts, core, steps)
    ]
    found: set[tuple[int, int]] = set()
    while todo:
        evaluation = todo.pop()
        if evaluation not in found:
            found.add(evaluation)
            todo += dependencies(starts, *evaluation)
    return found


def corrections(steps: int, starts: Sequence[int], accept: int) -> list[int]:
    """How often each core is rectified until the first ``accept`` hits have come, the slowest core first."""
    arrivals = {(core, index) for core, index in needed(steps, starts, accept)}
    arrivals |= {(core, steps) for core in range(len(starts) - accept + 1, len(starts) + 1)}
    counts = [0] * len(starts)
    for core, index in arrivals:
        if core > 1 and index > starts[core - 1]:
            gap = starts[core - 1] - starts[core - 2]
            counts[core - 1] += (index - starts[core - 1]) % gap == 0
    return counts
