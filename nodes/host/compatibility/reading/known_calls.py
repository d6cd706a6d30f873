"""What calls of Python, torch and numpy do, as far as reading has to know: change an object, or draw numbers."""

from __future__ import annotations

import ast
import heapq
import logging
import operator
import os
import random
import threading
import time
import types
import warnings
from typing import Any

import numpy as np
import torch

LANES = ("chords-lane", "multigpu_thread_device")
"""The first part of the names of the lanes' threads, and the host's option that names the device of a call. Code that
contains one of them is written for calls on several devices."""

CHANGES_CONTAINER = frozenset(
    """add append appendleft clear discard extend extendleft insert move_to_end pop popitem popleft put put_nowait
    remove reverse rotate setdefault sort update __delitem__ __setitem__ __iadd__ difference_update
    intersection_update symmetric_difference_update""".split()
)
"""Methods that change the container they belong to."""

CHANGES_FIRST: tuple[Any, ...] = (
    setattr,
    delattr,
    object.__setattr__,
    operator.setitem,
    operator.delitem,
    heapq.heappush,
    heapq.heappop,
    heapq.heapreplace,
    heapq.heappushpop,
    heapq.heapify,
    np.copyto,
    np.place,
    np.put,
    np.putmask,
)
"""Functions that change their first argument."""

ADVANCES = frozenset(("__next__", "send", "throw"))
"""Methods that advance an iterator."""

OPERATORS = {
    ast.Add: "add",
    ast.BitAnd: "and",
    ast.BitOr: "or",
    ast.BitXor: "xor",
    ast.Div: "truediv",
    ast.FloorDiv: "floordiv",
    ast.LShift: "lshift",
    ast.MatMult: "matmul",
    ast.Mod: "mod",
    ast.Mult: "mul",
    ast.Pow: "pow",
    ast.RShift: "rshift",
    ast.Sub: "sub",
}
"""The methods behind operators, without underscores and prefixes."""

PASSES_ELEMENTS = frozenset("get items keys pop popitem popleft setdefault values __getitem__".split())
"""Methods whose result is a part of their object."""

TENSOR_PARTS = frozenset("data device dtype grad H imag mH mT ndim real shape T".split())
"""Attributes of an argument of the call that belong to the call as well."""

MOVES = frozenset("bfloat16 cpu cuda double float half load_state_dict register_buffer to to_empty type".split())
"""Methods of a network that change it. In several lanes, the network would be on several devices at once."""

HARMLESS_IN_PLACE = frozenset(("requires_grad_", "share_memory_", "retain_grad_"))
"""Methods with the name of an in-place operation that change no value."""

_DRAWN_IN_PLACE = frozenset("bernoulli_ cauchy_ exponential_ geometric_ log_normal_ normal_ random_ uniform_".split())
_TORCH_DRAWS = frozenset(
    """bernoulli binomial multinomial normal poisson rand rand_like randint
    randint_like randn randn_like randperm manual_seed seed set_rng_state""".split()
)
_FUNCTIONAL_DRAWS = frozenset("gumbel_softmax fractional_max_pool2d fractional_max_pool3d".split())
_TORCH_MODULES = (torch, torch.random, torch.cuda, torch.cuda.random, torch.nn.functional)
_GENERATORS = (random.Random, np.random.Generator, np.random.RandomState, torch.Generator)
_MAKES_GENERATORS = frozenset(
    "Generator RandomState SeedSequence default_rng PCG64 PCG64DXSM MT19937 Philox SFC64 BitGenerator".split()
)
_READS_GENERATOR = frozenset("getstate get_state initial_seed bit_generator device clone_state".split())
_WITHOUT_RESULT = (time.sleep, print, warnings.warn, threading.Event.wait)


def has_no_result(called: Any) -> bool:
    """Whether a call only waits or prints, so that its arguments have no effect on the result of the patch."""
    if isinstance(called, types.MethodType):
        if isinstance(called.__self__, logging.Logger):
            return True
        called = called.__func__
    if isinstance(called, types.FunctionType) and called.__module__ == logging.__name__:
        return True
    return any(called is known for known in _WITHOUT_RESULT)


def draws(called: Any, name: str, base: Any, kept: bool) -> bool:
    """Whether a call draws from a generator that outlives the call of the patch, or sets such a generator.

    ``name``: the name of the function or method; ``base``: the object of the method; ``kept``: whether that object
    outlives the call of the patch.
    """
    if name in _DRAWN_IN_PLACE and not isinstance(base, types.ModuleType):
        return True
    if isinstance(base, _GENERATORS):
        return kept and name not in _READS_GENERATOR
    if called is os.urandom:
        return True
    if name in ("sample", "rsample") and isinstance(base, torch.distributions.Distribution):
        return True
    owner = getattr(called, "__self__", None)
    # The functions of the modules random and numpy.random are methods of one global object.
    if isinstance(owner, random.Random | np.random.RandomState):
        return name not in _READS_GENERATOR
    if base is np.random:
        return name not in _MAKES_GENERATORS | _READS_GENERATOR
    if called is None or isinstance(called, type):
        return False
    return any(
        called is getattr(module, word, None)
        for module in _TORCH_MODULES
        for word in _TORCH_DRAWS | _FUNCTIONAL_DRAWS
        if word == getattr(called, "__name__", name)
    )


def is_unseeded(called: Any) -> bool:
    """Whether this makes a generator that starts with a random state if it gets no seed."""
    return any(called is known for known in (np.random.default_rng, np.random.RandomState, random.Random))
