"""The choices of the samplers: each has one meaning in the core, and can be told as inputs again."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from pack_modules import module

core = module("chords_core")
options = module("nodes.host.sampling.options")

CHOICES = list(product(options.FIDELITIES, options.METHODS, options.ACCEPTS))


@pytest.mark.parametrize(("fidelity", "method", "accept"), CHOICES)
def test_options_are_those_that_the_inputs_give_again(fidelity: str, method: str, accept: str) -> None:
    inputs = {"fidelity": fidelity, "cores": 4, "method": method, "accept": accept}
    assert options.parse_options(**inputs).inputs() == inputs


def test_every_choice_means_something_else() -> None:
    parsed = {options.parse_options(choice[0], 4, *choice[1:]) for choice in CHOICES}
    assert len(parsed) == len(CHOICES)


def test_the_first_choices_are_the_defaults() -> None:
    first = options.parse_options(options.FIDELITIES[0], 0, options.METHODS[0], options.ACCEPTS[0])
    assert first == options.SamplerOptions()


@pytest.mark.parametrize(
    ("asked", "tolerance", "accepted"),
    [
        ({}, 0.01, None),
        ({"fidelity": "near"}, 0.01, None),
        ({"fidelity": "fast"}, 0.03, None),
        ({"fidelity": "fast", "method": "secant"}, 0.03, None),
        ({"fidelity": "exact"}, None, "exact"),
        ({"fidelity": "exact", "method": "chords"}, None, "exact"),
        ({"fidelity": "exact", "accept": 1}, None, 1),
        ({"fidelity": "near", "accept": "exact"}, None, "exact"),
        ({"fidelity": "near", "accept": 2}, None, 2),
        ({"fidelity": "near", "method": "chords"}, None, None),
    ],
)
def test_a_method_and_a_result_that_are_named_override_the_fidelity(
    asked: dict[str, Any], tolerance: float | None, accepted: Any
) -> None:
    wanted = options.SamplerOptions(**asked)
    assert wanted.tolerance == tolerance
    if tolerance is None:
        assert wanted.accepted == accepted


@pytest.mark.parametrize("name", ["accept", "fidelity", "method"])
def test_an_unknown_choice_is_refused_by_the_name_of_its_input(name: str) -> None:
    inputs = {"fidelity": "auto", "cores": 0, "method": "auto", "accept": "auto", name: "fastest"}
    with pytest.raises(core.InvalidInput, match=f"^{name}: .*fastest"):
        options.parse_options(**inputs)


@pytest.mark.parametrize(("fidelity", "method", "accept"), CHOICES)
def test_the_planner_takes_every_choice(fidelity: str, method: str, accept: str) -> None:
    wanted = options.parse_options(fidelity, 4, method, accept)
    ends = {"accept": wanted.accepted} if wanted.tolerance is None else {"tolerance": wanted.tolerance}
    assert core.plan(20, 4, wanted.cores, method=wanted.method, **ends).steps == 20
