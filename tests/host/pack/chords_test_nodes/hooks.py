"""Hooks as packs write them, for the guard to read: makers of some that keep state or draw random numbers, by each way
in which Python code can, and of some that only look so."""

# ruff: noqa: B006, B007, B023, E731, F841

import copy
import functools
import random
import threading
import time
from collections import defaultdict, deque
from dataclasses import dataclass
from unittest import mock

import numpy as np
import torch
from torch import nn

UNSTEADY = {}
"""Makers of hooks that are not the same in each call, by name."""
STEADY = {}
"""Makers of hooks that are."""


def _unsteady(maker):
    UNSTEADY[maker.__name__] = maker
    return maker


def _steady(maker):
    STEADY[maker.__name__] = maker
    return maker


class Counter:
    step = 0


class Box:
    pass


CACHE = {}
LAST = None


def _keeps_last(function):
    last = None

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        nonlocal last
        last = function(*args, **kwargs)
        return last

    return wrapper


def _remember(value):
    CACHE["last"] = value


@_unsteady
def keeps_no_grad():
    last = None

    @torch.no_grad()
    def hook(args):
        nonlocal last
        last = args["denoised"]
        return last

    return hook


@_unsteady
def keeps_wraps():
    @_keeps_last
    def hook(args):
        return args

    return hook


@_unsteady
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


@_unsteady
def keeps_partial():
    def hook(state, args):
        state["n"] = 1
        return args

    return functools.partial(hook, {})


@_unsteady
def keeps_partial_kw():
    def hook(args, state):
        state.append(args)
        return args

    return functools.partial(hook, state=[])


@_unsteady
def keeps_object():
    class P:
        def __init__(self):
            self.n = 0

        def __call__(self, args):
            return self.go(args)

        def go(self, args):
            self.n += 1
            return args

    return P()


@_unsteady
def keeps_bound():
    class P:
        hist = []

        def go(self, args):
            self.hist.append(args)
            return args

    return P().go


@_unsteady
def keeps_class_attribute():
    def hook(args):
        Counter.step += 1
        return args

    return hook


@_unsteady
def keeps_helper():
    def hook(args):
        _remember(args)
        return args

    return hook


@_unsteady
def keeps_alias():
    state = {"d": {}}

    def hook(args):
        d = state["d"]
        d["k"] = args
        return args

    return hook


@_unsteady
def keeps_default():
    def hook(args, _c=[]):
        _c.append(args)
        return args

    return hook


@_unsteady
def keeps_kwdefault():
    def hook(args, *, _c={}):
        _c["a"] = args
        return args

    return hook


@_unsteady
def keeps_model_options():
    def group(o, k):
        o[k] = o.get(k, {})
        return o[k]

    def hook(args):
        g = group(args["model_options"], "q")
        g["m"] = 1
        return args["denoised"]

    return hook


@_unsteady
def keeps_options_given():
    def hook(executor, x, t, model_options, seed):
        model_options["transformer_options"]["k"] = 1
        return executor(x, t, model_options, seed)

    return hook


@_unsteady
def keeps_options_setdefault():
    def hook(args):
        d = args["model_options"].setdefault("mine", {})
        d["last"] = args["denoised"]
        return d

    return hook


@_unsteady
def draws_randn():
    def noisy(x):
        return torch.randn(x.shape)

    def hook(args):
        return args["x"] + noisy(args["x"])

    return hook


@_unsteady
def draws_randlike():
    return lambda args: args["x"] + torch.randn_like(args["x"])


@_unsteady
def draws_numpy():
    def hook(args):
        return args["x"] * np.random.rand()

    return hook


@_unsteady
def draws_python():
    from random import gauss

    def hook(args):
        return args["x"] * gauss(0, 1)

    return hook


@_unsteady
def draws_pyimport():
    def hook(args):
        import random as r

        return args["x"] * r.random()

    return hook


@_unsteady
def draws_own_gen():
    g = torch.Generator().manual_seed(1)

    def hook(args):
        return torch.randn(3, generator=g)

    return hook


@_unsteady
def draws_nprng():
    rng = np.random.default_rng(0)

    def hook(args):
        return args["x"] * rng.normal()

    return hook


@_unsteady
def draws_inplace_normal():
    def hook(args):
        return torch.empty(3).normal_()

    return hook


