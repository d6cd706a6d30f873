"""CHORDS against independent references: the authors' outputs, the published pseudo-code, and parareal."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from chords_core import (
    Chords,
    Denoise,
    Evaluated,
    InlinePool,
    Residual,
    ThreadPool,
    lattice_starts,
    sample,
)
from chords_core.execution.driver import drive
from chords_core.solvers import SOLVERS
from chords_core.solvers.base import Past, State, StepState
from chords_core.solvers.res_multistep import res_multistep
from chords_core.solvers.unipc import UniPCState
from tests.core.problems import (
    CORRECTING_SOLVERS,
    STEP_SOLVERS,
    Gaussian,
    Mixture,
    geometric,
    karras,
    linear,
    noise,
    nonlinear,
)

CASES = json.loads((Path(__file__).parent / "reference" / "chords_reference_trajectories.json").read_text())
TO_THE_END = 1_000_000


def _rotated(x: Tensor) -> Tensor:
    a, b = x[0::2], x[1::2]
    return torch.stack([-b, a], 1).reshape(-1)


DRIFTS: dict[str, Callable[[Tensor, int, int], Tensor]] = {
    "affine": lambda x, i, n: 0.1 * x + 0.01 * i,
    "cubic": lambda x, i, n: (-0.5 * x**3 + math.sin(6 * i / n)) / n,
    "stiff": lambda x, i, n: -8 * (x - math.cos(3 * i / n)) / n,
    "rotate": lambda x, i, n: (4 * _rotated(x) - 0.3 * x.norm() * x) / n,
}


def _name(case: dict) -> str:
    stopping = case["stopping"]
    end = {"residual": "residual", "core_index": f"hit{stopping['index']}"}[stopping["criterion"]]
    return f"{case['drift']}-N{case['steps']}-K{len(case['init'])}-{end.replace(str(TO_THE_END), 's')}"


@pytest.mark.parametrize("lanes", [None, 1, 4], ids=["inline", "1-lane", "4-lanes"])
@pytest.mark.parametrize("case", CASES, ids=_name)
def test_same_as_the_authors(case: dict, lanes: int | None) -> None:
    """Depths are equal, all hits agree to 1e-10, and a run to the end makes as many evaluations."""
    steps, starts, stopping = case["steps"], case["init"], case["stopping"]
    drift = DRIFTS[case["drift"]]

    def denoise(x: Tensor, sigma: float) -> Tensor:
        return x + sigma * drift(x, round(steps + 1 - sigma), steps)

    x = torch.tensor(case["x0"], dtype=torch.float64)
    sigmas = torch.arange(steps + 1, 0, -1, dtype=torch.float64)
    accept: int | str | Residual = "exact"
    if stopping["criterion"] == "residual":
        accept = Residual(stopping["threshold"])
    elif stopping["index"] != TO_THE_END:
        accept = stopping["index"]
    with ThreadPool([denoise] * (lanes or 1)) as threads:
        pool = threads if lanes else InlinePool(denoise)
        result = sample(denoise, x, sigmas, cores=len(starts), starts=starts, accept=accept, pool=pool)

    assert [hit.depth for hit in result.hits] == case["hit_times"]
    assert result.depth == case["hit_times"][-1]
    for number, (hit, expected) in enumerate(zip(result.hits, case["hits"], strict=True)):
        torch.testing.assert_close(
            hit.x,
            torch.tensor(expected, dtype=torch.float64),
            rtol=1e-10,
            atol=1e-10,
            msg=lambda text, number=number: f"hit {number}: {text}",
        )
    assert torch.equal(result.x, result.hits[-1].x)
    if accept == "exact":
        assert result.evaluations == case["evaluations"]


@pytest.mark.parametrize("case", [case for case in CASES if case["stopping"]["index"] == TO_THE_END], ids=_name)
def test_rounds_are_the_authors(case: dict) -> None:
    """Each round evaluates the same indices as the authors' code does, slowest core first."""
    rounds: dict[int, list[tuple[int, int]]] = {}

    def note(event: object) -> None:
        if isinstance(event, Evaluated):
            rounds.setdefault(event.depth, []).append((event.core, event.index))

    x = torch.zeros(2, dtype=torch.float64)
    sigmas = torch.arange(case["steps"] + 1, 0, -1, dtype=torch.float64)
    sample(linear, x, sigmas, starts=case["init"], accept="exact", on_event=note)
    assert [[index for _, index in sorted(rounds[depth])] for depth in sorted(rounds)] == case["rounds"]


