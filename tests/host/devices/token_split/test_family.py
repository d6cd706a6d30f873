"""Which networks can be split, and the reasons why a call cannot."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import test_flux
import test_lumina
import test_wan
import torch
from split_cases import CPU, REPO, network_of
from token_split import CannotSplit, Member, SplitCall, find_family, reason_against
from token_split.family import FAMILIES


def test_every_family_is_found_by_its_networks(comfy: None) -> None:
    """All classes that are named are the host's."""
    import importlib

    for family in FAMILIES:
        for path in family.networks:
            module, _, name = path.rpartition(".")
            kind = getattr(importlib.import_module(module), name)
            assert find_family(kind.__new__(kind)) is family


def test_a_subclass_is_another_network(comfy: None) -> None:
    from comfy.ldm.wan.model import WanModel

    class Other(WanModel):
        pass

    network = network_of(Other, **test_wan.CONFIG)
    assert find_family(network) is None
    assert reason_against(network, {}) == "Other is not a network that can be shared by tokens"
    with pytest.raises(CannotSplit, match="Other is not a network"):
        SplitCall([Member(CPU, network)] * 2)


def test_networks_that_mix_tokens_between_blocks_are_not_split(comfy: None) -> None:
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from comfy.ldm.wan.model import HumoWanModel, WanModel_S2V

    for kind in (UNetModel, HumoWanModel, WanModel_S2V):
        assert find_family(kind.__new__(kind)) is None


def test_devices_of_several_types(comfy: None) -> None:
    network = test_flux.flux()
    with pytest.raises(CannotSplit, match="several types"):
        SplitCall([Member(CPU, network), Member(torch.device("meta"), network)])


def nothing(*args: Any) -> Any:
    return {}


@pytest.mark.parametrize("name", ["attn1_patch", "attn2_patch", "mlp_patch", "attn1_output_patch", "unknown_patch"])
def test_patches_within_a_block(comfy: None, name: str) -> None:
    assert f"({name})" in (reason_against(test_flux.flux(), {"patches": {name: [nothing]}}) or "")


@pytest.mark.parametrize("kind", ["diffusion_model", "apply_model"])
def test_wrappers_of_the_whole_network(comfy: None, kind: str) -> None:
    wrapped = {"wrappers": {kind: {"someone": [nothing]}}}
    assert "wraps the whole network" in (reason_against(test_flux.flux(), wrapped) or "")
    assert (
        reason_against(test_flux.flux(), {"wrappers": {kind: {"someone": []}, "outer_sample": {"x": [nothing]}}})
        is None
    )


def test_replaced_blocks_where_hooks_do_the_work(comfy: None) -> None:
    replaced = {"patches_replace": {"dit": {("double_block", 0): nothing}}}
    lumina = test_lumina.case(test_lumina.CONFIG).network
    assert reason_against(lumina, replaced) == "another node replaces blocks of Lumina 2"
    assert reason_against(test_flux.flux(), replaced) is None


def test_what_composes_is_no_reason(comfy: None) -> None:
    options = {"patches": {"post_input": [nothing], "double_block": [nothing], "attn1_patch": []}}
    options |= {"optimized_attention_override": nothing, "cond_or_uncond": [0, 1]}
    assert reason_against(test_flux.flux(), options) is None
    assert reason_against(test_flux.flux(), {}, members=1) == "there is one device only"


def test_the_package_imports_nothing_of_the_host() -> None:
    """An older host that lacks a family lacks nothing else."""
    script = "import sys, token_split; print([name for name in sys.modules if name.split('.')[0] == 'comfy'])"
    folder = REPO / "nodes" / "host" / "devices"
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
