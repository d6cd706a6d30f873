"""What the inputs of CHORDS Devices ask for, and what is refused."""

from __future__ import annotations

import pytest
from pack_modules import module

core = module("chords_core")
request = module("nodes.host.devices.request")
KNOWN = ("cuda:0", "cuda:1")


@pytest.mark.parametrize("text", ["auto", "", " AUTO ", " , "])
def test_all_devices_are_meant_without_a_name(text: str) -> None:
    assert request.parse_devices(text, KNOWN, 1) == request.DeviceRequest()


@pytest.mark.parametrize("text", ["cuda:1, cuda:0", "CUDA:1,cuda:0,", " cuda:1 ,, cuda:0"])
def test_names_are_kept_in_their_order(text: str) -> None:
    assert request.parse_devices(text, KNOWN, 1).names == ("cuda:1", "cuda:0")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("cuda:7", "this machine has no 'cuda:7'; it has cuda:0, cuda:1"),
        ("auto, cuda:0", "no 'auto'"),
        ("cuda:0, cuda:0", "'cuda:0' is named twice"),
    ],
)
def test_what_does_not_exist_is_refused_by_the_name_of_the_input(text: str, told: str) -> None:
    with pytest.raises(core.InvalidInput, match=f"^devices: .*{told}"):
        request.parse_devices(text, KNOWN, 1)


def test_the_other_inputs_are_kept() -> None:
    asked = request.parse_devices("auto", KNOWN, 3, " ", 2, "on")
    assert asked == request.DeviceRequest((), 3, "", 2, "on")
    assert request.parse_devices("auto", KNOWN, 1, "127.0.0.1:6379").ray_address