@_unsteady
def keeps_buffer():
    class M(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("b", torch.zeros(3))

        def forward(self, args):
            self.b.mul_(0.5).add_(1)
            return args

    return M()


@_unsteady
def keeps_buffer_aug():
    b = torch.zeros(3)

    def hook(args):
        buf = b
        buf += 1
        return args

    return hook


@_unsteady
def keeps_buffer_item():
    b = torch.zeros(3)

    def hook(args):
        b[0] = args["x"].mean()
        return args

    return hook


@_unsteady
def keeps_submodule():
    class S(nn.Module):
        def forward(self, args):
            self.last = args
            return args

    class M(nn.Module):
        def __init__(self):
            super().__init__()
            self.s = S()

        def forward(self, args):
            return self.s(args)

    m = M()

    def hook(args):
        return m(args)

    return hook


@_unsteady
def keeps_chain():
    last = None

    def inner(f, args):
        nonlocal last
        last = args
        return f(args)

    def outer(f, args):
        return inner(f, args)

    return outer


@_unsteady
def keeps_chain_obj():
    class W:
        def __init__(self, o):
            self.old = o

        def __call__(self, f, args):
            return self.old(f, args) if self.old else f(args)

    last = []

    def inner(f, args):
        last.append(args)
        return f(args)

    return W(inner)


class _Chained:
    def __init__(self, old):
        self.old = old

    def __call__(self, f, args):
        return self.old(f, args)


@_unsteady
def keeps_chain_of_one_class():
    last = []

    def inner(f, args):
        last.append(args)
        return f(args)

    return _Chained(_Chained(_Chained(inner)))


@_unsteady
def keeps_network():
    network = nn.Linear(2, 2)

    def hook(args):
        return network.to(args["x"].device)(args["x"])

    return hook


@_unsteady
def keeps_list_of_fns():
    hist = deque()

    def f(args):
        hist.append(args)
        return args

    fns = [f]

    def hook(args):
        for g in fns:
            args = g(args)
        return args

    return hook


@_unsteady
def keeps_map():
    hist = []

    def f(args):
        hist.append(args)
        return args

    def hook(args):
        return list(map(f, [args]))

    return hook


@_unsteady
def keeps_setattr():
    b = Box()

    def hook(args):
        b.x = args
        return args

    return hook


@_unsteady
def keeps_dunder_dict():
    b = Box()

    def hook(args):
        b.__dict__["x"] = args
        vars(b)["y"] = args
        return args

    return hook


@_unsteady
def keeps_guider_attr():
    def hook(executor, *args):
        executor.class_obj.last = args
        return executor(*args)

    return hook


@_unsteady
def keeps_global():
    def hook(args):
        global LAST
        LAST = args
        return args

    return hook


@_unsteady
def keeps_globals():
    def hook(args):
        globals()["z"] = args
        return args

    return hook


@_unsteady
def keeps_type_self():
    class P:
        n = 0

        def __call__(self, args):
            type(self).n += 1
            return args

    return P()


@_unsteady
def keeps_super():
    class A:
        def __call__(self, args):
            self.n = args
            return args

    class B(A):
        def __call__(self, args):
            return super().__call__(args)

    return B()


@_unsteady
def keeps_branch():
    state = {}

    def hook(args):
        d = {}
        if args["x"]:
            d = state
        d["k"] = 1
        return args

    return hook


@_unsteady
def keeps_tuple():
    state = {}
    lock = threading.Lock()

    def hook(args):
        with lock:
            d, e = state, {}
            d["k"] = 1
            return args

    return hook


@_unsteady
def keeps_del():
    state = {"x": 1}

    def hook(args):
        if "x" in state:
            del state["x"]
        return args

    return hook


@_unsteady
def keeps_iter():
    it = iter(range(100))

    def hook(args):
        return args["x"] * next(it)

    return hook


@_unsteady
def keeps_loop():
    blocks = [Box(), Box()]

    def hook(args):
        for i, b in enumerate(blocks):
            b.last = args
        return args

    return hook


@_unsteady
def keeps_comprehension():
    blocks = [[], []]

    def hook(args):
        [b.append(args) for b in blocks]
        return args

    return hook


@_unsteady
def keeps_out():
    buf = torch.zeros(3)

    def hook(args):
        return torch.mul(args["x"], 2, out=buf)

    return hook


@_unsteady
def keeps_nested():
    state = {}

    def hook(args):
        def inner(v):
            state["v"] = v
            return v

        return inner(args)

    return hook


@_unsteady
def keeps_property():
    class P:
        def __init__(self):
            self._n = 0

        @property
        def n(self):
            self._n += 1
            return self._n

        def __call__(self, args):
            return args * self.n

    return P()


@_unsteady
def keeps_defaultdict():
    state = defaultdict(list)

    def hook(args):
        state[0].append(args)
        return args

    return hook


@_unsteady
def keeps_lru():
    state = []

    @functools.lru_cache
    def f(args):
        state.append(args)
        return args

    def hook(args):
        return f(args)

    return hook


@_unsteady
def keeps_walrus():
    state = {}

    def hook(args):
        (d := state)["k"] = args
        return args

    return hook


@_unsteady
def keeps_cls_instance():
    class Run:
        def __init__(self, o):
            self.o = o

        def go(self, args):
            CACHE["x"] = args
            return args

    def hook(args):
        return Run(1).go(args)

    return hook


@_unsteady
def keeps_ternary():
    state = {}

    def hook(args):
        d = state if args else {}
        d.update(x=1)
        return args

    return hook


@_unsteady
def keeps_param_default_obj():
    b = Box()

    def hook(args, _b=b):
        _b.x = args
        return args

    return hook


@_unsteady
def draws_shuffle():
    def hook(args):
        idx = list(range(5))
        random.shuffle(idx)
        return args[idx]

    return hook


@_unsteady
def keeps_threadident():
    state = {}

    def hook(args):
        state[threading.get_ident()] = args
        return args

    return hook


@_unsteady
def keeps_exec():
    ns = {}
    exec("last=None\ndef hook(args):\n global last\n last=args\n return args", ns)
    return ns["hook"]


@_unsteady
def draws_unseeded():
    def hook(args):
        rng = np.random.default_rng()
        return args["x"] * rng.normal()

    return hook


@_unsteady
def keeps_by_bound_method():
    seen = []
    keep = seen.append

    def hook(args):
        keep(args)
        return args

    return hook


@_unsteady
def keeps_by_bound_setattr():
    keep = functools.partial(setattr, Box(), "last")

    def hook(args):
        keep(args)
        return args

    return hook


@_unsteady
def keeps_in_context():
    class Context:
        entered = 0

        def __enter__(self):
            self.entered += 1

        def __exit__(self, *error):
            pass

    context = Context()

    def hook(args):
        with context:
            return args

    return hook


@_unsteady
def keeps_in_operator():
    class Total:
        total = 0

        def __add__(self, other):
            self.total += other
            return self.total

    total = Total()
    return lambda args: total + args


@_unsteady
def keeps_in_attribute_of_class():
    class Counted:
        def __get__(self, instance, owner):
            Counter.step += 1
            return Counter.step

    class Hook:
        step = Counted()

        def __call__(self, args):
            return args * self.step

    return Hook()


@_unsteady
def keeps_in_generator():
    def running():
        last = None
        while True:
            last = yield last

    run = running()
    next(run)
    return lambda args: run.send(args)


@_unsteady
def keeps_in_hook_of_module():
    seen, network = [], nn.Linear(2, 2)
    network.register_forward_hook(lambda module, given, out: seen.append(out))
    return lambda args: network(args)


@_unsteady
def keeps_behind_class_as_decorator():
    class Counting:
        def __init__(self, function):
            functools.update_wrapper(self, function)
            self.function, self.calls = function, 0

        def __call__(self, *args):
            self.calls += 1
            return self.function(*args)

    @Counting
    def hook(args):
        return args

    return hook


@_unsteady
def keeps_in_method_for_a_while():
    def forward(self, args):
        self.last = args
        return args

    def hook(apply_model, args):
        network = apply_model.__self__.diffusion_model
        with mock.patch.multiple(network, forward=forward.__get__(network, type(network))):
            return apply_model(args)

    return hook


@_unsteady
def draws_by_table():
    kinds = {"gaussian": torch.randn_like}

    def hook(args, kind="gaussian"):
        return args["x"] + kinds[kind](args["x"])

    return hook


@_unsteady
def draws_by_distribution():
    normal = torch.distributions.Normal(0.0, 1.0)
    return lambda args: args["x"] + normal.sample(args["x"].shape)


@_steady
def has_local():
    def hook(args):
        out = {}
        out["a"] = 1
        extra = []
        extra.append(2)
        b = Box()
        b.x = 1
        return args["denoised"] * 2

    return hook


@_steady
def has_args():
    def hook(apply_model, args):
        c = args["c"]
        c["c_crossattn"] = c["c_crossattn"] * 2
        c["transformer_options"]["x"] = 1
        args["input"] *= 1
        return apply_model(args["input"], args["timestep"], **c)

    return hook


@_steady
def has_closure_read():
    held = {"scale": 2.0}
    ks = [1, 2]

    def hook(args):
        return args["x"] * held["scale"] * sum(ks)

    return hook


@_steady
def has_copy():
    held = {"a": 1}

    def hook(args):
        d = held.copy()
        d["b"] = 1
        e = dict(held)
        e["c"] = 2
        f = copy.deepcopy(held)
        f["z"] = 1
        mo = args["model_options"].copy()
        mo["x"] = 1
        mo["transformer_options"] = mo.get("transformer_options", {}).copy()
        mo["transformer_options"]["p"] = 1
        return args["x"]

    return hook


@_steady
def has_seeded():
    def hook(args):
        g = torch.Generator(device="cpu").manual_seed(3)
        return torch.randn(3, generator=g)

    return hook


@_steady
def has_seeded2():
    seed = 3

    def hook(args):
        g = torch.Generator()
        g.manual_seed(seed)
        r = np.random.default_rng(seed)
        q = random.Random(seed)
        return torch.randn(3, generator=g) * r.normal() * q.random()

    return hook


@_steady
def has_pag():
    def hook(args):
        x = args["denoised"]
        m = args["cond_denoised"] - args["uncond_denoised"]
        conds = args["conds_out"] if "conds_out" in args else [x]
        conds[1:] = [x]
        conds[0] = x
        x[:, :2] = x[:, :2] * 1.2
        out = x.clone()
        out.mul_(2)
        out.data.add_(1)
        return out

    return hook


@_steady
def has_object():
    class P:
        def __init__(self):
            self.k = 2

        def __call__(self, args):
            return self.go(args)

        def go(self, args):
            r = []
            r.append(self.k)
            y = args["x"]
            y = y * self.k
            y += 1
            return y

    return P()


@_steady
def has_module():
    class M(nn.Module):
        def __init__(self):
            super().__init__()
            self.l = nn.Linear(2, 2)

        def forward(self, args):
            return self.l(args)

    return M()


@_steady
def has_sleep():
    c = random.Random(3)

    def hook(f, args):
        time.sleep(c.random() * 0.02)
        return f(args)

    return hook


@_steady
def has_made_instance():
    class R:
        def __init__(self, x):
            self.x = x
            self.n = 0

        def run(self):
            self.n += 1
            return self.x

    def hook(args):
        return R(args).run()

    return hook


@_steady
def has_lanes():
    n = {"c": 0}

    def lane():
        return threading.current_thread().name.startswith("chords-lane-")

    def hook(f, args):
        if threading.current_thread().name.startswith("chords-lane-"):
            n["c"] += 1
        return f(args)

    return hook


@_steady
def has_nested_nonlocal():
    def hook(args):
        total = 0

        def add(v):
            nonlocal total
            total += v

        add(1)
        return args

    return hook


@_steady
def has_int_alias():
    class P:
        def __init__(self):
            self.k = 2

        def __call__(self, args):
            k = self.k
            k += 1
            k *= 2
            return args * k

    return P()


@_steady
def has_lists():
    blocks = [1, 2]

    def hook(args):
        bs = list(blocks)
        bs.append(3)
        ss = sorted(blocks)
        ss.pop()
        return args

    return hook


@dataclass
class _Settings:
    scale: float = 2.0


@_steady
def has_dataclass():
    def hook(args):
        return args["x"] * _Settings(3.0).scale

    return hook


@_steady
def has_recursion():
    def hook(args):
        def down(value, depth):
            return value if depth == 0 else down(value, depth - 1) + down(value, depth - 1)

        return down(args["x"], 3)

    return hook


@_steady
def has_network():
    network = nn.Sequential(nn.Linear(2, 2), nn.GELU())

    def hook(args):
        return network(args["x"])

    return hook
