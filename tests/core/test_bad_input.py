"""What cannot work is refused by name before the model is called; what the model breaks is named too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from chords_core import InlinePool, InvalidInput, NonFiniteDenoised, Residual, ThreadPool, sample
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


@pytest.mark.parametrize("threshold", [0, 0.0, -1e-3, float("nan"), float("inf")])
def test_residual_threshold_must_be_positive(threshold: float) -> None:
    """A rule that nothing or anything would pass is refused where it is made."""
    with pytest.raises(InvalidInput, match="^accept: "):
        Residual(threshold)


def test_a_model_or_a_pool_is_needed() -> None:
    """Lanes have models of their own, so one more is needed only where there is no pool."""
    with pytest.raises(InvalidInput, match="^denoise: "):
        sample(None, **GOOD)
    with ThreadPool([nonlinear]) as pool:
        assert torch.equal(sample(None, **GOOD, pool=pool).x, sample(nonlinear, **GOOD).x)


def test_a_pool_needs_a_lane() -> None:
    """A pool without lanes is refused where it is made."""
    with pytest.raises(InvalidInput, match="^pool: "):
        ThreadPool([])


def test_bounds_are_allowed() -> None:
    """What lies just inside the limits runs: the last index as a start, one step, a schedule ending at 0."""
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
    """One NaN or infinity ends the run with the core and the step that gave it, as a person counts steps."""
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
def test_large_values_are_not_taken_for_broken(dtype: torch.dtype) -> None:
    """Finite values pass however large: their sum may overflow, they do not."""
    largest = torch.full((100,), torch.finfo(dtype).max, dtype=dtype)
    result = sample(lambda x, sigma: largest, largest.clone(), torch.tensor([1.0, 0.0]))
    assert torch.equal(result.x, largest)


def test_opposite_infinities_are_found() -> None:
    """Infinities of both signs do not cancel."""
    broken = torch.tensor([float("inf"), float("-inf"), 1.0])
    with pytest.raises(NonFiniteDenoised, match="core 1 at step 1 of 1"):
        sample(lambda x, sigma: broken, torch.zeros(3), torch.tensor([1.0, 0.0]))


def test_a_broken_model_stops_all_lanes() -> None:
    """With many lanes busy, none is left at work when the error arrives, and the pool works on."""
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
    """A result that would broadcast is no result: it is named at once, not smeared over the state."""
    x, sigmas = torch.ones(2, 3), torch.tensor([1.0, 0.5, 0.0])
    with pytest.raises(InvalidInput, match=r"denoise: returned shape \(3,\) for x of shape \(2, 3\)"):
        sample(lambda x, sigma: x[0], x, sigmas)
    with pytest.raises(InvalidInput, match="sigmas: must be a tensor, not list"):
        sample(lambda x, sigma: x, x, [1.0, 0.0])
