"""Which devices to use."""

from __future__ import annotations

from comfy_api.latest import io

from .host.devices import parse_devices
from .types import CATEGORY, Devices


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
            ],
            outputs=[Devices.Output(display_name="CHORDS_DEVICES")],
        )

    @classmethod
    def execute(cls, devices: str = "auto", cpu_lanes: int = 1) -> io.NodeOutput:
        return io.NodeOutput(parse_devices(devices, cpu_lanes))
