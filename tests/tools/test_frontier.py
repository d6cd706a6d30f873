"""The pure parts of benchmarks/frontier.py: its cases, and what it makes of records."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks import _frontier_records as records
from benchmarks import _problems as problems
from benchmarks import frontier
from benchmarks._demo import differences
from benchmarks._frontier_cases import PROBLEMS, Case, all_cases
from benchmarks._frontier_report import report


def record(depth: int, median: float, method: str = "a", cores: int = 1) -> dict[str, Any]:
    return {"depth": depth, "median": median, "method": method, "cores": cores}


def test_every_case_is_measured_once_and_the_most_important_first() -> None:
    cases = all_cases(small=False)
    assert len({case.key for case in cases}) == len(cases)
    assert [case.rank for case in cases] == sorted(case.rank for case in cases)
    assert (cases[0].problem, cases[0].part, cases[0].steps) == ("demo cfg4", "fidelity", 20)
    assert {case.problem for case in cases} == set(PROBLEMS)
    few = all_cases(small=True)
    assert {case.kind for case in few} == {case.kind for case in cases}


def test_calls_of_the_best_stock_curve_are_interpolated_and_never_extrapolated() -> None:
    stock = [record(10, 0.1), record(40, 0.025), record(10, 0.2, "b"), record(40, 0.02, "b")]
    assert records.calls_needed(stock, 0.05).calls == pytest.approx(20)  # error ~ 1 / calls
    needed = records.calls_needed(stock, 0.02)
    assert (needed.calls, needed.sampler, needed.beyond) == (pytest.approx(40), "b", False)
    assert records.calls_needed(stock, 0.01) == records.Needed(40, beyond=True)
    assert records.calls_needed(stock, 0.5).fewer


def test_a_curve_that_diverged_first_is_crossed_at_its_first_good_point() -> None:
    assert records.crossing([(6, records.DIVERGED), (10, 0.01)], 0.02) == 10
    assert records.crossing([(6, 0.01), (10, 0.1)], 0.02) == 6
    assert records.crossing([(6, 0.1)], 0.02) is None


def test_the_fastest_result_that_is_close_on_so_many_cores() -> None:
    known = [record(9, 0.02), record(12, 0.009), record(8, 0.005, cores=4)]
    assert records.fastest(known, 1) == known[1]
    assert records.fastest(known, 4) == known[2]
    assert records.fastest(known[:1], 8) is None


def test_gains_count_only_where_stock_needs_many_calls() -> None:
    stock = [record(10, 0.1), record(40, 0.025)]
    ours = [record(8, 0.05, cores=4), record(5, 0.09, cores=4), record(20, 0.025, cores=8)]
    (gain,) = records.gains(ours, stock, 4)
    assert gain.record is ours[0]
    assert gain.ratio == pytest.approx(20 / 8)


def test_guidance_takes_two_devices_first() -> None:
    assert [records.splits(devices, 4) for devices in (1, 2, 8)] == [(1, 1), (1, 2), (4, 2)]
    assert records.splits(8, 1) == (8, 1)


def test_a_goal_is_met_or_missed() -> None:
    assert records.verdict(2.0, 2.0) == "met"
    assert records.verdict(1.9, 2.0) == "**missed**"
    assert records.verdict(None, 2.0) == "**missed**"
    assert "lower bound" in records.verdict(1.9, 2.0, lower_bound=True)


@pytest.mark.parametrize("name", problems.EPS_GRIDS)
def test_eps_schedules_go_from_the_first_to_the_last_trained_sigma(name: str) -> None:
    sigmas = problems.eps_grid(name, 12)
    assert len(sigmas) == 13
    assert sigmas[0] == pytest.approx(14.6146, abs=1e-3)
    assert sigmas[-2:] == pytest.approx([0.02917, 0.0], abs=1e-4)
    assert sigmas == sorted(sigmas, reverse=True)


@pytest.mark.parametrize("name", ["mixture-flow cfg4", "mixture-eps cfg1"])
def test_a_mixture_has_a_solution_that_samplers_come_to(name: str) -> None:
    problem = problems.make_problem(name, 3, torch.device("cpu"))
    exact, own = problems.truth(problem, 200)
    assert own < 1e-3
    case = Case(name, "accuracy", "cubic", "", "cubic", 20, cores=4, rounds=14)
    (outcome,) = frontier.run_case(case, problem)
    assert outcome.depth == 14
    assert float(differences(outcome.x, exact).median()) < 0.02


def test_a_sparse_case_makes_its_calls() -> None:
    problem = problems.make_problem("mixture-flow cfg1", 2, torch.device("cpu"))
    case = Case(problem.name, "fidelity", "sparse", "", "euler", 20, calls=11)
    (outcome,) = frontier.run_case(case, problem)
    assert (outcome.depth, outcome.evaluations) == (11, 11)


def test_the_report_of_a_few_records_says_what_is_missed() -> None:
    facts = dict.fromkeys(("command", "date", "name", "torch", "python", "comfyui", "seconds", "seeds"), "x")
    case = Case("demo cfg1", "fidelity", "chords", "CHORDS", "euler", 20, cores=4, starts=(0, 8, 9, 10))
    book = records.Book(frontier.RESULTS, {**facts, "small": False}, {case.key: case})
    book.known = {case.key: [[16, 40, 0.001, 0.001, 0.002, None]], "of an older version": [[1, 1, 0.0, 0.0, 0.0, None]]}
    text = "\n".join(report(book))
    found = "| 16 | CHORDS (K=4, starts [0, 8, 9, 10]) | 0.10 % | 0.20 % |"
    assert f"| euler 20 | 4 | 1.25 | 2.5: **missed** {found}" in text
