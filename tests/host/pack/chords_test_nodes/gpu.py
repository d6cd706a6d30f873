"""A node for the tests on a GPU."""

import sys

from comfy_api.latest import io


class TestMixedDevices(io.ComfyNode):
    """A CHORDS_DEVICE_SET of a GPU and the CPU, which CHORDS Devices does not mix. With it, a tensor on the wrong
    device raises an error on a machine with a single GPU."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [io.String.Input("devices", default="cuda:0, cpu"), io.String.Input("split", default="off")]
        outputs = [io.Custom("CHORDS_DEVICE_SET").Output()]
        return io.Schema(node_id="TestMixedDevices", category="tests", inputs=inputs, outputs=outputs)

    @classmethod
    def execute(cls, devices, split):
        (module,) = (module for name, module in sys.modules.items() if name.endswith(".nodes.host.devices.request"))
        names = tuple(name.strip() for name in devices.split(","))
        return io.NodeOutput(module.DeviceRequest(names, split=split))


NODES = [TestMixedDevices]
