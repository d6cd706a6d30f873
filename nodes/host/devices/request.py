"""Which devices a user asks for. Needs torch only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ....chords_core import InvalidInput
from ....chords_core.execution.ray.address import canonical

SPLITS = ("auto", "on", "off")


@dataclass(frozen=True)
class DeviceRequest:
    """What a CHORDS Devices node asks for.

    Attributes:
        names: device names; empty: all devices that ComfyUI sees.
        cpu_lanes: the number of lanes where ComfyUI runs on the CPU.
        ray_address: the address of a Ray cluster to use instead; empty: this machine.
        ray_workers: at most so many of the cluster's workers; 0: all.
        cfg_split: whether two devices share each guided call, one of `SPLITS`.
    """

    names: tuple[str, ...] = ()
    cpu_lanes: int = 1
    ray_address: str = ""
    ray_workers: int = 0
    cfg_split: str = "auto"


def parse_devices(
    text: str,
    known: Sequence[str],
    cpu_lanes: int,
    ray_address: str = "",
    ray_workers: int = 0,
    cfg_split: str = "auto",
) -> DeviceRequest:
    """A request from the node's inputs. ``text``: "auto", or names separated by commas; ``known``: the names of this
    machine's devices.

    Raises:
        InvalidInput: for an unknown device, a device that is named twice, or a text that is no address of a Ray
            cluster.
    """
    address = canonical(ray_address) if ray_address.strip() else ""
    names = tuple(name.strip().lower() for name in text.split(",") if name.strip())
    if names == ("auto",):
        names = ()
    for position, name in enumerate(names):
        if name not in known:
            raise InvalidInput(
                "devices",
                f'this machine has no {name!r}; it has {", ".join(known)}. Use "auto" for all of them, '
                "which also lets the workflow run elsewhere",
            )
        if name in names[:position]:
            raise InvalidInput("devices", f"{name!r} is named twice; name each device once")
    return DeviceRequest(names, cpu_lanes, address, ray_workers, cfg_split)
