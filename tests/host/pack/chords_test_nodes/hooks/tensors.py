"""Hooks that keep state in tensors and networks, or change a network."""

# ruff: noqa: B006, B007, B023, E731, F841

from unittest import mock

import torch
from torch import nn

from .catalogue import must_be_found


@must_be_found
def keeps_buffer():
    class M(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("b", torch.zeros(3))

        def forward(self, args):
            self.b.mul_(0.5).add_(1)
            return args

    return M()


@must_be_found
def keeps_buffer_aug():
    b = torch.zeros(3)

    def hook(args):
        buf = b
        buf += 1
        return args

    return hook


@must_be_found
def keeps_buffer_item():
    b = torch.zeros(3)

    def hook(args):
        b[0] = args["x"].mean()
        return args

    return hook


@must_be_found
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


@must_be_found
def keeps_network():
    network = nn.Linear(2, 2)

    def hook(args):
        return network.to(args["x"].device)(args["x"])

    return hook


@must_be_found
def keeps_out():
    buf = torch.zeros(3)

    def hook(args):
        return torch.mul(args["x"], 2, out=buf)

    return hook


@must_be_found
def keeps_in_hook_of_module():
    seen, network = [], nn.Linear(2, 2)
    network.register_forward_hook(lambda module, given, out: seen.append(out))
    return lambda args: network(args)


@must_be_found
def keeps_in_method_for_a_while():
    def forward(self, args):
        self.last = args
        return args

    def hook(apply_model, args):
        network = apply_model.__self__.diffusion_model
        with mock.patch.multiple(network, forward=forward.__get__(network, type(network))):
            return apply_model(args)

    return hook
