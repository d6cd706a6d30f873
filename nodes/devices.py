"""The node that chooses devices."""

from __future__ import annotations

from comfy_api.latest import io

from .host.devices.available import host_devices
from .host.devices.request import SPLITS, parse_devices
from .inputs import CATEGORY, Devices


class ChordsDevices(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChordsDevices",
            display_name="CHORDS Devices",
            category=CATEGORY,
            description="The devices a CHORDS sampler uses. Needed only to choose some of the devices, or to have "
            "several lanes on a CPU. Without it, all devices that ComfyUI sees are used. One core runs on the "
            "device to which ComfyUI loads the model.",
            search_aliases=["multi gpu", "chords"],
            inputs=[
                io.String.Input(
                    "devices",
                    optional=True,
                    default="auto",
                    tooltip="auto: all devices that ComfyUI sees, on any machine. Or names separated by commas: "
                    "cuda:0, cuda:2.",
                ),
                io.Int.Input(
                    "cpu_lanes",
                    optional=True,
                    default=1,
                    min=1,
                    max=64,
                    tooltip="Only if ComfyUI runs on the CPU: how many model calls run at the same time. Each has one "
                    "thread and a copy of the model. A number above the cores of the processor is no faster.",
                ),
                io.Combo.Input(
                    "split",
                    optional=True,
                    advanced=True,
                    options=list(SPLITS),
                    default="auto",
                    tooltip="How devices share each model call. The picture stays the same, apart from rounding. "
                    "guidance: two devices evaluate the positive and the negative side. tokens: each device computes "
                    "its part of the picture's tokens; this works with diffusion transformers such as Flux and Wan, "
                    "with any sampler, few steps and CFG 1. auto: in the way that the first calls show to be the "
                    "fastest (on a CPU by tokens only). off: never.",
                ),
                io.String.Input(
                    "ray_address",
                    optional=True,
                    advanced=True,
                    default="",
                    tooltip="Empty: the devices of this machine. local: Ray workers on this machine. Or the address of "
                    "a running Ray cluster, for example 192.168.1.10:6379; the owner of this server has to allow it. "
                    "Needs the Python package ray; see docs/cluster.md.",
                ),
                io.Int.Input(
                    "ray_workers",
                    optional=True,
                    advanced=True,
                    default=0,
                    min=0,
                    max=64,
                    tooltip="The largest number of Ray workers. 0: one for each GPU of the cluster; without GPUs, one "
                    "for each CPU core, at most 8.",
                ),
            ],
            outputs=[
                Devices.Output(display_name="CHORDS_DEVICE_SET", tooltip="For the devices input of a CHORDS sampler.")
            ],
        )

    @classmethod
    def execute(
        cls,
        devices: str = "auto",
        cpu_lanes: int = 1,
        split: str = "auto",
        ray_address: str = "",
        ray_workers: int = 0,
    ) -> io.NodeOutput:
        known = [str(device) for device in host_devices()]
        return io.NodeOutput(parse_devices(devices, known, cpu_lanes, ray_address, ray_workers, split))
