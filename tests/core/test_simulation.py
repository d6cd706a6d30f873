"""The simulator is right where the truth is known: depths, critical paths, rounds, links and lost devices."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chords_core import (
    SOLVERS,
    Chords,
    ChordsPlan,
    EvaluationMark,
    InlinePool,
    InterpolatedPlan,
    InvalidInput,
    LaneTimeouts,
    SequentialPlan,
    Timeline,
    WindowPlan,
    hit_depth,
    lattice_starts,
    plan,
)
from chords_core.execution.driver import drive
from chords_core.simulated_devices import Device, Link
from chords_core.simulation import Barrier, Simulated, expected_seconds, simulate, skeleton, skeleton_of
from tests.core.problems import dependencies, geometric, needed, noise, nonlinear

QUICK = settings(max_examples=80, deadline=None, derandomize=True)
STEPS, STARTS = 20, (0, 4, 8, 12)
STEP = 0.25  # sums of it are exact
SLOW_LINK = Link("slow", 0.03125, 1024.0)  # a latent of 64 bytes takes 1/16 s + 1/32 s
HASTY = LaneTimeouts(floor=2.0, factor=2.0, first=2.0)


@st.composite
def runs(draw: st.DrawFn, most: int = 14) -> dict[str, Any]:
    """What `skeleton` takes."""
    steps = draw(st.integers(1, most))
    starts = (0, *sorted(draw(st.sets(st.integers(1, steps - 1), max_size=6)))) if steps > 1 else (0,)
    return {"steps": steps, "starts": starts, "accept": draw(st.integers(1, len(starts)))}


links = st.builds(Link, st.just("any"), st.floats(0, 1), st.floats(10, 1e6), st.booleans())
devices = st.builds(Device, st.floats(0.01, 10), links, st.floats(0, 0.9))
sets = st.lists(devices, min_size=1, max_size=8)


def calls(run: dict[str, Any]) -> set[tuple[int, int]]:
    """(core, index) of each evaluation that the run needs."""
    return needed(run["steps"], run["starts"], run["accept"])


def by_rounds(timeline: Timeline) -> dict[int, list[EvaluationMark]]:
    rounds: dict[int, list[EvaluationMark]] = defaultdict(list)
    for evaluation in timeline.evaluations:
        rounds[evaluation.depth].append(evaluation)
    return rounds


def critical_path(timeline: Timeline, starts: tuple[int, ...]) -> float:
    """The longest path through the dependencies, with the seconds that each evaluation took."""
    ends: dict[tuple[int, int], float] = {}
    for evaluation in sorted(timeline.evaluations, key=lambda evaluation: evaluation.depth):
        earlier = dependencies(starts, evaluation.core, evaluation.index)
        began = max((ends[evaluation] for evaluation in earlier), default=0.0)
        ends[evaluation.core, evaluation.index] = began + evaluation.seconds
    return max(ends.values())


# --- dataflow


@QUICK
@given(runs(), st.integers(0, 3))
def test_equal_devices_take_the_depth(run: dict[str, Any], spare: int) -> None:
    """Without jitter or links, each hit comes after exactly as many steps as its depth says; barriers cost nothing."""
    equal = [Device(STEP)] * (len(run["starts"]) + spare)
    result = simulate(skeleton(**run), equal)
    assert [hit.seconds for hit in result.hits] == [hit.depth * STEP for hit in result.hits]
    depth = hit_depth(run["steps"], run["starts"], len(run["starts"]) - run["accept"] + 1)
    assert result.seconds == depth * STEP == result.hits[-1].seconds
    assert result.evaluations == len(calls(run))
    assert simulate(Barrier(skeleton(**run)), equal).seconds == result.seconds


@QUICK
@given(runs())
def test_one_device_is_always_busy(run: dict[str, Any]) -> None:
    """A single device makes all evaluations in turn."""
    result = simulate(skeleton(**run), [Device(STEP)])
    assert result.seconds == len(calls(run)) * STEP and result.busy == (1.0,)


@QUICK
@given(runs(), sets, st.integers(0, 99))
def test_bounds_on_any_devices(run: dict[str, Any], any_devices: list[Device], seed: int) -> None:
    """A run takes at least its critical path, and at most all its evaluations in turn."""
    result = simulate(skeleton(**run), any_devices, payload=8, seed=seed)
    took = [evaluation.seconds for evaluation in result.timeline.evaluations]
    assert critical_path(result.timeline, run["starts"]) <= result.seconds * (1 + 1e-9)
    assert result.seconds <= sum(took) * (1 + 1e-9)
    least = min(device.seconds * (1 - device.jitter) for device in any_devices)
    depth = hit_depth(run["steps"], run["starts"], len(run["starts"]) - run["accept"] + 1)
    assert result.seconds >= depth * least * (1 - 1e-9)


@QUICK
@given(runs(), sets, st.integers(0, 99))
def test_devices_change_times_only(run: dict[str, Any], any_devices: list[Device], seed: int) -> None:
    """In whatever order results come back: each evaluation is made once, after those that it needs, the hits are
    the same,
    and a device makes one evaluation at a time."""
    result = simulate(skeleton(**run), any_devices, payload=8, seed=seed)
    seen = {(one.core, one.index): one for one in result.timeline.evaluations}
    assert set(seen) == calls(run) and len(result.timeline.evaluations) == len(seen) == result.evaluations
    for (core, index), evaluation in seen.items():
        for earlier in dependencies(run["starts"], core, index):
            assert seen[earlier].began + seen[earlier].seconds <= evaluation.began + 1e-9
    for lane in range(len(any_devices)):
        mine = sorted(((e.began, e.began + e.seconds) for e in seen.values() if e.lane == lane), key=lambda span: span)
        assert all(end <= began + 1e-9 for (_, end), (began, _) in zip(mine, mine[1:], strict=False))
    cores = len(run["starts"])
    assert [hit.core for hit in result.hits] == [0, *range(cores, cores - run["accept"], -1)]
    assert simulate(skeleton(**run), any_devices, payload=8, seed=seed) == result


@QUICK
@given(runs(), st.floats(0, 0.9), st.integers(0, 99))
def test_a_lane_a_core_takes_the_critical_path(run: dict[str, Any], jitter: float, seed: int) -> None:
    """With one device for each core an evaluation waits only for what it needs. With barriers a round takes as long
    as its
    slowest evaluation, which is never less."""
    lanes = [Device(1.0, jitter=jitter)] * len(run["starts"])
    free = simulate(skeleton(**run), lanes, seed=seed)
    assert free.seconds == pytest.approx(critical_path(free.timeline, run["starts"]))
    held = simulate(Barrier(skeleton(**run)), lanes, seed=seed)
    rounds = by_rounds(held.timeline).values()
    assert held.seconds == pytest.approx(sum(max(one.seconds for one in each) for each in rounds))
    assert held.seconds >= free.seconds - 1e-9

    def durations(result: Simulated) -> dict[tuple[int, int], float]:
        return {(one.core, one.index): one.seconds for one in result.timeline.evaluations}

    assert durations(held) == pytest.approx(durations(free))  # the same jitter for both


def test_barriers_cost_a_tenth_under_jitter() -> None:
    """If evaluations vary by 30 % (standard deviation), dataflow takes a tenth less time than barriers."""
    seeds = range(12)
    for steps, lanes in ((20, 4), (30, 6), (50, 8)):
        starts = lattice_starts(steps, lanes)
        uneven = [Device(1.0, jitter=0.3 * math.sqrt(3))] * lanes
        free = sum(simulate(skeleton(steps, starts), uneven, seed=seed).seconds for seed in seeds)
        held = sum(simulate(Barrier(skeleton(steps, starts)), uneven, seed=seed).seconds for seed in seeds)
        assert free <= 0.9 * held


def test_barriers_change_no_bit() -> None:
    """A barrier is a method like any other: the driver gets the same hits from it."""
    sigmas, x = geometric(STEPS), noise(5, scale=10.0)
    ends = []
    for wrap in (lambda method: method, Barrier):
        method = wrap(Chords(x, sigmas, STARTS, SOLVERS["dpmpp_2m"], 2))
        drive(method, InlinePool(nonlinear))
        assert method.accepted is not None
        ends.append(method.accepted)
    assert torch.equal(ends[0].x, ends[1].x) and ends[0].depth == ends[1].depth


@pytest.mark.parametrize(("index", "core"), [(None, 0), (0, 0), (1, len(STARTS))])
def test_a_barrier_passes_on_which_hit_is_asked_for(index: int | None, core: int) -> None:
    barrier = Barrier(skeleton(STEPS, STARTS))
    assert barrier.accept_hit(index) == []  # there is none yet
    while barrier.accepted is None:
        for evaluation in barrier.ready():
            barrier.complete(evaluation, evaluation.x)
    assert barrier.accepted.core == core  # 0: the draft


# --- devices


def test_jitter_stays_in_its_range_and_is_fair() -> None:
    lanes = [Device(2.0, jitter=0.3)] * 4
    results = [simulate(skeleton(STEPS, STARTS, 4), lanes, seed=seed) for seed in range(10)]
    took = [one.seconds for result in results for one in result.timeline.evaluations]
    assert min(took) >= 1.4 - 1e-9 and max(took) <= 2.6 + 1e-9
    assert sum(took) / len(took) == pytest.approx(2.0, rel=0.03)
    assert len({result.seconds for result in results}) == len(results)


def test_a_slow_device_is_no_worse_than_all_being_slow() -> None:
    fast, slow, mixed = (
        simulate(skeleton(STEPS, STARTS), lanes).seconds
        for lanes in ([Device(1.0)] * 4, [Device(2.0)] * 4, [Device(1.0)] * 3 + [Device(2.0)])
    )
    assert fast < mixed < slow == 2 * fast


def test_busy_adds_up() -> None:
    """The devices computed as long as the evaluations took. Latents on their way are not computing."""
    result = simulate(skeleton(STEPS, STARTS, 4), [Device(1.0, SLOW_LINK)] * 4, payload=64)
    assert sum(result.busy) * result.seconds == pytest.approx(result.evaluations)
    alone = simulate(skeleton(STEPS, (0,)), [Device(STEP, SLOW_LINK)], payload=64)
    assert alone.busy == (STEP / (STEP + 2 * (0.03125 + 64 / 1024)),)


# --- links


def test_an_evaluation_takes_its_latent_both_ways() -> None:
    lanes = [Device(STEP, SLOW_LINK)] * 4
    depth = simulate(skeleton(STEPS, STARTS), [Device(1.0)] * 4).seconds
    for payload in (0, 64, 1024):
        there = 0.03125 + payload / 1024
        assert simulate(skeleton(STEPS, STARTS), lanes, payload=payload).seconds == depth * (STEP + 2 * there)


@QUICK
@given(runs(), st.integers(1, 6), st.floats(0.001, 1))
def test_a_shared_link_carries_one_latent_at_a_time(run: dict[str, Any], lanes: int, seconds: float) -> None:
    """It carries every latent in both directions, so it takes at least that long. A single device on it sees no
    difference."""
    shared, own = (Link("wire", 0.01, 100.0, shared) for shared in (True, False))
    result = simulate(skeleton(**run), [Device(seconds, shared)] * lanes, payload=50)
    assert result.seconds >= 0.5 * len(calls(run))
    assert result.seconds >= simulate(skeleton(**run), [Device(seconds, own)] * lanes, payload=50).seconds - 1e-9
    alone = simulate(skeleton(**run), [Device(seconds, shared)], payload=50)
    assert alone == simulate(skeleton(**run), [Device(seconds, own)], payload=50)


def test_the_driver_takes_one_result_at_a_time() -> None:
    assert simulate(skeleton(STEPS, (0,)), [Device(STEP)], overhead=0.125).seconds == STEPS * (STEP + 0.125)
    lanes = [Device(STEP)] * 4
    busy = simulate(skeleton(STEPS, STARTS), lanes, overhead=0.125)
    assert busy.seconds >= 0.125 * busy.evaluations
    assert simulate(skeleton(STEPS, STARTS), lanes).seconds < busy.seconds


# --- lost devices


@QUICK
@given(runs(), st.integers(2, 6), st.floats(0, 8), st.booleans(), st.sampled_from([Link("free"), SLOW_LINK]))
def test_a_lost_device_costs_time_only(run: dict[str, Any], lanes: int, moment: float, hangs: bool, link: Link) -> None:
    """The hits and evaluations are the same, later at most by the timeouts and by the work that others take over."""
    healthy = [Device(STEP, link)] * (lanes - 1)
    ill = Device(STEP, link, **{"hangs_at" if hangs else "dies_at": moment})
    whole = simulate(skeleton(**run), [ill, *healthy], payload=64, timeouts=HASTY)
    expected = simulate(skeleton(**run), [Device(STEP, link), *healthy], payload=64)
    assert [(hit.core, hit.depth) for hit in whole.hits] == [(hit.core, hit.depth) for hit in expected.hits]
    assert {(one.core, one.index) for one in whole.timeline.evaluations} == calls(run)
    turn = STEP + 2 * (link.latency + 64 / link.bandwidth)
    assert whole.seconds <= (len(calls(run)) + 1) * turn + (2.1 if hangs else 0.0)
    late = [one.began + one.seconds for one in whole.timeline.evaluations if one.lane == 0]
    assert all(end <= moment for end in late)


@pytest.mark.parametrize("moment", [0.0, 0.05, 0.2, 0.34375, 0.4])
def test_a_result_is_lost_wherever_it_is(moment: float) -> None:
    """On its way there, in the evaluation or on its way back: the driver is told at once and repeats the evaluation."""
    turn = STEP + 2 * (0.03125 + 64 / 1024)  # 0.4375 s, of which the evaluation ends at 0.34375
    ill = Device(STEP, SLOW_LINK, dies_at=moment)
    result = simulate(skeleton(STEPS, (0,)), [ill, Device(STEP, SLOW_LINK)], payload=64)
    assert result.seconds == pytest.approx(moment + STEPS * turn) and result.evaluations == STEPS
    assert [mark.seconds for mark in result.timeline.lost] == [moment]
    hangs = Device(STEP, SLOW_LINK, hangs_at=moment)
    result = simulate(skeleton(STEPS, (0,)), [hangs, Device(STEP, SLOW_LINK)], payload=64, timeouts=HASTY)
    assert result.seconds == pytest.approx(HASTY.first + STEPS * turn, abs=0.05)


def test_a_device_dead_from_the_start_is_as_none() -> None:
    """Its failure is known at once, so it costs no time."""
    others = [Device(1.0), Device(1.5), Device(2.0)]
    with_it = simulate(skeleton(STEPS, STARTS), [Device(1.0, dies_at=0.0), *others])
    assert with_it.seconds == simulate(skeleton(STEPS, STARTS), others).seconds
    assert [mark.lane for mark in with_it.timeline.lost] == [0] and with_it.busy[0] == 0.0


def test_a_slow_device_waits_while_fast_ones_are_idle() -> None:
    """After its first evaluation has shown how slow it is. So it costs one slow evaluation, not one in each round."""
    chosen = plan(50, 4, 4, method="secant")
    devices = [Device(5.0), *[Device(1.0)] * 4]
    result = simulate(skeleton_of(chosen), devices)
    assert result.seconds == pytest.approx(chosen.depth + 4)
    assert sum(evaluation.lane == 0 for evaluation in result.timeline.evaluations) == 1


def test_a_hang_costs_the_timeout() -> None:
    """A core waits for the device's evaluation until the device is given up, and no longer."""
    lanes = [Device(1.0)] * 3 + [Device(1.0, hangs_at=7.5)]
    usual = simulate(skeleton(50, (0, 8, 16, 32)), lanes)
    assert 20 < usual.seconds < 21 + 21 + 1
    assert [(mark.lane, mark.error) for mark in usual.timeline.lost] == [(3, "no answer for 20 s")]
    assert simulate(skeleton(50, (0, 8, 16, 32)), lanes, timeouts=HASTY).seconds < usual.seconds - 15


