"""Waiting for what a device computes, on any type of device: CUDA and ROCm, XPU, and others. Needs torch only."""

from __future__ import annotations

from typing import Any

import torch


def wait_for_stream(device: torch.device) -> None:
    """Wait until the work of the calling thread on ``device`` is done, so that another device can read its results.
    Where a type of device has no streams, a copy to another device waits by itself."""
    current_stream = getattr(_module_of(device), "current_stream", None)
    if current_stream is not None:
        current_stream(device).synchronize()


def wait_for_device(device: torch.device) -> None:
    """Wait until all work on ``device`` is done. A CPU's always is."""
    synchronize = getattr(_module_of(device), "synchronize", None)
    if synchronize is not None:
        synchronize(*(() if device.type == "mps" else (device,)))  # which is a single device


def _module_of(device: torch.device) -> Any:
    """Torch's module for this type of device; None for a CPU, and for devices without one, such as DirectML's."""
    return None if device.type == "cpu" else getattr(torch, device.type, None)
