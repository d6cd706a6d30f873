"""Taking the best result so far: which hit ends the run, and that it does so at once."""

from __future__ import annotations

import pytest
from torch import Tensor

from chords_core import Accepted, Event, Hit, InvalidInput, OnDemand, Residual, Result, ThreadPool, sample
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
