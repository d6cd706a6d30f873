"""Models that are slow, fail or hang on a lane, and what runs leave in the host's process."""

import collections
import math
import random
import sys
import threading
import time

import comfy.model_management
import comfy.patcher_extension
import server
import torch
from aiohttp import web
from comfy_api.latest import io

from .base import ModelNode, SaltedOutputNode, core_number, lane_number, wait_for_threads


class TestRandomDelay(ModelNode):
    """Every call takes up to 20 ms longer, each time another duration."""

    INPUTS = [io.Int.Input("salt", default=0)]

    @classmethod
    def execute(cls, model, salt):
        model = model.clone()
        chance = random.Random(salt)

        def delayed(apply_model, args):
            time.sleep(chance.random() * 0.02)
            return apply_model(args["input"], args["timestep"], **args["c"])

        model.set_model_unet_function_wrapper(delayed)
        return io.NodeOutput(model)


class TestSleepingModel(ModelNode):
    """Every call takes the given time and does not compute: it represents a model on a device of its own."""

    INPUTS = [io.Float.Input("milliseconds", default=20.0)]

    @classmethod
    def execute(cls, model, milliseconds):
        model = model.clone()

        def asleep(apply_model, args):
            time.sleep(milliseconds / 1000)
            return 0.5 * args["input"]

        model.set_model_unet_function_wrapper(asleep)
        return io.NodeOutput(model)


class TestSlowModel(ModelNode):
    """Every call computes, and takes so much longer: on lanes of a CPU it is like a model on devices of their own.

    ``inside``: the network is slow, so that a patch of the network can spare the time.
    """

    INPUTS = [io.Float.Input("milliseconds", default=100.0), io.Boolean.Input("inside", default=False)]

    @classmethod
    def execute(cls, model, milliseconds, inside):
        model = model.clone()

        def slow(apply_model, args):
            time.sleep(milliseconds / 1000)
            return apply_model(args["input"], args["timestep"], **args["c"])

        def slow_network(executor, *args, **kwargs):
            time.sleep(milliseconds / 1000)
            return executor(*args, **kwargs)

        if inside:
            kind = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
            model.add_wrapper_with_key(kind, "slow", slow_network)
        else:
            model.set_model_unet_function_wrapper(slow)
        return io.NodeOutput(model)


class TestFailingLane(ModelNode):
    """Calls on the given lanes raise, from the given call of the lane on. On the lanes of ``no_memory`` they raise the
    host's error for a device without memory."""

    INPUTS = [
        io.String.Input("lanes", default="1"),
        io.Int.Input("from_call", default=0),
        io.String.Input("no_memory", default="", optional=True),
    ]

    @classmethod
    def execute(cls, model, lanes, from_call, no_memory=""):
        model = model.clone()
        failing = {int(lane) for lane in lanes.split(",")}
        calls = dict.fromkeys(failing, 0)

        def failing_there(apply_model, args):
            lane = lane_number()
            if lane in failing:
                calls[lane] += 1
                if calls[lane] > from_call:
                    no_room = str(lane) in no_memory.split(",")
                    error = comfy.model_management.OOM_EXCEPTION if no_room else RuntimeError
                    raise error(f"lane {lane} is broken on purpose")
            return apply_model(args["input"], args["timestep"], **args["c"])

        model.set_model_unet_function_wrapper(failing_there)
        return io.NodeOutput(model)


class Hang:
    """The state of calls that hang, shared by all runs."""

    over = threading.Event()

    @classmethod
    def begin(cls):
        """Let calls hang that wait for ``over``; lanes have little time, but more than a busy machine stands still."""
        cls.over.clear()
        cls.set_timeouts(floor=5.0, first=10.0)

    @staticmethod
    def set_timeouts(**seconds):
        """Set the timeouts of lanes; without arguments, the usual ones."""
        modules = list(sys.modules.items())  # other threads import meanwhile
        (sampler,) = (module for name, module in modules if name.endswith(".nodes.host.sampling.sampler"))
        sampler.LANE_TIMEOUTS = type(sampler.LANE_TIMEOUTS)(**seconds)


class TestHangingLane(ModelNode):
    """One call on each of the given lanes hangs until TestHangIsOver runs, after the given number of calls on that
    lane. Lanes have five seconds to answer, and ten for the first call."""

    INPUTS = [io.String.Input("lanes", default="1"), io.Int.Input("after_calls", default=0)]

    @classmethod
    def execute(cls, model, lanes, after_calls):
        model = model.clone()
        calls = dict.fromkeys((int(lane) for lane in lanes.split(",")), 0)
        Hang.begin()

        def hanging_there(apply_model, args):
            lane = lane_number()
            if lane in calls:
                calls[lane] += 1
                if calls[lane] == after_calls + 1:
                    Hang.over.wait(600)
            return apply_model(args["input"], args["timestep"], **args["c"])

        model.set_model_unet_function_wrapper(hanging_there)
        return io.NodeOutput(model)


