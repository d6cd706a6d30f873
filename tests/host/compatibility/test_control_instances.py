"""What lanes get for the ControlNets of a run, for classes of the host that no tiny model of the live tests has."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / "control_answers.py"
COMPILED = "the network of a ControlNet is compiled for one device"


@pytest.fixture(scope="module")
def answers(comfy_host: Path) -> dict[str, Any]:
    done = subprocess.run([sys.executable, str(SCRIPT), str(comfy_host)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("kind", ["sd35", "sd35 of the picture", "sd35 with a range", "qwen_fun"])
def test_lanes_have_the_residuals_of_the_hosts_instance(answers: dict[str, Any], kind: str) -> None:
    """Four lanes at once, two on each device. The picture is encoded once, and the host's instance keeps no trace."""
    same, encoded, untouched = answers["equal"][kind]
    assert same and encoded == 1 and untouched


def test_the_other_side_of_guidance_has_an_instance_of_its_own(answers: dict[str, Any]) -> None:
    assert answers["elsewhere"]


def test_what_is_taken_from_the_model_is_taken_from_the_lanes_copy_in_each_run(answers: dict[str, Any]) -> None:
    assert answers["own_parts"] and answers["another_model"]


def test_kinds_that_need_one_core(answers: dict[str, Any]) -> None:
    reasons = answers["reasons"]
    assert reasons.pop("sd35") is reasons.pop("qwen_fun") is reasons.pop("cleanup") is None
    assert reasons.pop("function") == "the pack __main__ replaces broadcast_image_to of the host's ControlNets"
    assert reasons.pop("method") == "the pack __main__ replaces control_merge of the host's ControlNets"
    assert "not copied for several lanes" in reasons.pop("of no class of the host")
    assert "a control LoRA makes its network of the model's own weights" in reasons.pop("lora")
    assert "a control LoRA" in reasons.pop("before")  # of a chain
    assert reasons.pop("patched") == "the network of a ControlNet has patches"
    assert reasons.pop("compiled") == reasons.pop("compiled in place") == COMPILED
    assert reasons.pop("part") == "the network of a ControlNet has parts of the pack __main__"
    assert reasons == {"newer": "ControlNets of the kind Newer are not copied for several lanes"}


def test_pictures_that_lanes_cannot_have_are_a_reason_and_no_error(answers: dict[str, Any]) -> None:
    problems = answers["unfit"]
    assert "does not fit the latent, and is prepared again in each call" in problems["size"]
    assert "could not be prepared for several lanes (broken on purpose)" in problems["error"]
    assert "several pictures" in problems["several"]


def test_rows_of_one_call_need_a_picture_for_each_item_or_for_all(answers: dict[str, Any]) -> None:
    rows = answers["rows"]
    assert rows.pop("one for all") == rows.pop("one for each") == rows.pop("an adapter") == []
    assert rows.pop("a part of the steps") == ["a ControlNet applies to a part of the steps only"]
    assert set(rows) == {"two", "an adapter for each", "before"}
    assert all(found == ["a ControlNet has another number of pictures than the latent"] for found in rows.values())


def test_every_step_is_called_where_a_controlnet_begins_or_ends_within_the_schedule(answers: dict[str, Any]) -> None:
    found = answers["ranges"]
    assert {name for name, reason in found.items() if reason is None} == {"all", "over before", "from before"}
    assert set(found) > {"begins", "ends"}


def test_a_copy_of_a_network_has_nothing_of_what_streams_its_weights(answers: dict[str, Any]) -> None:
    assert answers["stripped"] == []


def test_uses_of_one_network_in_a_chain_and_in_both_prompts_are_the_hosts(answers: dict[str, Any]) -> None:
    """A lane without the ControlNets before has other residuals."""
    found = answers["chains"]
    assert len(found) == 6 and all(found.values())


def test_what_lanes_give_does_not_depend_on_the_sizes_of_calls(answers: dict[str, Any]) -> None:
    """With a picture for each row of a call of two prompts, what the host gives depends on them."""
    found = answers["sizes"]
    assert found.pop("1") is found.pop("2") is found.pop("3") is True
    assert set(found) == {"4", "6"} and all("several pictures" in str(reason) for reason in found.values())


def test_patches_can_read_a_lanes_controlnet_like_the_hosts(answers: dict[str, Any]) -> None:
    assert answers["read"] == [0.4, 0.7, [0.1, 0.9], None]


def test_a_network_on_another_device_than_the_model_is_copied_to_it(answers: dict[str, Any]) -> None:
    """A copy of loaded weights would count as loaded, wherever they are."""
    assert answers["away"] == [["cpu", "cpu:1"], 0]


def test_a_model_that_a_pack_gives_with_a_prompt_needs_one_core(answers: dict[str, Any]) -> None:
    assert answers["models"] == "a prompt has a model of its own, which is on one device"
