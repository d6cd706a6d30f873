"""Which conditions and patches may be part of a model call whose rows have different sigmas, and what each row gets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / "row_answers.py"


@pytest.fixture(scope="module")
def answers(comfy_host: Path) -> dict[str, Any]:
    done = subprocess.run([sys.executable, str(SCRIPT), str(comfy_host)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_conditions_that_the_host_cannot_repeat_for_each_row(answers: dict[str, Any]) -> None:
    """It repeats those of one item, and those of as many items as the latent has."""
    reasons = answers["reasons"]
    assert reasons.pop("one for all, and one for each") == reasons.pop("a mask") == []
    assert reasons.pop("frames") == ["the items of the latent are the frames of one video"]
    assert reasons.pop("parts") == ["the latent has several parts"]
    assert reasons.pop("a part of the steps") == ["a prompt applies to a part of the steps only"]
    assert reasons.pop("unknown") == ["the condition size is of an unknown kind"]
    assert set(reasons) == {"two", "five in a list", "a constant for each", "two masks"}
    assert all(found and "latent" in found[0] for found in reasons.values())


def test_patches_that_take_one_sigma_are_found(answers: dict[str, Any]) -> None:
    found = answers["one_sigma"]
    assert [name for name, takes_one in found.items() if not takes_one] == ["of_each", "of_each_if_there_is_one"]


def test_each_row_gets_the_noise_the_mask_and_the_condition_of_each_item(answers: dict[str, Any]) -> None:
    assert answers["tiled"]


def test_only_devices_that_tell_when_a_call_is_done_are_tried(answers: dict[str, Any]) -> None:
    assert answers["untried"] == ["cpu", "mps", "privateuseone"]


def test_a_trial_that_fails_is_a_reason_and_no_error(answers: dict[str, Any]) -> None:
    assert answers["cannot_wait"].startswith("a trial of rows failed: synchronize() takes 0")


def test_around_guidance_only_what_is_known_to_keep_rows_apart_may_be(answers: dict[str, Any]) -> None:
    """The host's PerpNeg and Mahiro take a norm or a mean over the whole batch, and VideoLinearCFGGuidance the place of
    an item in it."""
    found = answers["around_guidance"]
    apart = {"CFGGuider", "Guider_Basic", "RescaleCFG", "CFGNorm", "CFGZeroStar", "TCFG"}
    assert {name for name, reasons in found.items() if not reasons} == apart
    assert found["Guider_PerpNeg"] == ["the guider Guider_PerpNeg combines the model's answers in its own way"]
    assert "may mix the rows of a call" in found["Mahiro"][0]


def test_rows_of_a_guided_model_that_differ_by_more_than_rounding_are_found(answers: dict[str, Any]) -> None:
    """In low precision and with strong guidance, too; in a trial, and in a check of times that are known."""
    found = answers["coupled"]
    assert found.pop("apart, checked") == found.pop("apart, tried") == ""
    assert set(found) == {"coupled, checked", "coupled, tried"}
    assert all(problem.startswith("the rows of a call differ by") for problem in found.values())


def test_rows_that_a_controlnet_allows_are_tried_again_with_another_kind(answers: dict[str, Any]) -> None:
    assert answers["coupled_controls"] == [True, False, True]
