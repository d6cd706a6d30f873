"""Devices that fail in ways in which a CPU does not."""

from comfy.patcher_extension import CallbacksMP
from comfy_api.latest import io


class TestShortOfMemory(io.ComfyNode):
    """A MODEL that the host marks as partly loaded when it is loaded on ``device``."""

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


class TestFailingDevice(io.ComfyNode):
    """A MODEL whose calls on a device, as the host's own multi-GPU code names it, raise from the third on."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [io.Model.Input("model"), io.String.Input("device", default="cpu:1")]
        return io.Schema(node_id="TestFailingDevice", category="tests", inputs=inputs, outputs=[io.Model.Output()])

    @classmethod
    def execute(cls, model, device):
        model = model.clone()
        calls = []

        def failing(apply_model, args):
            if str(args["c"]["transformer_options"].get("multigpu_thread_device")) == device:
                calls.append(1)
                if len(calls) > 2:
                    raise RuntimeError(f"{device} is broken on purpose")
            return apply_model(args["input"], args["timestep"], **args["c"])

        model.set_model_unet_function_wrapper(failing)
        return io.NodeOutput(model)


NODES = [TestFailingDevice, TestShortOfMemory]
