"""Waiting for devices: the same on every type of device."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pack_modules import module

waiting = module("nodes.host.devices.waiting")

OTHER_USES = {"known_calls.py", "rounds.py"}  # the generators of torch by name, and the error of a lack of memory


class _Module:
    """Torch's module of a type of device, which notes what is waited for."""

    def __init__(self) -> None:
        self.waited: list[object] = []

    def current_stream(self, device: torch.device) -> SimpleNamespace:
        return SimpleNamespace(synchronize=lambda: self.waited.append(("stream", device)))

    def synchronize(self, device: torch.device) -> None:
        self.waited.append(device)


@pytest.mark.parametrize("kind", ["cuda", "xpu"])
def test_streams_and_devices(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    found, device = _Module(), torch.device(kind, 1)
    monkeypatch.setattr(torch, kind, found)
    waiting.wait_for_stream(device)
    waiting.wait_for_device(device)
    assert found.waited == [("stream", device), device]


def test_devices_without_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[str] = []
    monkeypatch.setattr(torch, "mps", SimpleNamespace(synchronize=lambda: waited.append("mps")))
    waiting.wait_for_stream(torch.device("mps"))
    waiting.wait_for_device(torch.device("mps"))
    assert waited == ["mps"]
    for kind in ("cpu", "privateuseone"):
        waiting.wait_for_stream(torch.device(kind))
        waiting.wait_for_device(torch.device(kind))


def test_no_module_waits_for_one_type_of_device_only(repo: Path) -> None:
    files = [path for folder in ("nodes", "chords_core") for path in (repo / folder).rglob("*.py")]
    assert {path.name for path in files if "torch.cuda" in path.read_text(encoding="utf-8")} == OTHER_USES