class TestHangIsOver(SaltedOutputNode):
    """Lets every call continue, waits until the threads of the lanes have ended, and restores the usual timeouts."""

    @classmethod
    def execute(cls, salt):
        Hang.over.set()
        Hang.set_timeouts()
        wait_for_threads("chords-lane-")
        names = [thread.name for thread in threading.enumerate()]
        return io.NodeOutput(ui={"threads": names})


class Hold:
    """The state of the run that is held: its prompt, how many results and calls it may have, how many calls it has
    made, and the fastest core of each lane."""

    prompt = None
    results = calls = math.inf
    lock = threading.Lock()
    made = 0
    cores = collections.Counter()  # by lane: the guard against patches that keep state leaves this to the lanes

    @classmethod
    def allow(cls, results=math.inf, calls=math.inf):
        """Let the run have so much. A held call is no broken lane: lanes have long timeouts meanwhile."""
        cls.results, cls.calls = results, calls
        is_held = min(results, calls) < math.inf
        Hang.set_timeouts(**({"floor": 600.0, "first": 600.0} if is_held else {}))

    @classmethod
    def begin(cls, results, calls):
        wait_for_threads("chords-lane-")  # the last calls of a run that was cancelled must not count in this one
        cls.allow(results, calls)
        cls.prompt, cls.made = _prompt(), 0
        cls.cores.clear()

    @classmethod
    def wait(cls, is_last):
        """``is_last``: a core makes its result with this call. Cores have their results in order, the fastest first,
        also where the call of a slower one comes earlier."""
        core = core_number()
        with cls.lock:
            cls.made += 1
            cls.cores[lane_number()] += max(0, core - cls.cores[lane_number()])
            number, result = cls.made, max(cls.cores.values()) + 1 - core if is_last and core else 0
        while (number > cls.calls or result > cls.results) and _prompt() == cls.prompt:
            if comfy.model_management.processing_interrupted():
                break  # the host forgets the cancel when the next prompt begins, perhaps before this thread asks
            time.sleep(0.02)


def _prompt():
    """The id of the prompt that runs; None in a worker of a cluster, which has no server."""
    return getattr(getattr(server.PromptServer, "instance", None), "last_prompt_id", None)


async def let_go(request):
    """POST /chords_test/let_go: the held run continues until it has so many ``results``, else to its end."""
    Hold.allow((await request.json()).get("results", math.inf))
    return web.json_response({})


if hasattr(server.PromptServer, "instance"):  # a worker of a cluster has none
    server.PromptServer.instance.routes.post("/chords_test/let_go")(let_go)


class TestHeldModel(ModelNode):
    """The run has this number of results after the draft, one of each core, and then waits until POST
    /chords_test/let_go: a test can look and click in the middle of a run, however fast or slow the machine is.

    ``calls``: it has so many model calls instead, if this is not negative. Where lanes call the model, another run goes
    before: its trial of this patch makes calls, too.
    """

    INPUTS = [
        io.Int.Input("results", default=1),
        io.Int.Input("salt", default=0),
        io.Int.Input("calls", default=-1, min=-1, optional=True),
    ]

    @classmethod
    def execute(cls, model, results, salt, calls=-1):
        model = model.clone()
        Hold.begin(*((results, math.inf) if calls < 0 else (math.inf, calls)))
        model.set_model_unet_function_wrapper(_held)
        return io.NodeOutput(model)


def _held(apply_model, args):
    """One function for all runs: the pack tries a patch once, with calls that count here as well."""
    last = args["c"]["transformer_options"]["sample_sigmas"][-2]
    Hold.wait(bool(args["timestep"].max() <= 1.0001 * last))
    return apply_model(args["input"], args["timestep"], **args["c"])


class TestThreads(SaltedOutputNode):
    """What a run might leave in the host: threads, the number of intra-op threads, patchers in use."""

    @classmethod
    def execute(cls, salt):
        wait_for_threads("chords-")
        loaded = comfy.model_management.loaded_models()
        in_use = sum(getattr(patcher.model, "current_patcher", None) is not None for patcher in loaded)
        names = [thread.name for thread in threading.enumerate()]
        return io.NodeOutput(ui={"threads": names, "intra_op": [torch.get_num_threads()], "current_patchers": [in_use]})


NODES = [
    TestHeldModel,
    TestRandomDelay,
    TestSleepingModel,
    TestSlowModel,
    TestFailingLane,
    TestHangingLane,
    TestHangIsOver,
    TestThreads,
]