def _pseudo_code(denoise: Denoise, x0: Tensor, sigmas: Tensor, starts: list[int], solver: str) -> list[Tensor]:
    """All hits, draft first, by the published pseudo-code: synchronous rounds, every core at once.

    Written from the paper's text alone, with no regard to cost: the states, evaluations and histories of
    all cores lie in dictionaries by index. For multistep solvers ours is the choice that jumps have no history.
    """
    steps, cores = len(sigmas) - 1, len(starts)
    s = [float(v) for v in sigmas]

    def step(a: int, b: int, x: Tensor, d: Tensor, past: tuple[int, Tensor] | None) -> Tensor:
        if solver == "res_multistep":
            earlier = None if past is None else Past(sigmas[past[0]], past[1])
            return res_multistep(x, d, sigmas[a], sigmas[b], earlier)
        ratio = s[b] / s[a]
        if solver == "dpmpp_2m" and past is not None and s[b] > 0:
            c = 0.5 * math.log(s[a] / s[b]) / math.log(s[past[0]] / s[a])
            d = d + c * (d - past[1])
        return ratio * x + (1 - ratio) * d

    at: dict[int, int] = {1: 0}  # core -> its index
    now: dict[int, Tensor] = {1: x0}
    begin: dict[int, int] = {1: 0}
    X: dict[int, dict[int, Tensor]] = {k: {} for k in range(1, cores + 1)}
    D: dict[int, dict[int, Tensor]] = {k: {} for k in range(1, cores + 1)}
    history: dict[int, tuple[int, Tensor] | None] = {1: None}
    hits: list[Tensor] = []
    while at:
        for k in at:
            X[k][at[k]], D[k][at[k]] = now[k], denoise(now[k], s[at[k]])
        newest = max(history)
        start = starts[newest - 1]
        if at.get(newest) == start:
            onward = starts[newest] if newest < cores else steps
            jumped = step(start, onward, X[newest][start], D[newest][start], None)  # to first order
            if newest == cores:
                hits.append(jumped)
        else:
            newest = cores
        arrived: dict[int, Tensor] = {}
        for k in sorted(at):
            m, n = at[k], begin[k]
            y = step(m, m + 1, X[k][m], D[k][m], history[k])
            gap = starts[k - 1] - starts[k - 2] if k > 1 else 0
            if k > 1 and m + 1 - n == gap:
                ratio = s[m + 1] / s[n]
                better = D[k - 1][n] - D[k][n]
                y = y + ratio * (X[k - 1][n] - X[k][n]) + (1 - ratio) * better
                arrived[k] = D[k][m] + better
                begin[k] = m + 1
            else:
                arrived[k] = D[k][m]
            history[k] = (m, arrived[k])
            now[k], at[k] = y, m + 1
        if newest < cores:
            history[newest + 1] = (start, D[newest][start])
            at[newest + 1] = begin[newest + 1] = onward
            now[newest + 1] = jumped
        for k in sorted(at, reverse=True):
            if at[k] == steps:
                hits.append(now[k])
                del at[k]
    return hits


@pytest.mark.parametrize("solver", STEP_SOLVERS)
@pytest.mark.parametrize(
    ("steps", "starts"),
    [(20, [0, 5, 8, 11]), (16, [0, 4, 8, 12]), (17, [0, 1, 4, 9]), (9, [0, 1, 2, 3]), (12, [0, 7]), (13, [0])],
)
def test_same_as_the_pseudo_code(steps: int, starts: list[int], solver: str) -> None:
    """Every hit agrees with the pseudo-code run in synchronous rounds, multistep histories included."""
    x = noise(6, scale=10.0)
    for sigmas in (karras(steps), geometric(steps, last_zero=True)):
        expected = _pseudo_code(nonlinear, x, sigmas, starts, solver)
        result = sample(nonlinear, x, sigmas, starts=starts, solver=solver, accept="exact")
        for hit, other in zip(result.hits, expected, strict=True):
            torch.testing.assert_close(hit.x, other, rtol=1e-10, atol=1e-10)


def _parareal(denoise: Denoise, x: Tensor, sigmas: Tensor, blocks: int) -> list[Tensor]:
    """The end state after each parareal iteration: coarse = one Euler jump a block, fine = every step."""
    gap = (len(sigmas) - 1) // blocks

    def jump(y: Tensor, a: int, b: int) -> Tensor:
        return y + (y - denoise(y, float(sigmas[a]))) / sigmas[a] * (sigmas[b] - sigmas[a])

    def fine(y: Tensor, a: int) -> Tensor:
        for i in range(a, a + gap):
            y = jump(y, i, i + 1)
        return y

    u = [x]
    for block in range(blocks):
        u.append(jump(u[-1], block * gap, (block + 1) * gap))
    ends = []
    for _ in range(blocks):
        new = [x]
        for block in range(blocks):
            a, b = block * gap, (block + 1) * gap
            new.append(jump(new[-1], a, b) + fine(u[block], a) - jump(u[block], a, b))
        u = new
        ends.append(u[-1])
    return ends


