"""What the user is told of a run: true figures in plain words."""

from __future__ import annotations

from typing import Any

import pytest
from pack_modules import module

core = module("chords_core")
messages = module("nodes.host.sampling.messages")


def _devices(count: int) -> tuple[str, ...]:
    return tuple(f"cuda:{number}" for number in range(count))


def _told(count: int, devices: int | None = None, steps: int = 20, **wanted: Any) -> str:
    """What is said of the plan for ``count`` lanes."""
    chosen = core.plan(steps, count, **wanted)
    return messages.describe(chosen, _devices(chosen.cores if devices is None else devices))


@pytest.mark.parametrize("wanted", [{}, {"cores": 1}, {"tolerance": 0.01}, {"accept": "exact"}, {"method": "chords"}])
def test_one_core_is_named_first(wanted: dict[str, Any]) -> None:
    assert _told(1, **wanted).startswith("one core")


def test_calls_are_about_so_many_before_the_run_and_then_exact() -> None:
    for cores, row in ((1, ""), (4, " in a row")):
        chosen = core.plan(20, 4, cores, tolerance=0.01)
        before, after = (
            messages.describe(chosen, _devices(cores), took) for took in (None, messages.Outcome(7, 0.004))
        )
        assert f"about {chosen.depth} of 20 calls{row}" in before and "picture" not in before
        assert f"7 of 20 calls{row}, about 0.4 % from KSampler's picture" in after and "about 7" not in after
        early = messages.describe(chosen, _devices(cores), messages.Outcome(7, by_request=True))
        assert f"7 of 20 calls{row}, ended early by request" in early and "KSampler" not in early


@pytest.mark.parametrize(
    ("estimate", "told"),
    [
        (0, "less than 0.1 %"),
        (0.0009, "less than 0.1 %"),
        (0.00449, "about 0.4 %"),
        (0.01, "about 1 %"),
        (0.12, "about 10 %"),
        (1.5, "about 200 %"),
    ],
)
def test_an_estimate_has_the_one_digit_that_it_is_good_for(estimate: float, told: str) -> None:
    chosen = core.plan(20, 1, 1, tolerance=0.01)
    assert f", {told} from KSampler's picture: " in messages.describe(
        chosen, _devices(1), messages.Outcome(11, estimate)
    )


@pytest.mark.parametrize("method", ["chords", "secant"])
def test_cores_without_devices_take_turns(method: str) -> None:
    assert "take turns" in _told(2, cores=4, method=method, devices=2)
    assert "take turns" not in _told(4, cores=4, method=method)


def test_turns_of_a_window_are_counted_and_called_slower_only_if_they_are() -> None:
    """Seven rounds of four cores on two devices are 14 calls in a row, and on one device 28."""
    chosen = core.plan(20, 4, cores=4)
    two, one = (messages.describe(chosen, _devices(count), messages.Outcome(7)) for count in (2, 1))
    assert "14 calls in a row" in two and "slower" not in two
    assert "28 calls in a row, slower than one core" in one


def test_the_accepted_hit_of_chords_is_told_with_its_calls() -> None:
    first = core.plan(50, 4, cores=4, accept=1, method="chords")
    assert f"result 1 of 4 after {first.depth} model calls instead of 50" in messages.describe(first, _devices(4))
    exact = _told(4, cores=4, accept="exact", steps=50)
    assert "the exact result after 50 model calls;" in exact and "instead" not in exact
    assert "the first result is there after" in exact


def test_a_chords_run_that_saves_nothing_does_not_promise_an_earlier_result() -> None:
    told = _told(4, cores=4, accept=1, method="chords", steps=4)
    assert "instead" not in told and "but the first result" not in told


@pytest.mark.parametrize("steps", [1, 2, 4, 20, 50])
@pytest.mark.parametrize("method", [None, "chords", "secant"])
@pytest.mark.parametrize("accept", [None, 1, 2, 3, "exact"])
@pytest.mark.parametrize("tolerance", [None, 0.01])
def test_every_plan_has_a_sentence_without_gaps(steps: int, method: Any, accept: Any, tolerance: Any) -> None:
    if tolerance is not None and (accept is not None or method == "chords"):
        return
    for lanes, cores in ((1, 0), (2, 0), (8, 0), (8, 1), (2, 2), (1, 8), (8, 64)):
        for costs in ((), (1.0, 9.0)):
            wanted = {"accept": accept, "method": method, "tolerance": tolerance, "costs": costs}
            chosen = core.plan(steps, lanes, cores, **wanted)
            for devices in {1, chosen.cores}:
                told = messages.describe(chosen, _devices(devices))
                assert told.startswith("one core" if chosen.cores == 1 else f"{chosen.cores} cores"), told
                assert not any(
                    word in told for word in ("{", "None", "(s)", "()", " 0 model", " 0 cores", " 0 devices", "Cause")
                ), told


def test_every_cause_has_a_sentence() -> None:
    of_the_core_alone = {core.Cause.INTERPOLATED, core.Cause.FASTEST_WITH_FEWER_CALLS}  # no node asks for calls
    assert set(messages._SENTENCES) == set(core.Cause) - of_the_core_alone


def test_more_cores_than_the_steps_have_work_for_are_told_with_the_reason() -> None:
    assert "(64 cores were asked for, but 20 steps have work for 20 only)" in _told(64, cores=64)
    assert "4 cores were asked for" in _told(4, cores=4) and "only" not in _told(4, cores=4)


def test_a_reason_is_told_once() -> None:
    chosen = core.plan(20, 1, 1, tolerance=0.01)
    twice = chosen.because(*chosen.reasons)
    assert messages.describe(twice, _devices(1)) == messages.describe(chosen, _devices(1))
