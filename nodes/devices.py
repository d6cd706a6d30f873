"""Which devices to use."""

from __future__ import annotations

from comfy_api.latest import io

from .host.devices.request import SPLITS, parse_devices
from .inputs import CATEGORY, Devices


class ChordsDevices(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChordsDevices",
            display_name="CHORDS Devices",
            category=CATEGORY,
            description="The devices a CHORDS sampler works on. Only needed to use some of them, or several lanes "
            "on a CPU; otherwise all devices ComfyUI sees are used. With one core, the device is the one ComfyUI loads "
            "the model to.",
            search_aliases=["multi gpu", "chords"],
            inputs=[
                io.String.Input(
                    "devices",
                    optional=True,
                    default="auto",
                    tooltip="auto: all ComfyUI sees, on any machine. Or names separated by commas: cuda:0, cuda:2.",
                ),
                io.Int.Input(
                    "cpu_lanes",
                    optional=True,
                    default=1,
                    min=1,
                    max=64,
                    tooltip="Only where ComfyUI runs on the CPU: how many model calls run side by side, one thread "
                    "each and a copy of the model each. More than the processor has cores gains nothing.",
                ),
                io.Combo.Input(
                    "cfg_split",
                    optional=True,
                    advanced=True,
                    options=list(SPLITS),
                    default="auto",
                    tooltip="Whether two devices share each guided call, one the positive side and one the negative: "
                    "up to twice as fast, and the same picture apart from rounding. auto: on GPUs, where the first "
                    "calls show that it is faster, except where the exact result is asked for.",
                ),
                io.String.Input(
                    "ray_address",
                    optional=True,
                    advanced=True,
                    default="",
                    tooltip="Empty: this machine's devices. local: Ray workers on this machine. Or the address of a "
                    "running Ray cluster, such as 192.168.1.10:6379, which the owner of this server has to allow. "
                    "Needs the Python package ray; see docs/cluster.md.",
                ),
                io.Int.Input(
                    "ray_workers",
                    optional=True,
                    advanced=True,
                    default=0,
                    min=0,
                    max=64,
                    tooltip="How many Ray workers at most. 0: one a GPU of the cluster, or without any, one a CPU core "
                    "up to 8.",
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
        cfg_split: str = "auto",
        ray_address: str = "",
        ray_workers: int = 0,
    ) -> io.NodeOutput:
        return io.NodeOutput(parse_devices(devices, cpu_lanes, ray_address, ray_workers, cfg_split))
