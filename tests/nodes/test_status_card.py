"""The card of a run on its sampler: what is gained first, then how and where; advice where there is some."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from pack_modules import module

core = module("chords_core")
cards = module("nodes.host.sampling.status_card")
messages = module("nodes.host.sampling.messages")
phrases = module("nodes.host.phrases")


def _devices(count: int) -> tuple[str, ...]:
    return tuple(f"cuda:{number}" for number in range(count))


def _lines(card: Any) -> tuple[str, str, str]:
    return ", ".join(card.title), "; ".join(card.detail), "; ".join(card.advice)


def test_the_calls_and_the_gain_come_first() -> None:
    chosen = core.plan(20, 1, 1, tolerance=0.01)
    title, detail, advice = _lines(cards.card_of(chosen, _devices(1), messages.Outcome(11, 0.004)))
    assert title == "11 of 20 calls, 1.8x fewer"
    assert detail.startswith("one core on cuda:0; about 0.4 % from KSampler's picture; ")
    assert advice == ""
    title, _, _ = _lines(cards.card_of(chosen, _devices(1)))
    assert title == f"about {chosen.depth} of 20 calls, {20 / chosen.depth:.1f}x fewer"


def test_several_cores_name_their_devices_and_calls_in_a_row() -> None:
    window = core.plan(20, 4, 4, tolerance=0.01)
    title, detail, _ = _lines(cards.card_of(window, _devices(4), messages.Outcome(7, 0.0002)))
    assert title == "7 of 20 calls in a row, 2.9x fewer"
    assert detail.startswith("4 cores on cuda:0, cuda:1, cuda:2, cuda:3; less than 0.1 % from KSampler's picture; ")
    title, detail, _ = _lines(cards.card_of(window, ("cuda:0",) * 4, messages.Outcome(7), rows=4))
    assert title == "7 of 20 calls in a row, 2.9x fewer" and detail.startswith("4 steps in each call, on cuda:0")


def test_cores_that_take_turns_are_slower_and_the_card_says_what_helps() -> None:
    title, detail, advice = _lines(cards.card_of(core.plan(20, 4, 4), _devices(1), messages.Outcome(7)))
    assert title == "28 calls in a row instead of 20, slower than one core"
    assert "take turns on cuda:0" in detail and advice == "set cores to 0 for the fastest choice"


@pytest.mark.parametrize(("steps", "told"), [(1, "1 step, as in KSampler"), (20, "20 steps, as in KSampler")])
def test_what_ksampler_does_is_called_so(steps: int, told: str) -> None:
    title, detail, _ = _lines(cards.card_of(core.plan(steps, 1), _devices(1)))
    assert title == told and "with one device" in detail


def test_a_run_that_a_user_ended_tells_its_own_calls() -> None:
    chosen = core.plan(50, 4, 4, accept="exact", method="chords")
    title, detail, _ = _lines(cards.card_of(chosen, _devices(4), messages.Outcome(20, by_request=True)))
    assert title == "20 of 50 calls in a row, 2.5x fewer" and "ended early by request" in detail
    assert "result after 20 model calls, by request" in messages.describe(
        chosen, _devices(4), messages.Outcome(20, by_request=True)
    )


@pytest.mark.parametrize("steps", [1, 2, 4, 20, 50])
@pytest.mark.parametrize("method", [None, "chords", "secant"])
@pytest.mark.parametrize("accept", [None, 1, 3, "exact"])
@pytest.mark.parametrize("tolerance", [None, 0.01])
def test_every_plan_has_a_card_whose_figures_agree(steps: int, method: Any, accept: Any, tolerance: Any) -> None:
    if tolerance is not None and (accept is not None or method == "chords"):
        return
    for lanes, cores in ((1, 0), (2, 0), (8, 0), (8, 1), (2, 2), (1, 8), (8, 64)):
        chosen = core.plan(steps, lanes, cores, accept=accept, method=method, tolerance=tolerance)
        for devices in {1, chosen.cores}:
            for outcome in (None, messages.Outcome(chosen.depth, 0.01)):
                card = cards.card_of(chosen, _devices(devices), outcome)
                title, detail, _ = _lines(card)
                told = json.dumps(card.encoded())
                assert not any(word in f"{title} {detail}" for word in ("{", "None", "()", " 0 ", "Cause")), told
                calls = chosen.depth * -(-chosen.cores // devices)
                assert ("fewer" in title) == (f"{calls} of {steps}" in title and calls < steps)
                assert ("slower" in title) == (chosen.cores > 1 and calls > steps)


def test_a_phrase_is_its_english_text_and_keeps_what_it_is_made_of() -> None:
    inner = phrases.counted_phrase(2, "1 step", "{count} steps")
    phrase = phrases.Phrase("a schedule of {steps} on {device}", steps=inner, device="{cpu}")
    assert phrase == "a schedule of 2 steps on {cpu}" == copy.deepcopy(phrase)
    card = phrases.Card((phrase,), ("as it is",))
    expected = ["a schedule of {steps} on {device}", {"steps": ["{count} steps", {"count": 2}], "device": "{cpu}"}]
    assert json.loads(json.dumps(card.encoded())) == {"title": [expected], "detail": ["as it is"], "advice": []}


def test_a_text_without_a_card_ends_its_title_with_its_first_colon() -> None:
    assert phrases.Card.of_text("failed: a: b") == phrases.Card(("failed",), ("a: b",))
    assert phrases.Card.of_text("cancelled") == phrases.Card(("cancelled",))
