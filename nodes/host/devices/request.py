"""Which devices a run uses, from what the user asked for and what the host has."""

from __future__ import annotations

from dataclasses import dataclass

import comfy.model_management
import torch

from ....chords_core import InvalidInput
from ....chords_core.execution.ray.address import canonical

SPLITS = ("auto", "on", "off")


@dataclass(frozen=True)
class DeviceRequest:
    """What a CHORDS Devices node says: device names, or empty for all there are; lanes on a CPU host; the address of a
    Ray cluster to use instead, with how many of its workers (0: all), or an empty one; and whether two devices share
    each guided call (one of `SPLITS`)."""

    names: tuple[str, ...] = ()
    cpu_lanes: int = 1
    ray_address: str = ""
    ray_workers: int = 0
    cfg_split: str = "auto"


def parse_devices(
    text: str, cpu_lanes: int, ray_address: str = "", ray_workers: int = 0, cfg_split: str = "auto"
) -> DeviceRequest:
    """A request from the node's inputs: ``auto``, or names separated by commas.

    Raises:
        InvalidInput: for a device this host does not have, or one named twice, or for what is no address of a Ray.
    """
    rest = canonical(ray_address) if ray_address.strip() else "", ray_workers, cfg_split
    names = tuple(name.strip().lower() for name in text.split(",") if name.strip())
    if names in ((), ("auto",)):
        return DeviceRequest((), cpu_lanes, *rest)
    known = {str(device): device for device in host_devices()}
    for position, name in enumerate(names):
        if name not in known:
            raise InvalidInput(
                "devices",
                f'this machine has no {name!r}; it has {", ".join(known)}. Use "auto" for all of them, '
                "which also lets the workflow run elsewhere",
            )
        if name in names[:position]:
            raise InvalidInput("devices", f"{name!r} is named twice; name each device once")
    return DeviceRequest(names, cpu_lanes, *rest)


def host_devices() -> list[torch.device]:
    """The devices ComfyUI computes on, its current one first."""
    return list(
        dict.fromkeys([comfy.model_management.get_torch_device(), *comfy.model_management.get_all_torch_devices()])
    )


def lane_devices(request: DeviceRequest, primary: torch.device) -> list[torch.device]:
    """One device a lane, for a model that is on ``primary``; the primary device first if it is among them.

    On a CPU the lanes are ``cpu``, ``cpu:1``, ...: the same memory, but devices of their own to PyTorch, so
    that everything that is kept apart per device is kept apart per lane.
    """
    if primary.type == "cpu":
        return [primary, *(torch.device("cpu", lane) for lane in range(1, max(1, request.cpu_lanes)))]
    named = [torch.device(name) for name in request.names] or [
        device for device in host_devices() if device.type == primary.type
    ]
    return sorted(named, key=lambda device: device != primary) or [primary]
