"""Properties for any steps, starts, solver, hit and model, tested on random ones."""

from __future__ import annotations

import random
from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chords_core import Evaluated, Evaluation, Rectified, sample
from chords_core.solvers import SOLVERS
from tests.core.problems import (
    Gaussian,
    by_hand,
    corrections,
    dependencies,
    geometric,
    karras,
    linear,
    needed,
    noise,
    nonlinear,
)

QUICK = settings(
    max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)  # no deadline, because machines are busy; derandomize, so that each run tests the same cases

SCHEDULES = [geometric, karras, lambda steps: geometric(steps, last_zero=True)]
MODELS = [linear, nonlinear, Gaussian()]


@st.composite
def problems(draw: st.DrawFn, most: int = 12) -> dict[str, Any]:
    """Steps from 1, starts with any gaps (adjacent ones included), a hit, and something to integrate."""
    steps = draw(st.integers(1, most))
    starts = [0, *sorted(draw(st.sets(st.integers(1, steps - 1), max_size=steps - 1)) if steps > 1 else [])]
    return {
        "steps": steps,
        "starts": starts,
        "accept": draw(st.integers(1, len(starts))),
        "solver": draw(st.sampled_from(sorted(SOLVERS))),
        "denoise": draw(st.sampled_from(MODELS)),
        "sigmas": draw(st.sampled_from(SCHEDULES))(steps),
        "x": noise(3, seed=draw(st.integers(0, 999)), scale=10.0),
        "order": random.Random(draw(st.integers(0, 999))),
    }


def adjacent(steps: int, accept: int = 1) -> dict[str, Any]:
    """Every index is a start."""
    return {
        "steps": steps,
        "starts": list(range(steps)),
        "accept": accept,
        "solver": "dpmpp_2m",
        "denoise": nonlinear,
        "sigmas": karras(steps),
        "x": noise(3, scale=10.0),
        "order": random.Random(steps),
    }


@QUICK
@given(problems(most=20))
def test_hits(problem: dict[str, Any]) -> None:
    """Depths follow the formula, hits come in the order of their depths, and core 1 is the sequential run."""
    denoise, x, sigmas, starts = (problem[name] for name in ("denoise", "x", "sigmas", "starts"))
    steps, cores = problem["steps"], len(starts)
    result = sample(denoise, x, sigmas, starts=starts, solver=problem["solver"], accept="exact")
    assert [hit.core for hit in result.hits] == [0, *range(cores, 0, -1)]
    assert [hit.depth for hit in result.hits] == [cores] + [
        steps - starts[core - 1] + core - 1 for core in range(cores, 0, -1)
    ]
    assert all(a.depth <= b.depth for a, b in zip(result.hits[1:], result.hits[2:], strict=False))
    assert result.evaluations == sum(steps - start for start in starts)

    sequential = sample(denoise, x, sigmas, method="sequential", solver=problem["solver"])
    assert torch.equal(result.x, sequential.x) and result.depth == steps
    assert sequential.evaluations == sequential.depth == steps


@QUICK
@given(problems())
def test_earlier_hits_are_the_same_and_cost_less(problem: dict[str, Any]) -> None:
    """Accepting hit n gives hit n of the full run, and never takes more evaluations than hit n + 1."""
    denoise, x, sigmas, starts = (problem[name] for name in ("denoise", "x", "sigmas", "starts"))
    full = sample(denoise, x, sigmas, starts=starts, solver=problem["solver"], accept="exact")
    before = 0
    for accept in range(1, len(starts) + 1):
        result = sample(denoise, x, sigmas, starts=starts, solver=problem["solver"], accept=accept)
        assert len(result.hits) == accept + 1
        assert all(torch.equal(a.x, b.x) for a, b in zip(result.hits, full.hits, strict=False))
        assert torch.equal(result.x, full.hits[accept].x) and result.depth == full.hits[accept].depth
        assert before <= result.evaluations == len(needed(problem["steps"], starts, accept))
        before = result.evaluations


