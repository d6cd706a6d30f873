"""Phrases keep what they are made of on their way to a page: through lists, errors, pickles and other processes."""

from __future__ import annotations

import copy
import json
import pickle
import re
from typing import Any

import pytest
from pack_modules import REPO, module

core = module("chords_core")
cards = module("nodes.host.sampling.status_card")
known = module("nodes.host.known_sentences")
messages = module("nodes.host.sampling.messages")
phrases = module("nodes.host.phrases")

JAPANESE = json.loads((REPO / "locales" / "ja" / "main.json").read_text(encoding="utf-8"))["chords_run"]


def _in_japanese(text: Any) -> str:
    """As a page puts it together: see `web/node_text.js`."""
    if not isinstance(text, phrases.Phrase):
        return str(text)
    values = {name: _in_japanese(value) for name, value in text.values.items()}
    return JAPANESE[text.template].format(**values)


def test_sentences_and_names_are_put_together_as_phrases() -> None:
    name = phrases.Phrase("an entry of a list")
    assert phrases.listed(["x"]) == "x" and phrases.in_turn([name]) is name
    several = phrases.listed(["x", name, "y"])
    assert several == "x, an entry of a list, y" and _in_japanese(several) == "x、リストの要素、y"
    lost = phrases.in_turn([phrases.Phrase("no answer for {seconds} s", seconds="3"), "gone"])
    assert lost == "no answer for 3 s; gone" and _in_japanese(lost) == "3秒間応答がありません。gone"


@pytest.mark.parametrize("error", [RuntimeError, TimeoutError])
def test_an_error_says_the_phrase_that_it_was_raised_with(error: type[Exception]) -> None:
    phrase = phrases.Phrase("{device} has not answered for {seconds} s", device="cuda:1", seconds="3")
    assert phrases.message_of(error(phrase)) is phrase
    assert phrases.message_of(error("gone")) == "gone" and phrases.message_of(error()) == error.__name__
    assert phrases.message_of(core.InvalidInput("sigmas", "must fall")) == "sigmas: must fall"


def test_a_phrase_stays_one_in_copies_and_in_other_processes() -> None:
    inner = phrases.Phrase("the model patch {kind} ({path})", kind="f", path="patches")
    outer = phrases.Phrase("{name} keeps state from call to call", name=inner)
    for same in (copy.deepcopy(outer), pickle.loads(pickle.dumps(outer))):
        assert same == outer and _in_japanese(same) == "モデルのパッチf（patches）は呼び出しをまたいで状態を保持します"


def test_a_shortened_phrase_stays_one_and_keeps_its_end() -> None:
    short = phrases.shortened(phrases.Phrase("changes {code} in place", code="first\n  second third"), 34)
    assert short == "changes first second... in place"
    assert _in_japanese(short) == "first second...を直接変更"
    assert phrases.shortened(phrases.Phrase("writes to {code}", code=100 * "x"), 30) == "writes to ..."
    for text in ("two\nlines", phrases.Phrase("a generator")):
        assert phrases.shortened(text, 30) == " ".join(text.split())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, ("a", 1), object])
def test_a_card_is_json_whatever_its_values_are(value: Any) -> None:
    """A function of another pack may have anything as its name. Pages cannot read NaN."""
    card = phrases.Card((phrases.Phrase("the guider {guider}", guider=value),), ("plain",))
    encoded = json.loads(json.dumps(card.encoded(), allow_nan=False))
    assert encoded["title"] == [["the guider {guider}", {"guider": str(value)}]] and encoded["detail"] == ["plain"]


@pytest.mark.parametrize("template", known._KNOWN_SENTENCES)
def test_a_known_sentence_is_found_by_its_form(template: str) -> None:
    values = {
        "rows": 8,
        "lane": 2,
        "tokens": 3,
        "devices": 4,
        "iterations": 5,
        "count": 6,
        "seconds": "30",
        "share": "3.0%",
        "address": "a:1",
    }
    values |= dict.fromkeys(("name", "names", "error", "reason", "need", "types", "task", "reached"), "Some Thing")
    text = template.format(**values, network="Flux")
    found = known.phrase_of(text)
    assert (found, found.template) == (text, template)
    assert known.phrase_of(found) is found


def test_any_other_text_stays_as_it_is() -> None:
    for text in ("CUDA error: out of memory", "", "a {brace}", "many rows do not fit in memory", "two\nlines"):
        found = known.phrase_of(text)
        assert found == text and found.template == "{text}" and _in_japanese(found) == text


def test_errors_of_the_core_are_known_and_so_are_sentences_within_them() -> None:
    failed = known.phrase_of(str(core.RowsFailed(8, RuntimeError("4 rows do not fit in memory"))))
    assert failed == "a call of 8 rows failed: 4 rows do not fit in memory"
    assert _in_japanese(failed) == "8行の呼び出しに失敗しました：4行はメモリに収まりません"
    other = known.phrase_of("its result differs by 3.0%")
    assert _in_japanese(other) == "結果の差が3.0%あります"


def test_reasons_of_several_workers_are_each_a_sentence() -> None:
    late = "the worker ray:a/0: it did not load the model within 60 s; it goes on, and takes part in a later run"
    broken = "the worker ray:b/1: ValueError: shapes: 3 and 4; retry"
    told = known.phrase_of_workers(f"{late}; {broken}")
    assert told == f"{late}; {broken}"
    assert _in_japanese(told) == (
        "ワーカーray:a/0：モデルの読み込みが60秒以内に終わりませんでした。処理は続き、後の実行から参加します。"
        "ワーカーray:b/1：ValueError: shapes: 3 and 4; retry"
    )
    assert known.phrase_of_workers(told) is told
    lost = known.phrase_of_workers("Ray could not be reached at 10.0.0.1:6379: it has not answered within 20 s")
    assert _in_japanese(lost) == (
        "Rayを使えません。10.0.0.1:6379への接続に失敗しました：20秒以内に応答がありませんでした"
    )


def test_a_plan_that_is_one_core_for_a_reason_says_it_in_the_language_of_the_page() -> None:
    name = phrases.Phrase("the guider {guider}", guider="Mine")
    reason = phrases.Phrase("{name} keeps state from call to call", name=name)
    card = cards.card_of(core.SequentialPlan(20, (reason,)), ("cuda:0",))
    told = [_in_japanese(text) for text in (*card.title, *card.detail, *card.advice)]
    assert told[-1] == "ガイダーMineは呼び出しをまたいで状態を保持します"
    assert not any(word in " ".join(told) for word in ("step", "core", "state"))


@pytest.mark.parametrize("method", [None, "chords", "secant"])
@pytest.mark.parametrize("accept", [None, 1, "exact"])
def test_the_message_of_a_run_is_a_phrase_to_its_last_word(method: Any, accept: Any) -> None:
    """It stands in the verdict of a benchmark, and in the Report of a run without a card."""
    for lanes, cores in ((1, 0), (1, 8), (8, 0), (8, 1), (2, 2)):
        chosen = core.plan(20, lanes, cores, accept=accept, method=method)
        for outcome in (None, messages.Outcome(9, 0.01), messages.Outcome(20, by_request=True)):
            told = _in_japanese(messages.describe(chosen, tuple(f"cuda:{lane}" for lane in range(lanes)), outcome))
            assert not re.search(r"[a-z]+ [a-z]+ [a-z]+|\bcall|\bcore|\bstep", told), told
