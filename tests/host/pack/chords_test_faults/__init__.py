"""Faults of devices, workers and listeners that a run has to survive, or to tell apart."""

import sys
import threading

from comfy.patcher_extension import CallbacksMP, WrappersMP
from comfy_api.latest import ComfyExtension, io

_hang_is_over = threading.Event()


def _patience_with_devices(**seconds):
    """How long those of a pair may take; as ever without arguments."""
    (split,) = (module for name, module in sys.modules.items() if name.endswith(".nodes.host.split"))
    split.PATIENCE = type(split.PATIENCE)(**seconds)


class TestHangingDevice(io.ComfyNode):
    """A MODEL whose third call on a device, as the host's own multi-GPU code names it, hangs until TestDeviceIsBack
    runs. Devices of a pair have a second to answer, and three the first time."""

    @classmethod
    def define_schema(cls):
        inputs = [io.Model.Input("model"), io.String.Input("device", default="cpu:1")]
        return io.Schema(node_id="TestHangingDevice", category="tests", inputs=inputs, outputs=[io.Model.Output()])

    @classmethod
    def execute(cls, model, device):
        model = model.clone()
        calls = []
        _hang_is_over.clear()
        _patience_with_devices(floor=1.0, first=3.0)

        def hanging(apply_model, args):
            if str(args["c"]["transformer_options"].get("multigpu_thread_device")) == device:
                calls.append(1)
                if len(calls) == 3:
                    _hang_is_over.wait(600)
            return apply_model(args["input"], args["timestep"], **args["c"])

        model.set_model_unet_function_wrapper(hanging)
        return io.NodeOutput(model)


class TestDeviceIsBack(io.ComfyNode):
    """Lets the call go on, gives the usual patience back, and waits until the host's threads of devices have ended.
    Says how many there were, and how many are left."""

    @classmethod
    def define_schema(cls):
        inputs = [io.Int.Input("salt")]
        return io.Schema(node_id="TestDeviceIsBack", category="tests", inputs=inputs, outputs=[], is_output_node=True)

    @classmethod
    def execute(cls, salt):
        hung = cls._of_devices()
        _hang_is_over.set()
        _patience_with_devices()
        for thread in hung:
            thread.join(10)
        return io.NodeOutput(ui={"hung": [len(hung)], "left": [len(cls._of_devices())]})

    @staticmethod
    def _of_devices():
        return [thread for thread in threading.enumerate() if "_worker_loop" in thread.name]


class TestNoMemoryOnWorkers(io.ComfyNode):
    """A MODEL for which the given number of Ray workers have no memory when a run begins. ``file``: of the test."""

    @classmethod
    def define_schema(cls):
        inputs = [io.Model.Input("model"), io.Int.Input("workers"), io.String.Input("file")]
        return io.Schema(node_id="TestNoMemoryOnWorkers", category="tests", inputs=inputs, outputs=[io.Model.Output()])

    @classmethod
    def execute(cls, model, workers, file):
        model = model.clone()

        def beginning(patcher):
            import os
            from pathlib import Path

            if "RayActor" not in Path("/proc/self/cmdline").read_text():
                return
            for number in range(workers):
                try:
                    os.close(os.open(f"{file}{number}", os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    continue
                raise MemoryError("out of memory on purpose")

        model.add_callback(CallbacksMP.ON_PRE_RUN, beginning)
        return io.NodeOutput(model)


class TestRaisingListener(io.ComfyNode):
    """A MODEL that has whoever listens to a sampling's steps raise at the first."""

    @classmethod
    def define_schema(cls):
        inputs = [io.Model.Input("model")]
        return io.Schema(node_id="TestRaisingListener", category="tests", inputs=inputs, outputs=[io.Model.Output()])

    @classmethod
    def execute(cls, model):
        model = model.clone()

        def outer_sample(executor, noise, latent_image, sampler, sigmas, denoise_mask, callback, *others, **named):
            def raising(*_):
                raise RuntimeError("the listener raised on purpose")

            return executor(noise, latent_image, sampler, sigmas, denoise_mask, raising, *others, **named)

        model.add_wrapper(WrappersMP.OUTER_SAMPLE, outer_sample)
        return io.NodeOutput(model)


class TestFaults(ComfyExtension):
    async def get_node_list(self):
        return [
            TestDeviceIsBack,
            TestHangingDevice,
            TestNoMemoryOnWorkers,
            TestRaisingListener,
        ]


async def comfy_entrypoint():
    return TestFaults()
