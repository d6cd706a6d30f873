"""What a run has set on a model: given to copies for the run, and taken back afterwards."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from pack_modules import module

run_state = module("nodes.host.devices.run_state")

CPU = torch.device("cpu")


class Network(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.width = 4
        self.table = torch.zeros(1)


class Model(torch.nn.Module):
    """Such as a host's model: it is loaded with these attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.diffusion_model = Network()
        self.latent_shapes: Any = None
        self.keys = ("a",)
        self.config = SimpleNamespace()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def apply_model(self) -> Any:
        return self.latent_shapes, self.config, getattr(self, "plan", None)


def _patcher(model: Model, **patches: Any) -> Any:
    return SimpleNamespace(model=model, object_patches=patches)


def _attributes(model: Model) -> dict[str, Any]:
    parts = {"": model, "diffusion_model": model.diffusion_model}
    return {f"{path}.{name}": value for path, part in parts.items() for name, value in vars(part).items()}


def test_an_untouched_model_changes_no_copy() -> None:
    own, other = Model(), Model()
    state, before = run_state.RunState.of(_patcher(own)), _attributes(other)
    assert state.reason_against(other) is None
    with state.set_on(other, CPU):
        assert all(_attributes(other)[name] is value for name, value in before.items())


def test_values_are_set_and_taken_back() -> None:
    own, other = Model(), Model()
    before = _attributes(other)
    own.latent_shapes = [torch.Size([1, 2, 3]), torch.Size([1, 4])]
    own.mask = torch.ones(2)
    own.keys = ("a", "b")
    own.nested = {"mask": [torch.ones(1)], "dtype": torch.float16}
    own.diffusion_model.frames = 7
    with run_state.RunState.of(_patcher(own)).set_on(other, CPU):
        assert other.latent_shapes == own.latent_shapes and isinstance(other.latent_shapes[0], torch.Size)
        assert other.keys == ("a", "b") and other.diffusion_model.frames == 7
        other.mask.add_(1)
        other.nested["mask"][0].add_(1)
        other.latent_shapes.clear()
    assert torch.equal(own.mask, torch.ones(2)) and torch.equal(own.nested["mask"][0], torch.ones(1))
    assert len(own.latent_shapes) == 2
    after = _attributes(other)
    assert after.keys() == before.keys() and all(after[name] is value for name, value in before.items())


def test_what_an_earlier_run_has_left_on_a_copy_is_not_there() -> None:
    """A copy in memory was made while that run had its attributes."""
    own, other = Model(), Model()
    other.frames = other.diffusion_model.frames = 3
    with run_state.RunState.of(_patcher(own)).set_on(other, CPU):
        assert not hasattr(other, "frames") and not hasattr(other.diffusion_model, "frames")
    assert other.frames == other.diffusion_model.frames == 3


def test_it_is_taken_back_after_an_error() -> None:
    own, other = Model(), Model()
    own.latent_shapes = [(1, 2)]
    with pytest.raises(KeyboardInterrupt), run_state.RunState.of(_patcher(own)).set_on(other, CPU):
        raise KeyboardInterrupt
    assert other.latent_shapes is None


def test_an_object_that_the_model_uses_is_a_reason() -> None:
    own, other = Model(), Model()
    own.plan = SimpleNamespace()
    own.unused = SimpleNamespace()
    reason = run_state.RunState.of(_patcher(own)).reason_against(other)
    assert reason is not None and reason.startswith("plan (SimpleNamespace) is set on the model for this run")
    other.plan = SimpleNamespace()  # it was loaded with one, too
    assert run_state.RunState.of(_patcher(own)).reason_against(other) is None


def test_what_the_patcher_replaces_is_left_to_the_patcher() -> None:
    own, other = Model(), Model()
    own.keys, own.plan, own.diffusion_model.width = ("b",), SimpleNamespace(), 8
    patches = {"keys": ("b",), "plan": own.plan, "diffusion_model.width": 8}
    state = run_state.RunState.of(_patcher(own, **patches))
    assert state.reason_against(other) is None
    with state.set_on(other, CPU):
        assert other.keys == ("a",) and other.diffusion_model.width == 4


def test_tables_of_the_network_stay_its_own() -> None:
    own, other = Model(), Model()
    own.diffusion_model.table, own.diffusion_model.cache = torch.ones(1), [torch.ones(1)]
    with run_state.RunState.of(_patcher(own)).set_on(other, CPU):
        assert not other.diffusion_model.table.any() and not hasattr(other.diffusion_model, "cache")


def test_what_a_network_notes_with_a_table_stays_with_the_table() -> None:
    """Else a copy would take its own table, which is for another length."""

    class WithTable(Network):
        length = 0

        def forward(self, length: int) -> torch.Tensor:
            if self.length != length:
                self.length, self.table = length, torch.full((1,), float(length))
            return self.table

        def prepare(self, frames: int) -> None:
            self.frames = frames

    own, other = Model(), Model()
    own.diffusion_model, other.diffusion_model = WithTable(), WithTable()
    own.diffusion_model(8)
    own.diffusion_model.prepare(3)
    other.diffusion_model(2)
    with run_state.RunState.of(_patcher(own)).set_on(other, CPU):
        assert other.diffusion_model(8) == 8 and other.diffusion_model.frames == 3
    assert other.diffusion_model(2) == 2


def test_what_loading_sets_is_not_copied(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """It belongs to one copy and its device. The code of the host tells what that is."""
    file = tmp_path / "stand_in_patcher.py"
    file.write_text("class Patcher:\n    def load(self):\n        self.model.loaded_bytes = 5\n", encoding="utf-8")
    patcher = ModuleType("comfy.model_patcher")
    patcher.__file__ = str(file)
    monkeypatch.setitem(sys.modules, "comfy.model_patcher", patcher)
    run_state._names_of_loading.cache_clear()
    own, other = Model(), Model()
    own.loaded_bytes = 5
    try:
        with run_state.RunState.of(_patcher(own)).set_on(other, CPU):
            assert not hasattr(other, "loaded_bytes")
    finally:
        run_state._names_of_loading.cache_clear()
