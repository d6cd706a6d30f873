"""Hooks that draw random numbers."""

# ruff: noqa: B006, B007, B023, E731, F841

import random

import numpy as np
import torch

from .catalogue import must_be_found


@must_be_found
def draws_randn():
    def noisy(x):
        return torch.randn(x.shape)

    def hook(args):
        return args["x"] + noisy(args["x"])

    return hook


@must_be_found
def draws_randlike():
    return lambda args: args["x"] + torch.randn_like(args["x"])


@must_be_found
def draws_numpy():
    def hook(args):
        return args["x"] * np.random.rand()

    return hook


@must_be_found
def draws_python():
    from random import gauss

    def hook(args):
        return args["x"] * gauss(0, 1)

    return hook


@must_be_found
def draws_pyimport():
    def hook(args):
        import random as r

        return args["x"] * r.random()

    return hook


@must_be_found
def draws_own_gen():
    g = torch.Generator().manual_seed(1)

    def hook(args):
        return torch.randn(3, generator=g)

    return hook


@must_be_found
def draws_nprng():
    rng = np.random.default_rng(0)

    def hook(args):
        return args["x"] * rng.normal()

    return hook


@must_be_found
def draws_inplace_normal():
    def hook(args):
        return torch.empty(3).normal_()

    return hook


@must_be_found
def draws_shuffle():
    def hook(args):
        idx = list(range(5))
        random.shuffle(idx)
        return args[idx]

    return hook


@must_be_found
def draws_unseeded():
    def hook(args):
        rng = np.random.default_rng()
        return args["x"] * rng.normal()

    return hook


@must_be_found
def draws_by_table():
    kinds = {"gaussian": torch.randn_like}

    def hook(args, kind="gaussian"):
        return args["x"] + kinds[kind](args["x"])

    return hook


@must_be_found
def draws_by_distribution():
    normal = torch.distributions.Normal(0.0, 1.0)
    return lambda args: args["x"] + normal.sample(args["x"].shape)
