"""Hooks that are the same in every call, though they look similar to hooks that keep state."""

# ruff: noqa: B006, B007, B023, E731, F841

import copy
import random
import threading
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from .catalogue import harmless


@dataclass
class _Settings:
    scale: float = 2.0


class Box:
    pass


@harmless
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


@harmless
def has_args():
    def hook(apply_model, args):
        c = args["c"]
        c["c_crossattn"] = c["c_crossattn"] * 2
        c["transformer_options"]["x"] = 1
        args["input"] *= 1
        return apply_model(args["input"], args["timestep"], **c)

    return hook


@harmless
def has_closure_read():
    held = {"scale": 2.0}
    ks = [1, 2]

    def hook(args):
        return args["x"] * held["scale"] * sum(ks)

    return hook


@harmless
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


@harmless
def has_seeded():
    def hook(args):
        g = torch.Generator(device="cpu").manual_seed(3)
        return torch.randn(3, generator=g)

    return hook


@harmless
def has_seeded2():
    seed = 3

    def hook(args):
        g = torch.Generator()
        g.manual_seed(seed)
        r = np.random.default_rng(seed)
        q = random.Random(seed)
        return torch.randn(3, generator=g) * r.normal() * q.random()

    return hook


@harmless
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


@harmless
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


@harmless
def has_module():
    class M(nn.Module):
        def __init__(self):
            super().__init__()
            self.l = nn.Linear(2, 2)

        def forward(self, args):
            return self.l(args)

    return M()


@harmless
def has_sleep():
    c = random.Random(3)

    def hook(f, args):
        time.sleep(c.random() * 0.02)
        return f(args)

    return hook


@harmless
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


@harmless
def has_lanes():
    n = {"c": 0}

    def lane():
        return threading.current_thread().name.startswith("chords-lane-")

    def hook(f, args):
        if threading.current_thread().name.startswith("chords-lane-"):
            n["c"] += 1
        return f(args)

    return hook


@harmless
def has_nested_nonlocal():
    def hook(args):
        total = 0

        def add(v):
            nonlocal total
            total += v

        add(1)
        return args

    return hook


@harmless
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


@harmless
def has_lists():
    blocks = [1, 2]

    def hook(args):
        bs = list(blocks)
        bs.append(3)
        ss = sorted(blocks)
        ss.pop()
        return args

    return hook


@harmless
def has_dataclass():
    def hook(args):
        return args["x"] * _Settings(3.0).scale

    return hook


@harmless
def has_recursion():
    def hook(args):
        def down(value, depth):
            return value if depth == 0 else down(value, depth - 1) + down(value, depth - 1)

        return down(args["x"], 3)

    return hook


@harmless
def has_network():
    network = nn.Sequential(nn.Linear(2, 2), nn.GELU())

    def hook(args):
        return network(args["x"])

    return hook