@QUICK
@given(problems())
def test_order_of_completion_changes_nothing(problem: dict[str, Any]) -> None:
    """Ready evaluations completed in a random order give bit-identical hits and the same corrections."""
    arguments = [problem[name] for name in ("denoise", "x", "sigmas", "starts", "solver", "accept")]
    in_order, events, _ = by_hand(*arguments)
    shuffled, other_events, _ = by_hand(
        *arguments, choose=lambda evaluations: problem["order"].randrange(len(evaluations))
    )
    assert in_order.accepted is not None and shuffled.accepted is not None
    assert [(hit.core, hit.depth) for hit in shuffled.hits] == [(hit.core, hit.depth) for hit in in_order.hits]
    assert all(torch.equal(a.x, b.x) for a, b in zip(shuffled.hits, in_order.hits, strict=True))

    def rectified(seen: list) -> list[tuple[int, int]]:
        return sorted((event.core, event.index) for event in seen if isinstance(event, Rectified))

    assert rectified(events) == rectified(other_events)
    counts = [sum(core == k for core, _ in rectified(events)) for k in range(1, len(problem["starts"]) + 1)]
    assert counts == corrections(problem["steps"], problem["starts"], problem["accept"])


@QUICK
@given(problems())
def test_an_evaluation_waits_for_nothing_else(problem: dict[str, Any]) -> None:
    """At any moment the open evaluations are those that are needed and whose dependencies are done."""
    starts = problem["starts"]
    wanted = needed(problem["steps"], starts, problem["accept"])

    def check(open_tasks: list[Evaluation], done: set[tuple[int, int]]) -> None:
        can_start = {evaluation for evaluation in wanted - done if dependencies(starts, *evaluation) <= done}
        assert {(evaluation.core, evaluation.index) for evaluation in open_tasks} == can_start

    arguments = [problem[name] for name in ("denoise", "x", "sigmas", "starts", "solver", "accept")]
    machine, _, done = by_hand(
        *arguments, choose=lambda evaluations: problem["order"].randrange(len(evaluations)), after=check
    )
    assert machine.accepted is not None and done == wanted


@QUICK
@given(problems(most=7))
def test_every_evaluation_is_needed(problem: dict[str, Any]) -> None:
    """If any one of the evaluations is left out, the accepted hit never comes."""
    arguments = [problem[name] for name in ("denoise", "x", "sigmas", "starts", "solver", "accept")]
    made = by_hand(*arguments)[2]
    for core, index in made:

        def others(evaluations: list[Evaluation], left_out: tuple[int, int] = (core, index)) -> int:
            return next(
                (i for i, evaluation in enumerate(evaluations) if (evaluation.core, evaluation.index) != left_out), -1
            )

        machine, _, _ = by_hand(*arguments, choose=others)
        assert machine.accepted is None


def test_smallest_and_densest_runs_end() -> None:
    """One step, two steps, and every index a start: no deadlock for any hit, in any order."""
    for steps in (1, 2, 3, 8):
        for accept in range(1, steps + 1):
            problem = adjacent(steps, accept)
            arguments = [problem[name] for name in ("denoise", "x", "sigmas", "starts", "solver", "accept")]
            expected = by_hand(*arguments)[0]
            assert expected.accepted is not None and expected.accepted.depth == steps
            for seed in range(5):
                order = random.Random(seed)
                machine = by_hand(
                    *arguments, choose=lambda evaluations, order=order: order.randrange(len(evaluations))
                )[0]
                assert machine.accepted is not None
                assert torch.equal(machine.accepted.x, expected.accepted.x)


@QUICK
@given(problems())
def test_depth_is_the_rounds_it_takes(problem: dict[str, Any]) -> None:
    """Every evaluation is in a round up to the depth, its dependencies are in earlier rounds, and a round has at
    most K."""
    rounds: dict[tuple[int, int], int] = {}

    def note(event: object) -> None:
        if isinstance(event, Evaluated):
            rounds[event.core, event.index] = event.depth

    denoise, x, sigmas, starts = (problem[name] for name in ("denoise", "x", "sigmas", "starts"))
    result = sample(
        denoise, x, sigmas, starts=starts, solver=problem["solver"], accept=problem["accept"], on_event=note
    )
    assert set(rounds.values()) == set(range(1, result.depth + 1))
    for (core, index), depth in rounds.items():
        assert all(rounds[earlier] < depth for earlier in dependencies(starts, core, index))
        assert sum(other == depth for other in rounds.values()) <= len(starts)