def test_an_evaluation_made_twice_is_waited_for() -> None:
    """A device is late, another one does its work, and then the first one answers. The second answer is not needed,
    but the run only returns when both devices are free."""
    run = simulate(skeleton(1, (0,)), [Device(2.5), Device(1.0)], timeouts=HASTY)
    assert (run.hits[-1].core, run.hits[-1].seconds) == (1, 2.5)
    assert run.evaluations == 2
    assert 3.0 <= run.seconds < 3.1


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("fate", ["dies_at", "hangs_at"])
def test_without_devices_left_a_run_never_ends(fate: str, lanes: int) -> None:
    result = simulate(skeleton(STEPS, STARTS), [Device(1.0, **{fate: 3.5})] * lanes)
    assert result.seconds == math.inf
    assert result.evaluations >= 3 and all(one.seconds <= 3.5 for one in result.hits)


# --- plans


def test_expected_seconds_of_plans() -> None:
    plans = [
        SequentialPlan(20, ()),
        plan(20, 1, calls=13),
        plan(20, 3),
        plan(20, 4),
        plan(20, 4, calls=13),
        plan(20, 4, method="chords"),
    ]
    assert [type(each) for each in plans] == [SequentialPlan, InterpolatedPlan, *3 * [WindowPlan], ChordsPlan]
    assert expected_seconds(plans, [Device(STEP)] * 4) == tuple(chosen.depth * STEP for chosen in plans)
    assert expected_seconds([], [Device(STEP)]) == ()
    assert expected_seconds(plans[-1:], [Device(1.0, dies_at=2.0)] * 4) == (math.inf,)


