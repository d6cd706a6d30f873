"""What a benchmark tries."""

from __future__ import annotations

import pytest
from pack_modules import module

core = module("chords_core")
sweep = module("nodes.host.benchmark.sweep")
Options = module("nodes.host.sampling.options").SamplerOptions


@pytest.mark.parametrize("counts", [[], [1], [2], [2, 4, 8]])
def test_each_setting_is_tried_once_and_has_a_name_of_its_own(counts: list[int]) -> None:
    settings = sweep.sweep(counts)
    assert settings[0] == Options()
    assert len(set(settings)) == len(settings)
    names = [sweep.name_of(options) for options in settings]
    assert len(set(names)) == len(names) and sweep.name_of(None) not in names


def test_every_number_of_cores_is_tried_and_the_largest_with_chords() -> None:
    settings = sweep.sweep([2, 4])
    assert {options.cores for options in settings if options.fidelity == "near"} == {1, 2, 4}
    assert {options.cores for options in settings if options.fidelity == "fast"} == {1, 4}
    assert {(options.cores, options.accept) for options in settings if options.method == "chords"} == {
        (4, 1),
        (4, None),
        (4, "exact"),
    }


def test_on_one_device_the_node_chooses_between_one_core_and_rows() -> None:
    """So that a benchmark shows what near and fast take there; rows are tried before the clock runs."""
    settings = sweep.sweep([])
    assert [(options.cores, options.fidelity) for options in settings] == [(0, "auto"), (0, "near"), (0, "fast")]
    assert sweep.to_warm_up(settings) == [None, Options(), Options(fidelity="near")]


def test_every_number_of_cores_runs_once_before_the_clock_does() -> None:
    warming = sweep.to_warm_up(sweep.sweep([2, 4]))
    assert warming[:2] == [None, Options()]
    assert [options.cores for options in warming[2:]] == [2, 4]


@pytest.mark.parametrize(("lanes", "counts"), [(1, []), (2, [2]), (3, [2, 3]), (4, [2, 4]), (6, [2, 4, 6])])
def test_numbers_of_cores_are_those_of_the_devices(lanes: int, counts: list[int]) -> None:
    found = sweep.gaining(50, lanes, "euler")
    assert found == [cores for cores in counts if core.plan(50, cores, tolerance=0.01).cores > 1]
    assert sweep.gaining(6, lanes, "euler") == []  # too few steps
