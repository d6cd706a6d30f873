"""Which setting a benchmark recommends, and its picture: everything is in its place, for any measurement."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image


@pytest.fixture(scope="module")
def advice(node_module: Callable[[str], ModuleType]) -> ModuleType:
    return node_module("recommendation")


@pytest.fixture(scope="module")
def comparison(node_module: Callable[[str], ModuleType]) -> ModuleType:
    return node_module("plots.comparison")


def entry(advice: ModuleType, name: str, *times: float, rmse: float = 0.0, **others: Any) -> Any:
    psnr = 40.0 if rmse else math.inf
    return advice.Entry(name, times, **{"first": times[0], "rmse": rmse, "psnr": psnr, **others})


# --- the recommendation


def test_the_fastest_that_is_close_is_taken(advice: ModuleType) -> None:
    place, told = advice.advise(
        [
            entry(advice, "KSampler", 10.0),
            entry(advice, "far", 2.0, rmse=0.08),
            entry(advice, "near", 5.0, rmse=0.0199),
            entry(advice, "nearer", 6.0, rmse=0.01),
        ]
    )
    assert place == 2 and "near:" in told and "2.00x" in told


def test_where_what_is_faster_differs_too_much_it_is_ksampler_and_the_nearest_is_named(advice: ModuleType) -> None:
    place, told = advice.advise(
        [
            entry(advice, "KSampler", 10.0),
            entry(advice, "far", 2.0, rmse=0.08),
            entry(advice, "edge", 5.0, rmse=0.02),
            entry(advice, "broken", 1.0, rmse=math.nan),
        ]
    )
    assert place == 0 and "looked faster" in told and "edge, 2.00x as fast" in told


def test_where_nothing_is_faster_the_fastest_is_named(advice: ModuleType) -> None:
    place, told = advice.advise([entry(advice, "KSampler", 10.0), entry(advice, "slow", 12.0, rmse=0.01)])
    assert place == 0 and "slow was 0.83x as fast" in told


@pytest.mark.parametrize("times", [(7.0, 7.5, 10.0), (7.0, 7.0, 9.9)])
def test_what_is_faster_but_not_in_each_run_is_told_with_the_reason(
    advice: ModuleType, times: tuple[float, ...]
) -> None:
    ours = entry(advice, "unsteady", *times, rmse=0.01)
    place, told = advice.advise([entry(advice, "KSampler", 10.0, 9.9, 10.1), ours])
    assert place == 0 and re.search(r"unsteady looked 1.\d\dx as fast, but runs overlap: more repeats", told)


def test_what_does_the_same_as_ksampler_gains_nothing_and_its_reason_is_told(advice: ModuleType) -> None:
    one = entry(advice, "automatic", 5.0, saves=False, message="one core: one device")
    place, told = advice.advise([entry(advice, "KSampler", 10.0), one])
    assert place == 0 and "one core: one device" in told


@pytest.mark.parametrize("times", [(9.6, 9.6, 9.6), (4.0, 4.0, 10.0)], ids=["little", "by chance"])
def test_a_gain_within_what_runs_differ_is_none(advice: ModuleType, times: tuple[float, ...]) -> None:
    place, _ = advice.advise([entry(advice, "KSampler", 10.0, 9.9, 10.1), entry(advice, "maybe", *times)])
    assert place == 0


def test_times_that_differ_too_much_by_themselves_are_told(advice: ModuleType) -> None:
    ours = entry(advice, "near", 2.0, rmse=0.01)
    assert "measure while nothing else is running" in advice.advise([entry(advice, "KSampler", 9.0, 5.0, 6.0), ours])[1]
    assert "nothing else" not in advice.advise([entry(advice, "KSampler", 7.0, 5.0, 6.0), ours])[1]


SECONDS = st.lists(st.floats(0.5, 1.5), min_size=1, max_size=4)
OTHERS = st.lists(st.tuples(SECONDS, st.sampled_from([0.0, 0.01, 0.03, math.nan]), st.booleans()), max_size=4)


@given(SECONDS, OTHERS)
def test_a_verdict_agrees_with_its_bars(advice: ModuleType, stock: list[float], others: Any) -> None:
    """The bars show the medians and, as a line, the range of the runs. The picture has the factors to two digits."""
    bars = [entry(advice, "KSampler", *stock)]
    bars += [entry(advice, f"s{n}", *times, rmse=rmse, saves=saves) for n, (times, rmse, saves) in enumerate(others)]
    verdict = advice.verdict_of(bars)
    factors = {bar.name: f"{bars[0].seconds / bar.seconds:.2f}" for bar in bars}
    named = re.findall(r"(s\d)[ :,](?:does the same, and )?(?:was |looked )? ?([\d.]+)x", verdict.advice)
    assert [factors[name] for name, _ in named] == [factor for _, factor in named]
    shorter = [bar for bar in bars[1:] if bar.seconds <= 0.95 * bars[0].seconds]
    lines_apart = [bar for bar in shorter if max(bar.times) < min(stock)]
    good = [bar for bar in lines_apart if bar.saves and bar.rmse < advice.CLOSE]
    assert (verdict.place > 0) == bool(good)
    if good:
        assert bars[verdict.place] is min(good, key=lambda bar: bar.seconds)
        assert verdict.headline == f"{bars[verdict.place].name}: {factors[bars[verdict.place].name]}x as fast"
    if verdict.place == 0:
        assert ("nothing is gained" in verdict.advice) == (not shorter)
        assert bool(named) or not shorter
    for name, _ in named:
        if f"{name} looked" in verdict.advice and "overlap" in verdict.advice:
            assert max(bars[1 + int(name[1:])].times) >= min(stock)


# --- the picture


def _comparison(module: ModuleType, entries: list[Any], best: int = 0, pictures: tuple[Any, ...] = ()) -> Any:
    told = f"Take {entries[best].name}: it is fast, and close to what KSampler gives. " * 2
    about = "model.safetensors Flux (bfloat16), latent 1x16x128x128, euler, 30 steps, on cuda:0 NVIDIA H100 80GB HBM3, "
    return module.Comparison(about * 3, tuple(entries), best, "near: 2.00x as fast", told, pictures)


def _shown(module: ModuleType, count: int, size: tuple[int, int], **others: Any) -> tuple[Any, ...]:
    picture = Image.new("RGB", size, (200, 30, 30))
    return tuple(module.Shown(f"{n} cores, second hit", "1.2 s  ·  3 %", picture, **others) for n in range(count))


def _cases(advice: ModuleType, module: ModuleType) -> dict[str, Any]:
    stock = entry(advice, "KSampler", 12.0, 12.4)
    many = [entry(advice, f"{n} cores, second hit", 60 / n, 64 / n, first=40 / n, rmse=n / 999) for n in range(6, 30)]
    names = ("automatic and much, much longer", "fewer calls")
    return {
        "one": _comparison(module, [stock]),
        "many": _comparison(module, [stock, *many], 3, _shown(module, 12, (1024, 768))),
        "tall": _comparison(module, [stock, many[0]], 1, _shown(module, 3, (64, 512), best=True, also=names)),
        "wide": _comparison(module, [stock, many[0]], 0, _shown(module, 7, (900, 20), also=names)),
        "fast": _comparison(module, [entry(advice, "KSampler", 2e-4), entry(advice, "quick", 1e-6, rmse=1e-7)]),
        "slow": _comparison(module, [entry(advice, "KSampler", 7201.0), entry(advice, "x", 1e4, rmse=40.0)]),
        "not finite": _comparison(module, [stock, entry(advice, "x", 1.0, rmse=math.nan, psnr=math.nan)], 1),
    }


@pytest.mark.parametrize("name", ["one", "many", "tall", "wide", "fast", "slow", "not finite"])
def test_nothing_in_the_picture_overlaps_or_is_cut_or_faint(
    advice: ModuleType, comparison: ModuleType, written: Any, ground: str, name: str
) -> None:
    drawn = comparison.draw_comparison(_cases(advice, comparison)[name])
    assert drawn.mode == "RGB" and drawn.width == 1400
    written.check()


def test_every_row_tells_its_figures(advice: ModuleType, comparison: ModuleType, written: Any) -> None:
    entries = [entry(advice, "KSampler", 10.0), entry(advice, "window", 4.0, first=1.5, rmse=0.013)]
    comparison.draw_comparison(_comparison(comparison, entries, 1))
    for told in ("KSampler", "10 s", "1.00x", "window", "4 s", "2.50x", "1.5 s", "1.3 %", "40.0 dB"):
        assert told in written.texts


def test_gold_marks_what_is_recommended(advice: ModuleType, comparison: ModuleType) -> None:
    """The longer the recommended bar, the more of it."""
    stock = entry(advice, "KSampler", 10.0)
    gold = []
    for seconds in (2.0, 8.0):
        drawn = comparison.draw_comparison(_comparison(comparison, [stock, entry(advice, "x", seconds, rmse=0.1)], 1))
        gold.append({colour: count for count, colour in drawn.getcolors(1 << 24)}[comparison.palette().gold])
    assert gold[1] > 2 * gold[0]
