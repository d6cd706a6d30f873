"""Taking the best result so far: which hit ends the run, and that it does so at once."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from chords_core import (
    Accepted,
    Event,
    Hit,
    InvalidInput,
    OnDemand,
    Recorder,
    Residual,
    Result,
    RoundDone,
    ThreadPool,
    sample,
)
from tests.core.problems import Counted, geometric, noise, nonlinear

STEPS = 12
STARTS = [0, 3, 6, 8]
X, SIGMAS = noise(6, scale=10.0), geometric(STEPS)


def run_asking_after(hits: int, otherwise: int | str | Residual = "exact", lanes: int = 4) -> tuple[Result, list[int]]:
    """A run whose user asks once ``hits`` hits are there (the draft is one); and the model calls made by then."""
    model = Counted(nonlinear)
    seen: list[Event] = []
    calls: list[int] = []

    def note(event: Event) -> None:
        seen.append(event)
        if isinstance(event, Hit) and sum(isinstance(e, Hit) for e in seen) == hits:
            calls.append(model.calls)

    asked = OnDemand(otherwise, lambda: sum(isinstance(e, Hit) for e in seen) >= hits)
    with ThreadPool([model] * lanes) as pool:
        result = sample(None, X, SIGMAS, starts=STARTS, accept=asked, pool=pool, on_event=note)
    assert isinstance(seen[-1], Accepted) and seen[-1].hit.x is result.x
    return result, [*calls, model.calls]


@pytest.mark.parametrize("hits", [1, 2, 3, 4])
def test_the_newest_hit_is_taken(hits: int) -> None:
    complete = sample(nonlinear, X, SIGMAS, starts=STARTS, accept="exact").hits
    result, _ = run_asking_after(hits)
    assert result.x is result.hits[-1].x
    assert len(result.hits) >= hits  # more, if faster cores' lanes were late and several hits came at once
    for ours, theirs in zip(result.hits, complete, strict=False):
        assert (ours.core, ours.depth) == (theirs.core, theirs.depth)
        assert ours.x.equal(theirs.x)


@pytest.mark.parametrize("lanes", [1, 2, 4])
def test_the_run_ends_within_one_evaluation_a_lane(lanes: int) -> None:
    _, calls = run_asking_after(2, lanes=lanes)
    asked_at, ended_at = calls
    assert ended_at - asked_at <= 2 * lanes  # those under way, and those that replaced them while the hit was reported


def test_asked_before_any_hit_it_takes_the_first_to_come() -> None:
    result, _ = run_asking_after(0)
    assert [hit.core for hit in result.hits] == [0]
    assert result.depth == len(STARTS)


WAYS: dict[str, dict[str, Any]] = {
    "chords": {"starts": STARTS},
    "secant": {"method": "secant", "cores": 3, "rounds": 6},
    "secant, tolerance": {"method": "secant", "cores": 3, "tolerance": 1e-4},
    "one core, tolerance": {"method": "sequential", "tolerance": 0.001},
    "interpolated": {"method": "sequential", "calls": 6},
}


@pytest.mark.parametrize("way", [way for way in WAYS if way != "interpolated"])  # whose second hit ends it
def test_an_earlier_hit_can_be_taken(way: str) -> None:
    """The result is that hit, bit for bit, and the last one of the record."""
    options = {**WAYS[way], **({} if "tolerance" in WAYS[way] else {"accept": "exact"})}
    complete = sample(nonlinear, X, SIGMAS, **options).hits
    assert len(complete) > 2
    for index in range(len(complete) - 2):  # asked for at the hit after it, which does not end the run
        recorder = Recorder()
        asked = OnDemand(options.get("accept", 1), lambda r=recorder, i=index: len(r.hits) > i + 1, lambda i=index: i)
        result = sample(nonlinear, X, SIGMAS, **{**options, "accept": asked}, on_event=recorder)
        assert result.x.equal(complete[index].x) and result.hits[-1].x is result.x
        assert len(result.hits) == index + 1 and result.estimate is None
        assert [mark.depth for mark in recorder.timeline().hits] == [hit.depth for hit in complete[: index + 1]]
        assert result.depth == complete[index + 1].depth > complete[index].depth  # all calls that were made count


@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("way", WAYS)
def test_a_hit_that_was_asked_for_ends_the_run_when_it_comes(way: str, lanes: int) -> None:
    """Also where several hits come at once, because the lanes of faster cores were late."""
    options = {**WAYS[way], **({} if "tolerance" in WAYS[way] else {"accept": "exact"})}
    complete = sample(nonlinear, X, SIGMAS, **options).hits
    for index in range(len(complete)):
        asked = OnDemand(options.get("accept", 1), lambda: True, lambda i=index: i)
        model, recorder = Counted(nonlinear), Recorder()
        with ThreadPool([model] * lanes) as pool:
            result = sample(None, X, SIGMAS, **{**options, "accept": asked}, pool=pool, on_event=recorder)
        assert result.x.equal(complete[index].x) and len(result.hits) == index + 1
        assert lanes > 1 or model.calls == len(recorder.timeline().evaluations)  # none was begun after the hit


@pytest.mark.parametrize("index", [None, 0])
def test_the_depth_counts_the_rounds_after_the_newest_hit(index: int | None) -> None:
    """A user who takes the draft late has waited for more calls than the draft needs."""
    rounds = [0]
    asked = OnDemand("exact", lambda: rounds[-1] >= len(STARTS) + 2, lambda: index)

    def note(event: Event) -> None:
        rounds.extend([event.depth] if isinstance(event, RoundDone) else [])

    result = sample(nonlinear, X, SIGMAS, starts=STARTS, accept=asked, on_event=note)
    assert [hit.depth for hit in result.hits] == [len(STARTS)]
    assert result.depth == len(STARTS) + 2
    assert result.evaluations <= len(STARTS) * result.depth


def test_a_later_request_takes_the_place_of_an_earlier_one_and_a_hit_that_never_comes_changes_nothing() -> None:
    recorder = Recorder()
    asked = OnDemand("exact", lambda: True, lambda: 99 if len(recorder.hits) < 3 else 1)
    result = sample(nonlinear, X, SIGMAS, starts=STARTS, accept=asked, on_event=recorder)
    complete = sample(nonlinear, X, SIGMAS, starts=STARTS, accept="exact")
    assert result.x.equal(complete.hits[1].x)
    never = sample(nonlinear, X, SIGMAS, starts=STARTS, accept=OnDemand("exact", lambda: True, lambda: 99))
    assert never.x.equal(complete.x) and never.depth == complete.depth


def test_never_asked_the_rule_decides() -> None:
    def run(accept: int | str | Residual | OnDemand) -> Result:
        return sample(nonlinear, X, SIGMAS, starts=STARTS, accept=accept)

    for rule in (1, 3, "exact", Residual(1e-3)):
        asked, plain = run(OnDemand(rule, lambda: False)), run(rule)
        assert asked.x.equal(plain.x)
        assert (asked.depth, asked.evaluations) == (plain.depth, plain.evaluations)


def test_one_core_gives_its_draft() -> None:
    result = sample(nonlinear, X, SIGMAS, accept=OnDemand(1, lambda: True))
    assert [hit.core for hit in result.hits] == [0]
    assert result.evaluations == 1


def test_a_wrong_rule_inside_is_refused_before_any_call() -> None:
    def never(x: Tensor, sigma: float) -> Tensor:
        raise AssertionError("called")

    with pytest.raises(InvalidInput, match="accept"):
        sample(never, X, SIGMAS, starts=STARTS, accept=OnDemand(5, lambda: False))
