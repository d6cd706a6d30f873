"""The copies of GLIGEN, of LoRAs in bypass mode and of context windows; the reasons where there are none; and what is
known to be compiled. Without a server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / "part_answers.py"


@pytest.fixture(scope="module")
def answers(comfy_host: Path) -> dict[str, Any]:
    done = subprocess.run([sys.executable, str(SCRIPT), str(comfy_host)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_each_device_has_its_own_gligen_as_long_as_the_loaded_one_is_there(answers: dict[str, Any]) -> None:
    assert [name for name, holds in answers["gligen"].items() if not holds] == []


def test_each_lane_calls_with_its_own_parts(answers: dict[str, Any]) -> None:
    assert [name for name, holds in answers["lane"].items() if not holds] == []


def test_a_copy_of_a_model_has_its_own_lora_in_bypass_mode(answers: dict[str, Any]) -> None:
    found = answers["bypass_lora"]
    reason = "a patch is injected into the loaded model, and a copy of the model would not have it"
    assert found.pop("of a pack") == found.pop("another injection") == reason
    assert [name for name, holds in found.items() if not holds] == []


def test_only_hooks_of_weights_without_keyframes_are_copied(answers: dict[str, Any]) -> None:
    found = answers["hooks"]
    assert found["weights"] is None
    assert "remembers the keyframe" in found["keyframes"]
    assert found["options"] == found["of a pack"] == "conditioning hooks that change more than weights"


def test_only_context_windows_of_the_host_are_copied_and_only_still_ones_leave_steps_out(
    answers: dict[str, Any],
) -> None:
    found = answers["windows"]
    other = "context windows of another pack may need the steps in order"
    odd = ("of a pack", "called back", "cut by a pack", "cut otherwise by a pack")
    assert {found.pop(name)[0] for name in odd} == {other}
    assert {against for against, _ in found.values()} == {None}
    still = {name for name, (_, every_step) in found.items() if every_step is None}
    assert still == {"standard_static", "batched"} and len(found) == 4


def test_weights_that_hooks_change_are_loaded_as_the_host_loads_them_for_hooks(answers: dict[str, Any]) -> None:
    """On a host that streams weights. Else they might be parts of a file."""
    if not answers["loaded_again"]:
        pytest.skip("this ComfyUI cannot load a model whole whose like it streams")
    asked = [{"path": "file", "disable_dynamic": True}]
    assert answers["loaded_again"] == {"asked": asked, "own": True, "there": True, "kind": "ModelPatcher"}


def test_each_way_to_compile_a_model_is_found(answers: dict[str, Any]) -> None:
    assert [name for name, found in answers["compiled"].items() if not found] == ["nothing", "disabled"]
