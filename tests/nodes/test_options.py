"""The choices of the samplers: each has one meaning in the core, and can be told as inputs again."""

from __future__ import annotations

from itertools import product

import pytest
from pack_modules import module

core = module("chords_core")
options = module("nodes.host.sampling.options")

CHOICES = list(product(options.ACCEPTS, options.CALLS, options.METHODS))


@pytest.mark.parametrize(("accept", "calls", "method"), CHOICES)
def test_options_are_those_that_the_inputs_give_again(accept: str, calls: str, method: str) -> None:
    inputs = {"cores": 4, "accept": accept, "calls": calls, "method": method}
    assert options.parse_options(**inputs).inputs() == inputs


def test_every_choice_means_something_else() -> None:
    parsed = {options.parse_options(4, *choice) for choice in CHOICES}
    assert len(parsed) == len(CHOICES)


def test_the_first_choices_are_the_defaults() -> None:
    assert (
        options.parse_options(0, options.ACCEPTS[0], options.CALLS[0], options.METHODS[0]) == options.SamplerOptions()
    )


@pytest.mark.parametrize(("calls", "made"), [("every step", None), ("1/2", 10), ("1/3", 7)])
def test_calls_are_a_share_of_the_steps(calls: str, made: int | None) -> None:
    assert options.parse_options(0, "auto", calls, "auto").calls(20) == made


def test_automatic_calls_are_fewer_and_never_more_than_the_steps() -> None:
    automatic = options.parse_options(0, "auto", "auto", "auto")
    for steps in range(1, 101):
        made = automatic.calls(steps)
        assert made is None or 2 <= made < steps
    assert automatic.calls(50) is not None


@pytest.mark.parametrize("name", ["accept", "calls", "method"])
def test_an_unknown_choice_is_refused_by_the_name_of_its_input(name: str) -> None:
    inputs = {"cores": 0, "accept": "auto", "calls": "auto", "method": "auto", name: "fastest"}
    with pytest.raises(core.InvalidInput, match=f"^{name}: .*fastest"):
        options.parse_options(**inputs)


@pytest.mark.parametrize(("accept", "calls", "method"), CHOICES)
def test_the_planner_takes_every_choice(accept: str, calls: str, method: str) -> None:
    wanted = options.parse_options(4, accept, calls, method)
    plan = core.plan(20, 4, wanted.cores, accept=wanted.accept, calls=wanted.calls(20), method=wanted.method)
    assert plan.steps == 20
