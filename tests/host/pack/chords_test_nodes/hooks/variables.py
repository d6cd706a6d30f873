"""Hooks that keep state in variables: enclosed, global, default values, and containers in them."""

# ruff: noqa: B006, B007, B023, E731, F841

import functools
import threading
from collections import defaultdict

import torch

from .catalogue import must_be_found

LAST = None


def _keeps_last(function):
    last = None

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        nonlocal last
        last = function(*args, **kwargs)
        return last

    return wrapper


class Box:
    pass


@must_be_found
def keeps_no_grad():
    last = None

    @torch.no_grad()
    def hook(args):
        nonlocal last
        last = args["denoised"]
        return last

    return hook


@must_be_found
def keeps_wraps():
    @_keeps_last
    def hook(args):
        return args

    return hook


@must_be_found
def keeps_wrapped_inner():
    seen = {}

    def keep(fn):
        @functools.wraps(fn)
        def w(*a, **k):
            return fn(*a, **k)

        return w

    @keep
    def hook(args):
        seen["x"] = args
        return args

    return hook


@must_be_found
def keeps_partial():
    def hook(state, args):
        state["n"] = 1
        return args

    return functools.partial(hook, {})


@must_be_found
def keeps_partial_kw():
    def hook(args, state):
        state.append(args)
        return args

    return functools.partial(hook, state=[])


@must_be_found
def keeps_default():
    def hook(args, _c=[]):
        _c.append(args)
        return args

    return hook


@must_be_found
def keeps_kwdefault():
    def hook(args, *, _c={}):
        _c["a"] = args
        return args

    return hook


@must_be_found
def keeps_param_default_obj():
    b = Box()

    def hook(args, _b=b):
        _b.x = args
        return args

    return hook


@must_be_found
def keeps_global():
    def hook(args):
        global LAST
        LAST = args
        return args

    return hook


@must_be_found
def keeps_globals():
    def hook(args):
        globals()["z"] = args
        return args

    return hook


@must_be_found
def keeps_exec():
    ns = {}
    exec("last=None\ndef hook(args):\n global last\n last=args\n return args", ns)
    return ns["hook"]


@must_be_found
def keeps_branch():
    state = {}

    def hook(args):
        d = {}
        if args["x"]:
            d = state
        d["k"] = 1
        return args

    return hook


@must_be_found
def keeps_tuple():
    state = {}
    lock = threading.Lock()

    def hook(args):
        with lock:
            d, e = state, {}
            d["k"] = 1
            return args

    return hook


@must_be_found
def keeps_ternary():
    state = {}

    def hook(args):
        d = state if args else {}
        d.update(x=1)
        return args

    return hook


@must_be_found
def keeps_walrus():
    state = {}

    def hook(args):
        (d := state)["k"] = args
        return args

    return hook


@must_be_found
def keeps_nested():
    state = {}

    def hook(args):
        def inner(v):
            state["v"] = v
            return v

        return inner(args)

    return hook


@must_be_found
def keeps_alias():
    state = {"d": {}}

    def hook(args):
        d = state["d"]
        d["k"] = args
        return args

    return hook


@must_be_found
def keeps_del():
    state = {"x": 1}

    def hook(args):
        if "x" in state:
            del state["x"]
        return args

    return hook


@must_be_found
def keeps_threadident():
    state = {}

    def hook(args):
        state[threading.get_ident()] = args
        return args

    return hook


@must_be_found
def keeps_defaultdict():
    state = defaultdict(list)

    def hook(args):
        state[0].append(args)
        return args

    return hook


@must_be_found
def keeps_model_options():
    def group(o, k):
        o[k] = o.get(k, {})
        return o[k]

    def hook(args):
        g = group(args["model_options"], "q")
        g["m"] = 1
        return args["denoised"]

    return hook


@must_be_found
def keeps_options_given():
    def hook(executor, x, t, model_options, seed):
        model_options["transformer_options"]["k"] = 1
        return executor(x, t, model_options, seed)

    return hook


@must_be_found
def keeps_options_setdefault():
    def hook(args):
        d = args["model_options"].setdefault("mine", {})
        d["last"] = args["denoised"]
        return d

    return hook
