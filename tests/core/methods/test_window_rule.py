"""Which nodes a window evaluates next: the rule by itself, and in a run."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chords_core import Window, sample, solver_window
from chords_core.methods.window_rule import (
    BUDGET,
    MAX_MOVE,
    ROUGH,
    GapControl,
    Measured,
    MovingRule,
    Progress,
    paced_starts,
)
from chords_core.solvers import SOLVERS
from chords_core.solvers.linear_form import amplification, in_flow_coordinates, solver_updates
from tests.core.problems import Mixture, karras, noise

QUICK = settings(max_examples=60, deadline=None, derandomize=True)


def flow_sigmas(steps: int, shift: float = 3.0) -> Tensor:
    t = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    return shift * t / (1 + (shift - 1) * t)


def rule(steps: int, **more: object) -> MovingRule:
    given = {"nodes": tuple(range(steps)), "amplification": (1.0,) * steps, "budget": BUDGET, **more}
    return MovingRule(steps, **given)  # type: ignore[arg-type]


def measured(moves: dict[int, float], surprises: dict[int, float] | None = None) -> Measured:
    known, seen = tuple(sorted(moves)), {node: (value,) for node, value in (surprises or {}).items()}
    return Measured(known, tuple((moves[node],) for node in known), tuple(moves[n] > 0 for n in known), seen)


def following(
    of: MovingRule, seen: Measured, cores: int = 4, progress: Progress | None = None
) -> tuple[int, ...] | None:
    return of.following(progress or Progress(), seen, cores, 1, 99)[1]


# --- the rule


def test_it_begins_at_the_first_node_that_moved_too_far() -> None:
    still = dict.fromkeys(range(8), 0.0)
    assert following(rule(20), measured(still)) == (8, 9, 10, 11)
    assert following(rule(20), measured(still | {6: 1.1 * MAX_MOVE})) == (6, 7, 8, 9)
    assert following(rule(20), measured(still | {6: 0.01 * MAX_MOVE})) == (8, 9, 10, 11)
    assert following(rule(20), measured(still | {2: 1.0, 6: 1.0})) == (2, 3, 4, 5)


def test_small_moves_add_up() -> None:
    """Each move is within the budget of the path up to it; their sum is not."""
    moves = dict.fromkeys(range(16), 0.0)
    alone = [following(rule(20), measured(moves | {node: 0.002})) for node in (6, 7, 8, 9)]
    assert alone == [(16, 17, 18, 19)] * 4
    together = following(rule(20), measured(moves | dict.fromkeys((6, 7, 8, 9), 0.004)))
    assert together is not None and together[0] in (7, 8, 9)


def test_an_early_move_counts_more_than_a_late_one() -> None:
    moves = dict.fromkeys(range(20), 0.0)
    assert following(rule(20), measured(moves | {2: 0.01})) == (2, 3, 4, 5)
    assert following(rule(20), measured(moves | {18: 0.01})) is None


def test_it_is_enough_once_the_end_is_known_and_nothing_moved_far() -> None:
    moves = dict.fromkeys(range(20), 0.0)
    assert following(rule(20), measured(moves)) is None
    to_rounding = following(rule(20, to_rounding=True), measured(moves | {17: 1e-5}))
    assert to_rounding is not None and 17 in to_rounding
    exact = following(rule(20, budget=0.0), measured(moves | {17: 1e-5}))
    assert exact is not None and 17 in exact


def test_what_a_solver_amplifies_counts_more() -> None:
    moves = measured(dict.fromkeys(range(8), 0.0) | {6: 0.005})
    assert following(rule(20), moves) == (8, 9, 10, 11)
    assert following(rule(20, amplification=(8.0,) * 20), moves) == (6, 7, 8, 9)


def test_spare_cores_take_the_nearest_to_the_left() -> None:
    assert following(rule(20), measured(dict.fromkeys(range(19), 0.0))) == (16, 17, 18, 19)


def test_the_most_demanding_item_of_a_batch_decides() -> None:
    known = tuple(range(8))
    moves = tuple((0.0, 1.0 if node == 5 else 0.0, 0.0) for node in known)
    assert following(rule(20), Measured(known, moves, (False,) * 8, {})) == (5, 6, 7, 8)


def test_new_nodes_lie_further_apart_where_nothing_is_surprising() -> None:
    still = measured(dict.fromkeys(range(12), 0.0), dict.fromkeys(range(8, 12), 1e-4))
    progress, nodes = rule(200, gaps=GapControl(5)).following(Progress(), still, 4, 3, 99)
    assert progress.gap == 2.0 and nodes == (13, 15, 17, 19)
    rough = measured(dict.fromkeys(range(12), 0.0), dict.fromkeys(range(8, 12), 0.95 * ROUGH))
    assert rule(200, gaps=GapControl(5)).following(progress, rough, 4, 3, 99)[0].gap < progress.gap
    assert rule(200, gaps=GapControl(1)).following(Progress(), still, 4, 3, 99)[1] == (12, 13, 14, 15)


def test_steps_left_out_before_a_jump_are_evaluated_after_all() -> None:
    known = dict.fromkeys([*range(10), 13, 16], 0.0)
    seen = measured(known, {13: 0.0, 16: 2 * ROUGH})
    progress, nodes = rule(200, gaps=GapControl(5)).following(Progress(3.0), seen, 4, 4, 99)
    assert progress.skipped == {14, 15}
    assert nodes is not None and nodes[:3] == (14, 15, 16)


@QUICK
@given(st.integers(1, 40), st.integers(1, 10), st.integers(1, 60))
def test_a_number_of_rounds_reaches_the_end_if_it_can(nodes: int, cores: int, rounds: int) -> None:
    cores = min(cores, nodes)
    starts = paced_starts(nodes, cores, rounds)
    assert len(starts) == rounds and starts[0] == 0
    assert all(a <= b for a, b in itertools.pairwise(starts))
    if rounds >= nodes:
        assert starts[-1] == nodes - cores
    covered = {start + core for start in starts for core in range(cores)}
    if rounds >= 3 + (nodes - cores) // cores:
        assert covered == set(range(nodes))


# --- in a run


@pytest.mark.parametrize("solver", SOLVERS)
def test_an_eps_model_is_a_flow_model_in_other_coordinates(solver: str) -> None:
    """The nodes are the same, and the result too apart from rounding, even if the schedule begins below sigma 1."""
    ideal = Mixture(6)

    def flow(x: Tensor, t: float) -> Tensor:
        return ideal(x / (1 - t), t / (1 - t))

    for high in (12.0, 0.8):
        sigmas = torch.logspace(torch.tensor(high).log10(), -1.0, 21, dtype=torch.float64)
        x = noise(3, 6, scale=high)
        eps = sample(ideal, x, sigmas, method="secant", cores=4, solver=solver, prediction="eps")
        times = sigmas / (1 + sigmas)
        plan = solver_window(times, 4, SOLVERS["euler"], flow=True)
        if solver == "euler":  # its updates are the same in both; others depend on their own sigmas
            other = sample(flow, x / (1 + high), times, method="secant", cores=4, prediction="flow")
            assert other.depth == eps.depth
            torch.testing.assert_close(other.x * (1 + sigmas[-1]), eps.x, rtol=1e-5, atol=1e-5)
        updates = in_flow_coordinates(solver_updates(SOLVERS[solver], sigmas), sigmas.tolist())
        for update, (here, there) in zip(updates, itertools.pairwise(times.tolist()), strict=True):
            assert update.ratio == pytest.approx(there / here, rel=1e-3)  # uni_pc rounds in its own way
            assert update.ratio + sum(weight for _, weight in update.weights) == pytest.approx(1.0, rel=1e-3)
        assert plan.times[0] == pytest.approx(high / (1 + high))


def test_the_prediction_matters_where_a_schedule_begins_below_one() -> None:
    """An eps model's img2img begins at such a sigma, and is still an eps model's."""
    ideal, sigmas, x = Mixture(6), karras(12, 0.8, 0.02), noise(4, 6)
    expected = sample(ideal, x, sigmas, method="sequential").x
    told, guessed = (sample(ideal, x, sigmas, method="secant", cores=3, prediction=p) for p in ("eps", None))
    assert float((told.x - expected).norm() / expected.norm()) < 0.01
    assert not torch.equal(told.x, guessed.x)


def test_amplification_is_one_for_euler() -> None:
    for sigmas in (flow_sigmas(20), karras(20)):
        updates = in_flow_coordinates(solver_updates(SOLVERS["euler"], sigmas), sigmas.tolist())
        assert amplification(updates) == pytest.approx((1.0,) * 20)
        second = in_flow_coordinates(solver_updates(SOLVERS["dpmpp_2m"], sigmas), sigmas.tolist())
        assert max(amplification(second)) > 1.5


@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m", "res_multistep"])
@pytest.mark.parametrize("cores", [2, 4])
def test_many_steps_take_few_calls_where_the_prediction_is_smooth(solver: str, cores: int) -> None:
    """Steps that are left out are interpolated by cubics. So the result is exact for a prediction cubic in the step."""
    steps = 400
    powers = torch.randn(4, 3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    sigmas, x = flow_sigmas(steps), noise(3, 8)
    grid = sigmas.tolist()

    def denoise(_: Tensor, sigma: float) -> Tensor:
        step = grid.index(sigma) / steps
        return sum(power * step**k for k, power in enumerate(powers))

    expected = sample(denoise, x, sigmas, solver=solver).x
    found = sample(denoise, x, sigmas, method="secant", solver=solver, cores=cores)
    assert found.evaluations < steps / 2
    torch.testing.assert_close(found.x, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("steps", [1000, 3000])
def test_solving_is_linear_in_the_steps(steps: int) -> None:
    """Only evaluated nodes are solved. They are some tens, however many steps there are."""
    solved = 0

    class Counting(Window):
        def _follow(self, update: object, state: Tensor) -> Tensor:
            nonlocal solved
            solved += 1
            return super()._follow(update, state)  # type: ignore[arg-type]

    sigmas, x = flow_sigmas(steps), noise(2, 6)
    machine = Counting(x, solver_window(sigmas, 4, SOLVERS["euler"]))
    while machine.accepted is None:
        for evaluation in machine.ready():
            machine.complete(evaluation, 0.5 * torch.tanh(evaluation.x) * (1 - evaluation.sigma))
    assert machine.accepted.depth < 100
    assert solved < 20_000


def test_a_prediction_that_is_rough_is_evaluated_at_every_step_there() -> None:
    """If the prediction jumps between two steps that are far apart, the steps between them are evaluated too."""
    steps = 200
    sigmas, x = flow_sigmas(steps), noise(2, 6)
    edge = float(sigmas[101])

    def denoise(x: Tensor, sigma: float) -> Tensor:
        return 0.5 * torch.tanh(x) + (2.0 if sigma < edge else 0.0)

    seen: set[int] = set()
    machine = Window(x, solver_window(sigmas, 4, SOLVERS["euler"]))
    while machine.accepted is None:
        for evaluation in machine.ready():
            seen.add(evaluation.index)
            machine.complete(evaluation, denoise(evaluation.x, evaluation.sigma))
    expected = sample(denoise, x, sigmas).x
    assert {99, 100, 101, 102} <= seen
    assert float((machine.accepted.x - expected).norm() / expected.norm()) < 0.01


@pytest.mark.parametrize("shape", [(1, 3), (3, 5)])
def test_a_nan_item_does_not_decide_for_the_others(shape: tuple[int, int]) -> None:
    """An item that is NaN is left out of the rule. The run ends, and the other items are as without it."""
    x, sigmas = noise(*shape), flow_sigmas(20)
    broken = torch.cat([x, torch.full_like(x[:1], torch.nan)])

    def denoise(x: Tensor, sigma: float) -> Tensor:
        return torch.tanh(3 * x) * (1 - sigma)

    def run(x: Tensor) -> Window:
        machine = Window(x, solver_window(sigmas, 4, SOLVERS["euler"]))
        while machine.accepted is None:
            for evaluation in machine.ready():
                machine.complete(evaluation, denoise(evaluation.x, evaluation.sigma))
        return machine

    with_nan, without = run(broken), run(x)
    assert with_nan.accepted is not None and without.accepted is not None
    assert with_nan.accepted.depth == without.accepted.depth
    torch.testing.assert_close(with_nan.accepted.x[:-1], without.accepted.x, rtol=1e-9, atol=1e-9)


@QUICK
@given(
    st.integers(1, 40), st.integers(1, 9), st.integers(2, 40), st.sampled_from([None, 8, 15, 40]), st.booleans(),
    st.sampled_from(sorted(SOLVERS)),
)  # fmt: skip
def test_the_end_is_always_evaluated(
    steps: int, cores: int, calls: int, rounds: int | None, rough: bool, solver: str
) -> None:
    """For any number of calls and rounds, and for a rough model."""
    sigmas, x = flow_sigmas(steps), noise(2, 6)
    asked = calls if 2 <= calls < steps else None
    plan = solver_window(sigmas, cores, SOLVERS[solver], calls=asked, rounds=rounds)
    machine, seen = Window(x, plan), set()
    while machine.accepted is None:
        for evaluation in machine.ready():
            seen.add(evaluation.index)
            factor = 1 + 0.8 * (int(evaluation.sigma * 23) % 2) if rough else 1.0
            machine.complete(evaluation, factor * torch.tanh(2 * evaluation.x) * (1 - evaluation.sigma))
    assert machine.accepted.depth <= plan.max_rounds
    assert steps - 1 in seen or rounds is not None and rounds * cores < len(plan.rule.nodes)  # type: ignore[union-attr]


@pytest.mark.parametrize("shape", [(2, 0), (0,), (0, 4)])
def test_latents_without_elements_pass(shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape, dtype=torch.float64)
    assert sample(lambda x, sigma: 0.5 * x, x, flow_sigmas(12), method="secant", cores=3).x.shape == shape
