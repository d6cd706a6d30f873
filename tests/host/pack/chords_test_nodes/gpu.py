"""What the tests on a GPU need beyond the rest."""

import sys

from comfy_api.latest import io


class TestMixedDevices(io.ComfyNode):
    """A CHORDS_DEVICE_SET of devices that CHORDS Devices does not mix: a GPU and the CPU, so that a tensor left on the
    wrong one raises, with a single GPU."""

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