def test_expected_seconds_is_the_mean_of_the_runs() -> None:
    chosen = plan(20, 4, method="chords")
    assert isinstance(chosen, ChordsPlan)
    lanes = [Device(1.0, jitter=0.3)] * 4
    each = [simulate(skeleton(20, chosen.starts, chosen.expected_hit), lanes, seed=seed).seconds for seed in range(3)]
    assert expected_seconds([chosen], lanes, runs=3) == (pytest.approx(sum(each) / 3),)


# --- bad input


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("latency", lambda: Link("x", latency=-1.0)),
        ("latency", lambda: Link("x", latency=math.inf)),
        ("bandwidth", lambda: Link("x", bandwidth=0.0)),
        ("seconds", lambda: Device(0.0)),
        ("seconds", lambda: Device(math.nan)),
        ("jitter", lambda: Device(1.0, jitter=1.0)),
        ("dies_at", lambda: Device(1.0, dies_at=-1.0)),
        ("hangs_at", lambda: Device(1.0, hangs_at=math.nan)),
        ("devices", lambda: simulate(skeleton(4, (0,)), [])),
        ("payload", lambda: simulate(skeleton(4, (0,)), [Device(1.0)], payload=-1)),
        ("overhead", lambda: simulate(skeleton(4, (0,)), [Device(1.0)], overhead=-0.1)),
        ("starts", lambda: skeleton(4, (1,))),
        ("accept", lambda: skeleton(4, lattice_starts(4, 2), 3)),
        ("runs", lambda: expected_seconds([SequentialPlan(4, ())], [Device(1.0)], runs=0)),
    ],
)
def test_bad_input_is_named(name: str, make: Any) -> None:
    with pytest.raises(InvalidInput) as raised:
        make()
    assert raised.value.name == name
