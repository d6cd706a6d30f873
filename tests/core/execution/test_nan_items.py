"""With NaN or infinity in one item of a batch only that item is lost. If only one lane gives them, the lane is lost."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor

from chords_core import (
    Denoise,
    Evaluated,
    Event,
    InlinePool,
    LaneFaulty,
    LaneLost,
    LaneTimeouts,
    NonFiniteDenoised,
    Residual,
    Result,
    ThreadPool,
    sample,
)
from chords_core.solvers import SOLVERS
from tests.core.problems import Counted, Gaussian, assert_same, geometric, noise

STEPS = 12
SIGMAS = geometric(STEPS)
X = noise(3, 5, scale=10.0)
MODEL = Gaussian()  # it computes each element by itself

METHODS: list[dict[str, Any]] = [
    {},
    {"cores": 4},
    {"cores": 4, "accept": "exact"},
    {"starts": [0, 3, 6, 8], "accept": 2},
    {"cores": 3, "method": "secant"},
    {"cores": 3, "method": "picard"},
    {"calls": 6},
    {"cores": 3, "calls": 6},
    {"cores": 3, "method": "secant", "calls": 6},
]


class Breaks:
    """Gives ``value`` in an element of an item, from sigma index ``index`` on."""

    def __init__(self, item: int, index: int, value: float = float("nan")) -> None:
        self._item, self._sigma, self._value = item, float(SIGMAS[index]), value

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        denoised = MODEL(x, sigma)
        if sigma <= self._sigma:
            denoised[self._item, 2] = self._value
        return denoised


def assert_others_same(result: Result, expected: Result, broken: int) -> None:
    """All items except the broken one have the same bits in every hit; the broken one is not finite."""
    others = [item for item in range(len(X)) if item != broken]
    assert (result.depth, len(result.hits)) == (expected.depth, len(expected.hits))
    for hit, sound in zip(result.hits, expected.hits, strict=True):
        assert torch.equal(hit.x[others], sound.x[others])
    assert not torch.isfinite(result.x[broken]).all()


@pytest.mark.parametrize("lanes", [None, 1, 3])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("index", [0, 3])
@pytest.mark.parametrize("arguments", METHODS, ids=str)
def test_the_other_items_go_on(arguments: dict[str, Any], index: int, value: float, lanes: int | None) -> None:
    """They have the same bits as in a run without NaN, for every method and any number of lanes."""
    model = Breaks(1, index, value)
    expected = sample(MODEL, X, SIGMAS, **arguments)
    with ThreadPool([model] * (lanes or 1)) as threads:
        pool = InlinePool(model) if lanes is None else threads
        assert_others_same(sample(None, X, SIGMAS, pool=pool, **arguments), expected, 1)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("cores", [1, 3])
def test_of_every_solver(solver: str, cores: int) -> None:
    expected = sample(MODEL, X, SIGMAS, solver=solver, cores=cores)
    assert_others_same(sample(Breaks(0, 2), X, SIGMAS, solver=solver, cores=cores), expected, 0)


@pytest.mark.parametrize("lanes", [None, 3])
def test_an_item_that_is_nan_from_the_start(lanes: int | None) -> None:
    """Nothing is evaluated twice: no lane is the cause of the NaN."""
    x, model = X.clone(), Counted(MODEL)
    x[2, 0] = float("nan")
    with ThreadPool([model] * (lanes or 1)) as threads:
        result = sample(None, x, SIGMAS, cores=4, accept="exact", pool=threads if lanes else InlinePool(model))
    expected = sample(MODEL, X, SIGMAS, cores=4, accept="exact")
    assert_others_same(result, expected, 2)
    assert model.calls == expected.evaluations


def test_a_residual_counts_the_items_that_are_finite() -> None:
    """As in a batch without other items."""
    whole, rest = X, X[[0, 2]]
    for threshold in (1e9, 1e-2, 1e-3, 1e-300):
        broken = sample(Breaks(1, 0), whole, SIGMAS, cores=4, accept=Residual(threshold))
        sound = sample(MODEL, rest, SIGMAS, cores=4, accept=Residual(threshold))
        assert (broken.depth, len(broken.hits)) == (sound.depth, len(sound.hits))
        assert torch.equal(broken.x[[0, 2]], sound.x)
    assert not Residual(1e9).accepts(torch.full((2, 3), float("nan")), torch.zeros(2, 3))
    assert not Residual(1e9).accepts(torch.full((3,), float("nan")), torch.zeros(3))


@pytest.mark.parametrize("lanes", [None, 1, 3])
@pytest.mark.parametrize("shape", [(5,), (1, 5), (3, 5)])
def test_nan_in_every_item_is_an_error(shape: tuple[int, ...], lanes: int | None) -> None:
    """The error names the step. An x of one dimension is one item. Another lane is asked first, and no lane is lost."""
    grid, events = geometric(STEPS), list[Event]()

    def broken(x: Tensor, sigma: float) -> Tensor:
        denoised = MODEL(x, sigma)
        if sigma == float(grid[4]):
            denoised[..., 0] = float("nan")
        return denoised

    model = Counted(broken)
    with (
        ThreadPool([model] * (lanes or 1)) as threads,
        pytest.raises(NonFiniteDenoised, match=r"at step 5 of 12") as raised,
    ):
        pool = threads if lanes else InlinePool(model)
        sample(None, noise(*shape, scale=10.0), grid, pool=pool, on_event=events.append)
    assert (raised.value.core, raised.value.index) == (1, 4)
    assert model.calls == 5 + (lanes == 3)
    assert not any(isinstance(event, LaneLost) for event in events)


# --- one lane alone


class AloneWithNaN:
    """Some lanes give NaN in their ``items``, from their call number ``call`` on, ``times`` times."""

    def __init__(self, lanes: int, bad: dict[int, list[int]], call: int = 1, times: int = 1000) -> None:
        self.calls = [0] * lanes
        self._bad, self._call, self._times = bad, call, times
        self.denoisers = [self._denoiser(lane) for lane in range(lanes)]

    def _denoiser(self, lane: int) -> Denoise:
        def denoise(x: Tensor, sigma: float) -> Tensor:
            self.calls[lane] += 1
            denoised = MODEL(x, sigma)
            if lane in self._bad and self._call <= self.calls[lane] < self._call + self._times:
                denoised[self._bad[lane]] = float("nan")
            return denoised

        return denoise


@pytest.mark.parametrize("call", [1, 2, 4])
@pytest.mark.parametrize("times", [1, 1000])
@pytest.mark.parametrize("items", [[1], [0, 1, 2]], ids=["one item", "all items"])
@pytest.mark.parametrize("bad", [(0,), (1,)])
def test_a_lane_alone_with_nan_is_lost(bad: tuple[int, ...], items: list[int], times: int, call: int) -> None:
    """Once is enough, because its other answers may be wrong too. The result is that of the other lanes."""
    expected = sample(MODEL, X, SIGMAS, starts=[0, 3, 6, 8], accept="exact")
    faulty, events = AloneWithNaN(3, dict.fromkeys(bad, items), call, times), list[Event]()
    with ThreadPool(faulty.denoisers) as pool:
        result = sample(None, X, SIGMAS, starts=[0, 3, 6, 8], accept="exact", pool=pool, on_event=events.append)
    assert torch.equal(result.x, expected.x)
    assert all(torch.equal(hit.x, sound.x) for hit, sound in zip(result.hits, expected.hits, strict=True))
    lost = [(place, event) for place, event in enumerate(events) if isinstance(event, LaneLost)]
    assert {event.lane for _, event in lost} <= set(bad)
    assert len(lost) == len({event.lane for _, event in lost})
    assert all(isinstance(event.error, LaneFaulty) for _, event in lost)
    if times > 1 and call == 1:
        assert {event.lane for _, event in lost} == set(bad)
    for place, event in lost:
        assert all(later.lane != event.lane for later in events[place:] if isinstance(later, Evaluated))


def test_two_lanes_with_nan_in_different_items() -> None:
    """Each item is taken from the lane where it is finite."""
    with ThreadPool(AloneWithNaN(2, {0: [0], 1: [2]}).denoisers) as pool:
        result = sample(None, X, SIGMAS, cores=4, accept="exact", pool=pool)
    assert torch.equal(result.x, sample(MODEL, X, SIGMAS, cores=4, accept="exact").x)


@pytest.mark.parametrize("others", ["raise", "hang"])
def test_nan_counts_when_no_other_lane_is_left_to_ask(others: str) -> None:
    """The other lane fails or hangs: the run goes on with the first answer."""
    over = threading.Event()

    def other(x: Tensor, sigma: float) -> Tensor:
        if others == "raise":
            raise RuntimeError("broken")
        assert over.wait(120)
        return MODEL(x, sigma)

    expected = sample(MODEL, X, SIGMAS, cores=4)
    timeouts = LaneTimeouts(floor=0.05, factor=3.0, first=0.05)
    with ThreadPool([Breaks(1, 0), other]) as pool:
        result = sample(None, X, SIGMAS, cores=4, pool=pool, timeouts=timeouts)
        over.set()
        threads = pool._threads
    for thread in threads:
        thread.join(60)
    assert_others_same(result, expected, 1)


def test_sound_lanes_are_asked_once() -> None:
    """Without NaN nothing is evaluated twice."""
    model = Counted(MODEL)
    with ThreadPool([model] * 3) as pool:
        result = sample(None, X, SIGMAS, cores=4, pool=pool)
    assert_same(result, sample(MODEL, X, SIGMAS, cores=4))
    assert model.calls == result.evaluations
