"""Faults of devices, workers and listeners that a run must survive, or must tell apart."""

import sys
import threading
import time
from collections import Counter
from pathlib import Path

import torch
from comfy.patcher_extension import CallbacksMP, WrappersMP
from comfy_api.latest import ComfyExtension, io

_hang_is_over = threading.Event()


def _set_device_timeouts(**seconds):
    """Set the timeouts of the devices of a pair; without arguments, the usual ones."""
    (split,) = (module for name, module in sys.modules.items() if name.endswith(".nodes.host.devices.cfg_split"))
    split.LANE_TIMEOUTS = type(split.LANE_TIMEOUTS)(**seconds)


class TestHangingDevice(io.ComfyNode):
    """A MODEL whose third call on a device, as the host's own multi-GPU code names it, hangs until TestDeviceIsBack
    runs. Devices of a pair have five seconds to answer, and ten for the first call."""

    @classmethod
    def define_schema(cls):
        inputs = [io.Model.Input("model"), io.String.Input("device", default="cpu:1")]
        return io.Schema(node_id="TestHangingDevice", category="tests", inputs=inputs, outputs=[io.Model.Output()])

    @classmethod
    def execute(cls, model, device):
        model = model.clone()
        calls = []
        _hang_is_over.clear()
        _set_device_timeouts(floor=5.0, first=10.0)  # longer than a busy machine stands still

        def hanging(apply_model, args):
            if str(args["c"]["transformer_options"].get("multigpu_thread_device")) == device:
                calls.append(1)
                if len(calls) == 3:
                    _hang_is_over.wait(600)
            return apply_model(args["input"], args["timestep"], **args["c"])

        model.set_model_unet_function_wrapper(hanging)
        return io.NodeOutput(model)


class TestDeviceIsBack(io.ComfyNode):
    """Lets the call continue, restores the usual timeouts, and waits until the host's threads of devices have ended.
    Returns how many there were, and how many are left."""

    @classmethod
    def define_schema(cls):
        inputs = [io.Int.Input("salt")]
        return io.Schema(node_id="TestDeviceIsBack", category="tests", inputs=inputs, outputs=[], is_output_node=True)

    @classmethod
    def execute(cls, salt):
        hung = cls._of_devices()
        _hang_is_over.set()
        _set_device_timeouts()
        for thread in hung:
            thread.join(60)
        return io.NodeOutput(ui={"hung": [len(hung)], "left": [len(cls._of_devices())]})

    @staticmethod
    def _of_devices():
        return [thread for thread in threading.enumerate() if "_worker_loop" in thread.name]


class TestEndlessCall(io.ComfyNode):
    """A MODEL with calls that do not return before the file ``folder``/over exists.

    These are the calls on the given lanes, after the given number of calls on each, or the calls on a device of a pair.
    Each such call makes a file whose name begins with "begun", and one with "returned" afterwards. While there is a
    file "later", they take a tenth of a second instead.
    """

    @classmethod
    def define_schema(cls):
        inputs = [
            io.Model.Input("model"),
            io.String.Input("folder"),
            io.String.Input("lanes", default=""),
            io.String.Input("device", default=""),
            io.Int.Input("after_calls", default=0),
        ]
        return io.Schema(node_id="TestEndlessCall", category="tests", inputs=inputs, outputs=[io.Model.Output()])

    @classmethod
    def execute(cls, model, folder, lanes, device, after_calls):
        model, folder = model.clone(), Path(folder)
        calls = Counter()

        def endless(apply_model, args):
            lane = threading.current_thread().name.removeprefix("chords-lane-")
            pair = str(args["c"]["transformer_options"].get("multigpu_thread_device"))
            if lane in lanes.split(",") or pair == device:
                place = (lane, pair)
                calls[place] += 1
                if (folder / "later").exists():
                    time.sleep(0.1)
                elif calls[place] > after_calls and not (folder / "over").exists():
                    (folder / f"begun {lane} {pair.replace(':', ' ')}").touch()
                    while not (folder / "over").exists():
                        time.sleep(0.01)
                    (folder / f"returned {lane} {pair.replace(':', ' ')}").touch()
            return apply_model(args["input"], args["timestep"], **args["c"])

        model.set_model_unet_function_wrapper(endless)
        return io.NodeOutput(model)


class TestNaNItem(io.ComfyNode):
    """A LATENT with NaN in one of its items, or with a finite number in that place."""

    @classmethod
    def define_schema(cls):
        inputs = [io.Latent.Input("samples"), io.Int.Input("item"), io.Boolean.Input("sound", default=False)]
        return io.Schema(node_id="TestNaNItem", category="tests", inputs=inputs, outputs=[io.Latent.Output()])

    @classmethod
    def execute(cls, samples, item, sound):
        x = samples["samples"].clone()
        x[item].view(-1)[3] = 0.5 if sound else torch.nan
        return io.NodeOutput({**samples, "samples": x})


class TestNaNModel(io.ComfyNode):
    """A MODEL that returns NaN in one item (-1: all): on one lane from the given call on; on all lanes (-1) from that
    step on, whichever lane makes it, for a lane alone with NaN is lost."""

    @classmethod
    def define_schema(cls):
        names = ("item", "from_call", "lane")
        inputs = [io.Model.Input("model"), *(io.Int.Input(name, min=-1) for name in names)]
        return io.Schema(node_id="TestNaNModel", category="tests", inputs=inputs, outputs=[io.Model.Output()])

    @classmethod
    def execute(cls, model, item, from_call, lane):
        model = model.clone()
        calls = Counter()

        def broken(apply_model, args):
            denoised = apply_model(args["input"], args["timestep"], **args["c"])
            thread = threading.current_thread().name
            calls[thread] += 1
            sigmas = args["c"]["transformer_options"]["sample_sigmas"]
            step = int((sigmas > 1.0001 * args["timestep"].max()).sum())
            alone = thread == f"chords-lane-{lane}" and calls[thread] > from_call
            if alone or (lane < 0 and step >= from_call):
                sides = len(args["cond_or_uncond"])
                denoised = denoised.clone()
                each = denoised.view(sides, -1, *denoised.shape[1:])
                each[:, slice(None) if item < 0 else item] = torch.nan
            return denoised

        model.set_model_unet_function_wrapper(broken)
        return io.NodeOutput(model)


class TestPatience(io.ComfyNode):
    """Sets how many seconds lanes and devices have for any call from now on; 0: the usual timeouts."""

    @classmethod
    def define_schema(cls):
        inputs = [io.Float.Input("seconds", max=1e9), io.Int.Input("salt")]
        return io.Schema(node_id="TestPatience", category="tests", inputs=inputs, outputs=[], is_output_node=True)

    @classmethod
    def execute(cls, seconds, salt):
        for name, module in sys.modules.items():
            if name.endswith((".nodes.host.devices.cfg_split", ".nodes.host.sampling.sampler")):
                module.LANE_TIMEOUTS = type(module.LANE_TIMEOUTS)(
                    **({"floor": seconds, "first": seconds} if seconds else {})
                )
        return io.NodeOutput()


class TestNoMemoryOnWorkers(io.ComfyNode):
    """A MODEL for which the given number of Ray workers has no memory when a run begins. ``file``: a path of the
    test."""

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
    """A MODEL whose sampling has a step callback that raises at the first step."""

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
            TestEndlessCall,
            TestHangingDevice,
            TestNaNItem,
            TestNaNModel,
            TestNoMemoryOnWorkers,
            TestPatience,
            TestRaisingListener,
        ]


async def comfy_entrypoint():
    return TestFaults()
