"""The devices that this machine has for a request."""

from __future__ import annotations

import comfy.model_management
import torch

from .request import DeviceRequest


def host_devices() -> list[torch.device]:
    """The devices ComfyUI computes on, its current one first."""
    return list(
        dict.fromkeys([comfy.model_management.get_torch_device(), *comfy.model_management.get_all_torch_devices()])
    )


def lane_devices(request: DeviceRequest, primary: torch.device) -> list[torch.device]:
    """One device a lane, for a model on the device ``primary``; that one comes first if it is among them.

    On a CPU the lanes are ``cpu``, ``cpu:1``, ...: they share one memory, but PyTorch counts them as different devices.
    So everything that is kept for each device is kept for each lane.
    """
    if primary.type == "cpu":
        return [primary, *(torch.device("cpu", lane) for lane in range(1, max(1, request.cpu_lanes)))]
    named = [torch.device(name) for name in request.names] or [
        device for device in host_devices() if device.type == primary.type
    ]
    return sorted(named, key=lambda device: device != primary) or [primary]


def hardware_names(request: DeviceRequest, primary: torch.device) -> tuple[str, ...]:
    """Each device of the request with the name of its hardware, for "cuda:0" is a different one on another machine. The
    time of a call on a CPU depends on its threads."""
    if request.ray_address:
        return (f"ray {request.ray_address} ({request.ray_workers or 'all'} workers)",)
    return tuple(
        f"{device}, {torch.get_num_threads()} threads a call"
        if device.type == "cpu"
        else comfy.model_management.get_torch_device_name(device).partition(" : ")[0]
        for device in lane_devices(request, primary)
    )
