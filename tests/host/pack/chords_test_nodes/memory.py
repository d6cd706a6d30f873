"""Devices with too little memory, which no CPU is."""

from comfy.patcher_extension import CallbacksMP
from comfy_api.latest import io


class TestShortOfMemory(io.ComfyNode):
    """A MODEL that the host marks as loaded in part wherever it is loaded on ``device``."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [io.Model.Input("model"), io.String.Input("device", default="cpu:1")]
        return io.Schema(node_id="TestShortOfMemory", category="tests", inputs=inputs, outputs=[io.Model.Output()])

    @classmethod
    def execute(cls, model, device):
        model = model.clone()

        def loaded(patcher, *_):
            patcher.model.model_lowvram = str(patcher.load_device) == device

        model.add_callback(CallbacksMP.ON_LOAD, loaded)
        return io.NodeOutput(model)


NODES = [TestShortOfMemory]
