"""Bad arguments are refused by name before the model is called. Bad answers of the model are named too."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from chords_core import (
    Aesthetic,
    Combine,
    Contrast,
    Device,
    InlinePool,
    InvalidInput,
    LaneTimeouts,
    Link,
    NonFiniteDenoised,
    Preference,
    Reference,
    RegionBrightness,
    RegionColour,
    Residual,
    Sharpness,
    Similarity,
    Style,
    ThreadPool,
    Through,
    authors_starts,
    check_sigmas,
    check_starts,
    choose_initial_noise,
    expected_seconds,
    lattice_starts,
    optimize_latent,
    plan,
    sample,
    simulate,
    skeleton,
)
from tests.core.problems import Counted, geometric, noise, nonlinear

GOOD: dict[str, Any] = {"x": noise(4), "sigmas": geometric(12)}


def sigmas(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


BAD: list[tuple[str, dict[str, Any]]] = [
    ("starts", {"starts": [0, 5, 5]}),
    ("starts", {"starts": [0, 6, 3]}),
    ("starts", {"starts": [0, 4, 12]}),
    ("starts", {"starts": [0, 4, 100]}),
    ("starts", {"starts": [1, 4, 8]}),
    ("starts", {"starts": [-1, 0, 4]}),
    ("starts", {"starts": []}),
    ("starts", {"starts": [0.0, 4.0]}),
    ("starts", {"starts": [0, 4.5]}),
    ("starts", {"starts": ["0", "4"]}),
    ("starts", {"starts": 4}),
    ("starts", {"starts": [0, 4], "cores": 3}),
    ("starts", {"starts": [0, 4, 8], "cores": 2}),
    ("starts", {"starts": [0], "method": "sequential"}),
    ("sigmas", {"sigmas": sigmas(1, 2, 3)}),
    ("sigmas", {"sigmas": sigmas(3, 2, 2, 1)}),
    ("sigmas", {"sigmas": sigmas(3, 1, 2, 0)}),
    ("sigmas", {"sigmas": sigmas(3, 2, -1)}),
    ("sigmas", {"sigmas": sigmas(3, 2, 1).reshape(1, 3)}),
    ("sigmas", {"sigmas": torch.tensor(3.0)}),
    ("sigmas", {"sigmas": sigmas(3)}),
    ("sigmas", {"sigmas": sigmas()}),
    ("sigmas", {"sigmas": sigmas(3, float("nan"), 1)}),
    ("sigmas", {"sigmas": sigmas(float("nan"), 2, 1)}),
    ("sigmas", {"sigmas": sigmas(float("inf"), 2, 1)}),
    ("solver", {"solver": "eular"}),
    ("solver", {"solver": ""}),
    ("method", {"method": "parallel"}),
    ("method", {"method": ""}),
    ("accept", {"accept": 0}),
    ("accept", {"accept": -1}),
    ("accept", {"accept": 2}),
    ("accept", {"accept": 4, "cores": 3}),
    ("accept", {"accept": 4, "starts": [0, 4, 8]}),
    ("accept", {"accept": "fastest"}),
    ("accept", {"accept": 1.0}),
    ("accept", {"accept": True}),
    ("accept", {"accept": None}),
    ("cores", {"cores": 0}),
    ("cores", {"cores": -2}),
    ("cores", {"cores": 2.0}),
    ("cores", {"cores": "2"}),
    ("cores", {"cores": True}),
    ("cores", {"cores": None}),
    ("cores", {"cores": 4, "method": "sequential"}),
    ("method", {"method": "foo", "solver": "cubic"}),
    ("solver", {"method": "picard", "solver": "cubic"}),
    ("calls", {"calls": 5.5}),
    ("calls", {"calls": 1}),
    ("calls", {"calls": 13}),
    ("calls", {"calls": 10**400}),
    ("accept", {"accept": 10**400}),
    ("starts", {"starts": [0, True]}),
    ("starts", {"starts": [0, 10**400]}),
    ("sigmas", {"sigmas": torch.tensor([3, 2, 1])}),
    ("rounds", {"rounds": 5}),
    ("rounds", {"rounds": 5, "method": "sequential"}),
    ("x", {"x": torch.arange(4)}),
    ("x", {"x": torch.tensor([True, False])}),
]


@pytest.mark.parametrize(("name", "wrong"), BAD, ids=lambda value: value if isinstance(value, str) else str(value))
def test_refused_by_name_before_any_call(name: str, wrong: dict[str, Any]) -> None:
    """InvalidInput names the argument, in its message and as an attribute, and the model was never called."""
    model = Counted()
    arguments = {**GOOD, **wrong}
    with pytest.raises(InvalidInput, match=f"^{name}: .") as raised:
        sample(model, arguments.pop("x"), arguments.pop("sigmas"), **arguments)
    assert raised.value.name == name
    assert isinstance(raised.value, ValueError)
    with ThreadPool([model]) as pool, pytest.raises(InvalidInput):
        arguments = {**GOOD, **wrong}
        sample(model, arguments.pop("x"), arguments.pop("sigmas"), pool=pool, **arguments)
    assert model.calls == 0


def features(pictures: Tensor) -> Tensor:
    return pictures.flatten(1)


def two_items(x: Tensor, sigma: float) -> Tensor:
    raise AssertionError("the model was called")


NAN, INFINITY = float("nan"), float("-inf")
NUMBERS_OF_OTHERS = [np.int64(3), np.float32(3), torch.tensor(3), torch.ones(2)]
ODD: list[Any] = ["x", b"x", 2.5, True, None, NAN, INFINITY, -1, *NUMBERS_OF_OTHERS, [], ["x"], {}, object()]
"""Values of every kind. An argument takes none of them that it does not name."""

SAMPLED = {"denoise": two_items, "x": noise(2, 3), "sigmas": geometric(12)}
OPTIMISED = {**SAMPLED, "objective": features}
CHOSEN = {**SAMPLED, "candidates": noise(2, 1, 3), "objective": features}
del CHOSEN["x"]

TAKES: list[tuple[Callable[..., Any], dict[str, Any], str, tuple[type, ...]]] = [
    *((sample, SAMPLED, name, ()) for name in ("sigmas", "method", "cores", "solver", "accept")),
    *((call, given, "x", (Tensor,)) for call, given in ((sample, SAMPLED), (optimize_latent, OPTIMISED))),
    *((sample, SAMPLED, name, (type(None),)) for name in ("starts", "calls", "rounds")),
    *((sample, SAMPLED, name, (type(None),)) for name in ("pool", "on_event", "cancel", "timeouts")),
    *((sample, {**SAMPLED, "method": "secant"}, name, (type(None),)) for name in ("calls", "rounds", "starts")),
    *((sample, {**SAMPLED, "method": "secant"}, name, ()) for name in ("cores", "solver", "denoise")),
    *((optimize_latent, OPTIMISED, name, ()) for name in ("sigmas", "objective", "iterations", "denoise")),
    *((optimize_latent, OPTIMISED, name, ()) for name in ("gradient", "refresh", "solver", "regularise", "cores")),
    *((optimize_latent, OPTIMISED, name, (type(None),)) for name in ("on_event", "cancel", "patience", "pool")),
    (optimize_latent, OPTIMISED, "keep", (type(None),)),
    (optimize_latent, OPTIMISED, "condition", (type(None), Tensor)),
    (optimize_latent, OPTIMISED, "lr", (float,)),
    (optimize_latent, OPTIMISED, "checkpoint", (bool,)),
    *((choose_initial_noise, CHOSEN, name, ()) for name in ("denoise", "candidates", "sigmas", "objective", "solver")),
    *((choose_initial_noise, CHOSEN, name, (type(None),)) for name in ("on_sampled", "cancel")),
    *((simulate, {"method": skeleton(12, (0,)), "devices": [Device(1.0)]}, name, ()) for name in ("method", "devices")),
    *((plan, {"steps": 20, "lanes": 4}, name, ()) for name in ("steps", "lanes", "cores", "solver")),
    *((plan, {"steps": 20, "lanes": 4}, name, (type(None),)) for name in ("accept", "calls", "method")),
    *((lattice_starts, {"steps": 12, "cores": 3}, name, ()) for name in ("steps", "cores", "q")),
    *((authors_starts, {"steps": 12, "cores": 4}, name, ()) for name in ("steps", "cores")),
    *((check_starts, {"steps": 12, "starts": [0, 4]}, name, ()) for name in ("steps", "starts")),
    (expected_seconds, {"plans": [], "devices": [Device(1.0)]}, "devices", ()),
    (Device, {"seconds": 1.0}, "link", ()),
    *((Device, {"seconds": 1.0}, name, (float,)) for name in ("seconds", "jitter", "dies_at", "hangs_at")),
    *((Link, {"name": "a"}, name, (float,)) for name in ("latency", "bandwidth")),
    *((LaneTimeouts, {}, name, (float,)) for name in ("floor", "factor", "first")),
    (Combine, {}, "terms", ()),
    *((Reference, {"reference": torch.ones(1, 3)}, name, ()) for name in ("p",)),
    *((Similarity, {"extract": features, "target": torch.ones(3)}, name, ()) for name in ("extract",)),
    (Style, {"target": torch.ones(1, 2, 3)}, "extract", ()),
    (RegionColour, {}, "colour", ()),
    (RegionColour, {"colour": (0, 0, 1)}, "mask", (type(None),)),
    (RegionBrightness, {}, "brightness", ()),
    *((kind, {}, "target", (type(None), float)) for kind in (Contrast, Sharpness)),
    (Aesthetic, {"layers": ((torch.ones(1, 3), None),)}, "extract", ()),
    *((Aesthetic, {"extract": features}, name, ()) for name in ("layers",)),
    (Aesthetic, {"extract": features, "layers": ((torch.ones(1, 3), None),)}, "activation", ()),
    (Preference, {"layers": ((torch.ones(1, 3), None),)}, "extract", ()),
    (Preference, {"extract": features}, "layers", ()),
    (Preference, {"extract": features, "layers": ((torch.ones(1, 3), None),)}, "activation", ()),
    *(
        (Preference, {"extract": features, "layers": ((torch.ones(1, 3), None),)}, name, (type(None), Tensor))
        for name in ("text", "over")
    ),
    (Through, {"objective": features}, "transform", ()),
    (Through, {"transform": features}, "objective", ()),
]


@pytest.mark.parametrize(
    ("call", "arguments", "name", "kinds"),
    TAKES,
    ids=lambda value: value.__name__ if callable(value) else str(value)[:12],
)
def test_whatever_is_given_is_taken_or_refused_by_name(
    call: Callable[..., Any], arguments: dict[str, Any], name: str, kinds: tuple[type, ...]
) -> None:
    """The message is a line of moderate length, before any model call. ``kinds``: the types of `ODD` that are
    allowed."""
    for odd in ODD:
        if isinstance(odd, kinds):
            continue
        with pytest.raises(InvalidInput) as raised:
            call(**{**arguments, name: odd})
            pytest.fail(f"{name}={odd!r} was taken")
        assert raised.value.name == name and str(raised.value).startswith(f"{name}: ")
        assert len(str(raised.value)) < 250


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([3, 2, 2, 1, 1], "strictly descending; values 2 and 3 of 5 are 2.0 and 2.0"),
        ([3, 2, 1, 1.5, 0.5, 0.7], "strictly descending; values 3 and 4 of 6 are 1.0 and 1.5"),
        ([3, 2, float("nan"), 1], "finite; values 2 and 3 of 4 are 2.0 and nan"),
        ([float("nan"), 2, 1], "finite; values 1 and 2 of 3 are nan and 2.0"),
        ([float("inf"), 2, 1], "finite; values 1 and 2 of 3 are inf and 2.0"),
        ([2, 2, float("nan")], "strictly descending; values 1 and 2 of 3 are 2.0 and 2.0"),
        ([1, 0, -0.5, -1], "not be negative; values 2 and 3 of 4 are 0.0 and -0.5"),
        ([*(1 - k / 200 for k in range(100)), *(1 - k / 200 for k in range(99, 200)), 0.0],
         "strictly descending; values 100 and 101 of 202 are 0.505 and 0.505"),
    ],
)  # fmt: skip
def test_of_a_schedule_the_first_pair_that_is_wrong_is_named(values: list[float], said: str) -> None:
    """The message has its place, counted from 1, and does not grow with the schedule."""
    with pytest.raises(InvalidInput, match=f"^sigmas: must .*{re.escape(said)}$") as raised:
        check_sigmas(sigmas(*values))
    assert len(str(raised.value)) < 120


@pytest.mark.parametrize("threads", [False, True], ids=["inline", "thread"])
@pytest.mark.parametrize(
    "answer", [None, 1.0, "x", [1.0], noise(4).numpy(), (noise(4),), torch.ones(4, dtype=torch.int64),
               torch.ones(4, dtype=torch.bool), torch.ones(4, dtype=torch.complex64)],
    ids=lambda answer: str(getattr(answer, "dtype", type(answer).__name__)),
)  # fmt: skip
def test_an_answer_that_is_no_floating_point_tensor_is_refused(answer: Any, threads: bool) -> None:
    """The message names the model, with one lane and with several."""
    with ThreadPool([lambda x, sigma: answer] * 2) as lanes, pytest.raises(InvalidInput, match="^denoise: ."):
        sample(None, **GOOD, pool=lanes if threads else InlinePool(lambda x, sigma: answer))


def test_a_closed_pool_is_refused() -> None:
    """Its lanes have ended, so they would never answer."""
    pool = ThreadPool([nonlinear])
    pool.close()
    with pytest.raises(InvalidInput, match="^pool: is closed"):
        sample(None, **GOOD, pool=pool)


@pytest.mark.parametrize("denoisers", [nonlinear, "x", None, [nonlinear, None], (3,), {}, 2])
def test_a_thread_pool_takes_a_list_of_functions(denoisers: Any) -> None:
    with pytest.raises(InvalidInput, match="^pool: "):
        ThreadPool(denoisers)


@pytest.mark.parametrize("threshold", [0, 0.0, -1e-3, float("nan"), float("inf"), "1", None, True, torch.tensor(1.0)])
def test_residual_threshold_must_be_positive(threshold: float) -> None:
    """A rule that no hit, or any hit, would pass is refused where it is made."""
    with pytest.raises(InvalidInput, match="^accept: "):
        Residual(threshold)


def test_a_model_or_a_pool_is_needed() -> None:
    """Lanes have models of their own, so ``denoise`` is needed only without a pool."""
    with pytest.raises(InvalidInput, match="^denoise: "):
        sample(None, **GOOD)
    with ThreadPool([nonlinear]) as pool:
        assert torch.equal(sample(None, **GOOD, pool=pool).x, sample(nonlinear, **GOOD).x)


def test_a_pool_needs_a_lane() -> None:
    """A pool without lanes is refused where it is made."""
    with pytest.raises(InvalidInput, match="^pool: "):
        ThreadPool([])


def test_bounds_are_allowed() -> None:
    """Values just inside the limits run: the last index as a start, one step, a schedule that ends at 0."""
    x = noise(4)
    assert sample(nonlinear, x, geometric(12), starts=[0, 11]).depth == 2
    assert sample(nonlinear, x, sigmas(1, 0), cores=8, accept=8).evaluations == 1
    assert sample(nonlinear, x, geometric(3), cores=8, accept="exact").depth == 3
    assert sample(nonlinear, x, geometric(12), starts=[0, 4, 8], accept=3).depth == 12
    assert sample(nonlinear, x, geometric(12), starts=[0, 4, 8], cores=3).depth == 6
    assert sample(nonlinear, x, geometric(12), method="sequential", accept="exact").depth == 12


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(("index", "core"), [(0, 1), (1, 1), (4, 2), (8, 3), (9, 3)])
@pytest.mark.parametrize("threads", [False, True], ids=["inline", "thread"])
def test_a_broken_model_is_named(value: float, index: int, core: int, threads: bool) -> None:
    """One NaN or infinity ends the run. The message names its core and its step, counted from 1."""
    grid = geometric(12)

    class Broken(Counted):
        def call(self, number: int, x: Tensor, sigma: float) -> Tensor:
            denoised = nonlinear(x, sigma)
            if sigma == float(grid[index]):
                denoised[2] = value
            return denoised

    model = Broken()
    with ThreadPool([model]) as lanes, pytest.raises(NonFiniteDenoised) as raised:
        sample(model, noise(4), grid, starts=[0, 4, 8], pool=lanes if threads else InlinePool(model))
    assert (raised.value.core, raised.value.index) == (core, index)
    assert raised.value.sigma == float(grid[index])
    assert f"core {core}" in str(raised.value) and f"step {index + 1} of 12" in str(raised.value)
    assert model.active == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_large_values_are_not_taken_for_infinity(dtype: torch.dtype) -> None:
    """Finite values pass, however large they are. Their sum may overflow, but it does not count."""
    largest = torch.full((100,), torch.finfo(dtype).max, dtype=dtype)
    result = sample(lambda x, sigma: largest, largest.clone(), torch.tensor([1.0, 0.0]))
    assert torch.equal(result.x, largest)


def test_opposite_infinities_are_found() -> None:
    """Infinities of both signs do not cancel."""
    broken = torch.tensor([float("inf"), float("-inf"), 1.0])
    with pytest.raises(NonFiniteDenoised, match="core 1 at step 1 of 1"):
        sample(lambda x, sigma: broken, torch.zeros(3), torch.tensor([1.0, 0.0]))


def test_a_broken_model_stops_all_lanes() -> None:
    """When the error arrives no lane is at work any more, and the pool still works."""
    grid = geometric(12)

    class Broken(Counted):
        def call(self, number: int, x: Tensor, sigma: float) -> Tensor:
            return x * float("nan") if sigma == float(grid[1]) else nonlinear(x, sigma)

    model = Broken()
    with ThreadPool([model] * 3) as pool:
        with pytest.raises(NonFiniteDenoised, match="core 1 at step 2 of 12"):
            sample(model, noise(4), grid, starts=[0, 4, 8], pool=pool)
        calls = model.calls
        assert model.active == 0
        sample(model, noise(4), grid[2:], starts=[0, 4, 8], pool=pool)
        assert model.calls > calls


def test_denoise_of_another_shape_is_refused() -> None:
    """A result of another shape is named at once. It is not broadcast to the shape of the state."""
    x, sigmas = torch.ones(2, 3), torch.tensor([1.0, 0.5, 0.0])
    with pytest.raises(InvalidInput, match=r"denoise: returned shape \(3,\) for x of shape \(2, 3\)"):
        sample(lambda x, sigma: x[0], x, sigmas)
    with pytest.raises(InvalidInput, match="sigmas: must be a tensor, not list"):
        sample(lambda x, sigma: x, x, [1.0, 0.0])
