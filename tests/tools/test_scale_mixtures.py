"""The mixtures of benchmarks/scale.py: costs computed by hand, and choices of the pack that a user relies on."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import scale
from benchmarks._scale_mixtures import FIDELITIES, STATES, Case, Run, best, mixtures, pick, runs
from benchmarks._scale_mixtures_figures import behind, kind_of
from benchmarks._token_split_costs import Exchange, ModelCosts, Way, load_costs
from chords_core import plan

FLUX = "Flux dev 12B, 1024x1024"
COSTS = ModelCosts(
    FLUX,
    shares={1: 1.0, 2: 0.6, 4: 0.4},
    received={1: 0.0, 2: 3.0, 4: 6.0},
    launching={1: 0.1, 2: 0.2, 4: 0.8},
    whole_launch=0.5,
)
AFTER, BESIDE, SLOW = Exchange(12, False), Exchange(12, True), Exchange(3, True)


@pytest.mark.parametrize(
    ("way", "guided", "exchange", "seconds"),
    [
        (Way(), False, AFTER, 1.0),
        (Way(), True, AFTER, 2.0),  # two sides
        (Way(shares=2), False, AFTER, 0.6 + 3 / 12),
        (Way(shares=2), False, BESIDE, 0.6),
        (Way(shares=2), False, SLOW, 3 / 3),  # the exchange takes longer than the computation
        (Way(shares=2), True, AFTER, 1.2 + 6 / 12),
        (Way(shares=4), False, AFTER, 0.8 + 6 / 12),  # four threads launch longer than they compute
        (Way(sides=2), True, AFTER, 1.0),
        (Way(sides=2, shares=2), True, AFTER, 0.8 + 3 / 12),
        (Way(cores=4), False, AFTER, 1.0),  # whole calls have half the launches
        (Way(cores=2, shares=2), False, BESIDE, 0.8),
    ],
)
def test_a_round_takes_as_long_as_by_hand(way: Way, guided: bool, exchange: Exchange, seconds: float) -> None:
    assert COSTS.round_seconds(way, guided, exchange) == pytest.approx(seconds)


def test_launches_of_a_number_of_threads_that_was_not_measured_lie_between_those_that_were() -> None:
    assert COSTS.launch_seconds(3, whole=False) == pytest.approx(0.5)
    assert COSTS.launch_seconds(3, whole=True) == pytest.approx(0.25)


def test_the_costs_are_those_of_the_measured_report(repo: Path) -> None:
    """Each figure of its table of gains, for one side, all members and all links."""
    results = repo / "benchmarks" / "results"
    models = {costs.name: costs for costs in load_costs(results / "token_split_gpu.json")}
    text = (results / "token_split_gpu.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| (.+?) \| (\d) \| (.+ to .+) \| [\d.]+ \|$", text, re.MULTILINE)
    assert len(table) == 3 * len(models)
    for name, members, cells in table:
        for bandwidth, cell in zip((12, 25, 64, 450), cells.split(" | "), strict=True):
            for overlapped, figure in zip((False, True), cell.split(" to "), strict=True):
                seconds = models[name].round_seconds(Way(shares=int(members)), False, Exchange(bandwidth, overlapped))
                assert models[name].shares[1] / seconds == pytest.approx(float(figure), abs=0.006)


# --- runs


def case(**changes: Any) -> Case:
    return Case(**{"costs": COSTS, "guided": False, "steps": 4, "devices": 2, "exchange": AFTER, **changes})


def test_runs_are_as_many_rounds_as_their_plans_have() -> None:
    by_name = {run.name: run for run in runs(case(steps=20))}
    assert by_name["one device"].seconds == pytest.approx(20 * 1.0)
    assert by_name["tokens 2"].seconds == pytest.approx(20 * 0.85) and by_name["tokens 2"].exact
    assert by_name["2 cores"].seconds < 20 * 1.0 and not by_name["2 cores"].exact
    near = plan(20, 1, tolerance=0.01).depth
    assert by_name["calls left out x tokens 2"].seconds == pytest.approx(near * 0.85) and near < 20
    assert not by_name["calls left out x tokens 2"].exact


def test_no_run_has_more_devices_than_there_are_nor_sides_without_guidance() -> None:
    found = list(runs(case(steps=20, devices=4)))
    assert max(run.devices for run in found) == 4
    assert not [run for run in found if "guidance" in run.name]
    assert {kind_of(run.name) for run in runs(case(steps=20, devices=4, guided=True))} >= {
        "cores x guidance",
        "guidance x tokens",
        "cores x tokens",
        "calls left out x guidance x tokens",
    }


def test_of_equally_fast_runs_the_exact_one_with_few_devices_is_the_fastest() -> None:
    exact, wide, windowed = (
        Run("tokens 2", 1.0, 2, exact=True),
        Run("tokens 4", 1.0, 4, exact=True),
        Run("1 core", 1.0, 1, exact=False),
    )
    assert best([windowed, wide, exact]) is exact
    assert best([wide, exact, Run("2 cores", 0.9, 2, exact=False)]).name == "2 cores"


# --- what the pack chooses


def test_the_first_run_makes_the_calls_that_try_the_ways() -> None:
    """By tokens three times, and whole twice: once for the comparison, once in its own turn."""
    assert pick(case(), FIDELITIES[0], "first run").seconds == pytest.approx(3 * 0.85 + 2 * 1.0)
    assert pick(case(), FIDELITIES[0], "later runs").seconds == pytest.approx(4 * 0.85)


@pytest.mark.parametrize("state", ["later runs", "benchmark"])
def test_a_way_that_gains_nothing_is_not_kept(state: str) -> None:
    slow = case(exchange=Exchange(1, False))
    assert pick(slow, FIDELITIES[0], state).name == "one device"


def test_after_a_benchmark_the_same_picture_comes_first_where_it_is_nearly_as_fast() -> None:
    quick = case(steps=8, exchange=Exchange(1e3, True))
    assert pick(quick, "auto", "benchmark").name == "tokens 2"
    assert "cores" in pick(case(steps=20, exchange=Exchange(6, False)), "auto", "benchmark").name
    assert pick(case(steps=20, exchange=Exchange(6, False)), "exact", "benchmark").name == "one device"


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return mixtures(small=True)


def test_no_choice_is_faster_than_the_fastest_way(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        assert row["fastest"]["exact"][1] <= row["fastest"]["auto"][1]
        for fidelity in FIDELITIES:
            for state in STATES:
                assert behind(row, fidelity, state) >= 1 - 1e-3, (row, fidelity, state)


def test_the_file_has_the_rows(rows: list[dict[str, Any]]) -> None:
    lines = scale.as_json({"devices": [{"steps": 20}], "mixtures": rows})
    assert json.loads("\n".join(lines)) == json.loads(json.dumps({"devices": [{"steps": 20}], "mixtures": rows}))
