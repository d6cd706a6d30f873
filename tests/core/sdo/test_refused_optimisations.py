"""What cannot be optimised is refused by name, before a model call where that is possible."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from chords_core import InvalidInput, NonFiniteDenoised
from tests.core.problems import Counted, noise
from tests.core.sdo.short_optimisation import (
    MODEL,
    SIZE,
    distance,
    small,
)

BAD: list[tuple[str, dict[str, Any]]] = [
    ("x", {"x": torch.arange(4)}),
    ("x", {"x": torch.tensor(1.0)}),
    ("x", {"x": torch.zeros(0, 3)}),
    ("x", {"x": torch.full((1, 3), float("nan"))}),
    ("x", {"x": [1.0]}),
    ("sigmas", {"sigmas": torch.tensor([1.0, 2.0])}),
    ("sigmas", {"sigmas": torch.tensor([1.0])}),
    ("iterations", {"iterations": 0}),
    ("iterations", {"iterations": 2.5}),
    ("iterations", {"iterations": True}),
    ("lr", {"lr": 0}),
    ("lr", {"lr": -0.1}),
    ("lr", {"lr": float("nan")}),
    ("lr", {"lr": "fast"}),
    ("gradient", {"gradient": "half"}),
    ("refresh", {"refresh": 0}),
    ("refresh", {"refresh": "often"}),
    ("refresh", {"refresh": 1.5}),
    ("solver", {"solver": "eular"}),
    ("regularise", {"regularise": "size"}),
    ("patience", {"patience": 0}),
    ("keep", {"keep": 8}),
    ("keep", {"keep": "first"}),
    ("keep", {"keep": -1}),
    ("keep", {"keep": 0, "cores": 2}),
    ("keep", {"keep": (0, 7), "cores": 2}),
    ("keep", {"keep": (3, 8)}),
    ("keep", {"keep": (3, True)}),
    ("keep", {"keep": (3, "last")}),
    ("keep", {"keep": ()}),
    ("keep", {"keep": None}),
    ("keep", {"keep": 2.0}),
    ("keep", {"keep": 9, "gradient": "full"}),
    ("cores", {"cores": 0}),
    ("condition", {"condition": noise(2, SIZE)}),
    ("condition", {"condition": torch.arange(3)}),
    ("condition", {"condition": noise(3, SIZE), "cores": 2}),
    ("objective", {"objective": None}),
]


@pytest.mark.parametrize(("name", "wrong"), BAD, ids=lambda value: str(value)[:40])
def test_refused_by_name_before_any_call(name: str, wrong: dict[str, Any]) -> None:
    """InvalidInput names the argument, and the model is never called."""
    model = Counted(MODEL)
    with pytest.raises(InvalidInput, match=f"^{name}: .") as raised:
        small(denoise=model, **wrong)
    assert raised.value.name == name
    assert model.calls == 0


@pytest.mark.parametrize("gradient", ["shortcut", "full"])
@pytest.mark.parametrize(
    ("objective", "problem"),
    [
        (lambda x: distance(x).mean(), r"returned shape \(\)"),
        (lambda x: x, r"returned shape \(3, 6\)"),
        (lambda x: distance(x).detach(), "not differentiable"),
        (lambda x: (x > 0).double().mean(1), "not differentiable"),
        (lambda x: torch.ones(3, requires_grad=True) * 2, "not differentiable"),
        (lambda x: distance(x) * float("nan"), "at the initial noise"),
        (lambda x: distance(x).sqrt() * 0 + (x[:, 0] * 0).sqrt(), "gradient is NaN"),
        (lambda x: 3.0, "not float"),
        (lambda x: torch.ones(3, dtype=torch.int64), "floating-point"),
    ],
)
def test_unusable_objectives_are_named(objective: Any, problem: str, gradient: str) -> None:
    """An error that only a call can show names the objective."""
    with pytest.raises(InvalidInput, match=f"^objective: .*{problem}"):
        small(objective=objective, gradient=gradient)


@pytest.mark.parametrize("gradient", ["shortcut", "full"])
def test_unusable_models_are_named(gradient: str) -> None:
    """A model that has no gradient, gives another shape, or gives NaN at the initial noise."""
    with pytest.raises(InvalidInput, match="^denoise: .*no gradient"):
        small(denoise=torch.no_grad()(MODEL), gradient=gradient)
    with pytest.raises(InvalidInput, match="^denoise: returned shape"):
        small(denoise=lambda x, s: x[:1], gradient=gradient)
    with pytest.raises(NonFiniteDenoised, match="step 1 of 8"):
        small(denoise=lambda x, s: x * float("nan"), gradient=gradient)
