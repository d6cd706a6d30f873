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