@pytest.mark.parametrize(("cores", "gap", "q"), [(4, 3, 2), (3, 4, 1), (3, 2, 3), (5, 2, 2), (2, 5, 3), (4, 1, 2)])
@pytest.mark.parametrize("denoise", [Gaussian(), nonlinear], ids=["gaussian", "nonlinear"])
def test_even_gaps_are_parareal(denoise: Denoise, cores: int, gap: int, q: int) -> None:
    """With all gaps d and q*d steps left to the fastest core, hit n is parareal iterate q + n - 1."""
    blocks = cores - 1 + q
    sigmas = karras(blocks * gap)
    x = noise(5, scale=10.0)
    expected = _parareal(denoise, x, sigmas, blocks)
    result = sample(denoise, x, sigmas, starts=[gap * core for core in range(cores)], accept="exact")
    assert result.hits[1].depth == cores - 1 + q * gap
    for hit, iterate in zip(result.hits[1:], expected[q - 1 :], strict=True):
        torch.testing.assert_close(hit.x, iterate, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("solver", SOLVERS)
def test_draft_is_a_run_over_the_starts(solver: str) -> None:
    """Nothing is rectified before the draft, and jumps have no history: it is Euler over the starts and the end."""
    sigmas, starts, x = karras(20), [0, 5, 8, 11], noise(6, scale=10.0)
    result = sample(nonlinear, x, sigmas, starts=starts, solver=solver)
    on_starts = sample(nonlinear, x, sigmas[[*starts, 20]], solver="euler")
    torch.testing.assert_close(result.hits[0].x, on_starts.x, rtol=1e-12, atol=1e-12)


class _HistoryLeftBehind(Chords):
    """CHORDS that corrects a core's state, but not the history of its multistep solver."""

    def _rectify(self, number: int, state: State) -> State:
        moved = super()._rectify(number, state)
        if isinstance(state, StepState):
            return replace(moved, past=state.past)
        assert isinstance(state, UniPCState)
        return replace(moved, past=state.past, origin=state.origin)


def _median_distance(a: Tensor, b: Tensor) -> float:
    """Over the rows. A mixture has a few seeds between two basins, which say nothing about the method."""
    return float((a - b).norm(dim=-1).median())


@pytest.mark.parametrize("solver", STEP_SOLVERS)
@pytest.mark.parametrize("denoise", [Gaussian(), Mixture(16)], ids=["gaussian", "mixture"])
@pytest.mark.parametrize("cores", [4, 8])
def test_rectification_pays(denoise: Denoise, cores: int, solver: str) -> None:
    """The first hit is much closer to the N-step result than the fastest core alone, on its own grid."""
    sigmas, x, starts = karras(50, 40.0), noise(64, 16, scale=40.0), lattice_starts(50, cores)
    exact = sample(denoise, x, sigmas, solver=solver).x
    first = sample(denoise, x, sigmas, starts=starts, solver=solver).x
    alone = sample(denoise, x, sigmas[[*starts, *range(starts[-1] + 1, 51)]], solver=solver).x
    assert _median_distance(first, exact) < 0.5 * _median_distance(alone, exact)


@pytest.mark.parametrize("solver", CORRECTING_SOLVERS)
@pytest.mark.parametrize("cores", [4, 8])
def test_rectification_pays_for_predictor_correctors(cores: int, solver: str) -> None:
    """It pays where the trajectory bends. Where it is so smooth that the high order suffices, it does no harm."""
    sigmas, x, starts = karras(50, 40.0), noise(64, 16, scale=40.0), lattice_starts(50, cores)
    for denoise, harmless in ((Mixture(16), 0.0), (Gaussian(), 1e-3)):
        exact = sample(denoise, x, sigmas, solver=solver).x
        first = sample(denoise, x, sigmas, starts=starts, solver=solver).x
        alone = sample(denoise, x, sigmas[[*starts, *range(starts[-1] + 1, 51)]], solver=solver).x
        small = harmless * float(exact.norm(dim=-1).median())
        assert _median_distance(first, exact) < max(small, 0.5 * _median_distance(alone, exact))


@pytest.mark.parametrize("solver", ["dpmpp_2m", "res_multistep", *CORRECTING_SOLVERS])
@pytest.mark.parametrize("denoise", [Gaussian(), Mixture(16)], ids=["gaussian", "mixture"])
def test_rectified_history_pays(denoise: Denoise, solver: str) -> None:
    """A multistep solver's first hit is closer to the N-step result if the history is corrected too."""
    sigmas, x, starts = karras(50, 40.0), noise(64, 16, scale=40.0), lattice_starts(50, 8)
    exact = sample(denoise, x, sigmas, solver=solver).x
    first = sample(denoise, x, sigmas, starts=starts, solver=solver).x
    without = _HistoryLeftBehind(x, sigmas, starts, SOLVERS[solver], 1)
    drive(without, InlinePool(denoise))
    assert without.accepted is not None
    assert _median_distance(first, exact) < 0.5 * _median_distance(without.accepted.x, exact)


@pytest.mark.parametrize("solver", SOLVERS)
def test_hits_approach_the_exact_result(solver: str) -> None:
    """Each hit is closer to the N-step result than the one before, and the last is that result."""
    sigmas, x = karras(50), noise(16, scale=10.0)
    result = sample(Gaussian(), x, sigmas, cores=5, solver=solver, accept="exact")
    distances = [float((hit.x - result.x).norm()) for hit in result.hits]
    assert all(after < before for before, after in zip(distances, distances[1:-1], strict=False))
    assert distances[-1] == 0
    assert torch.equal(result.x, sample(Gaussian(), x, sigmas, solver=solver).x)
