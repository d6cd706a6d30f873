"""Hooks that keep state in functions that they call, in wrapped hooks, and in iterators."""

# ruff: noqa: B006, B007, B023, E731, F841

import functools
from collections import deque

from .catalogue import must_be_found

CACHE: dict = {}


def _remember(value):
    CACHE["last"] = value


class _Chained:
    def __init__(self, old):
        self.old = old

    def __call__(self, f, args):
        return self.old(f, args)


@must_be_found
def keeps_helper():
    def hook(args):
        _remember(args)
        return args

    return hook


@must_be_found
def keeps_chain():
    last = None

    def inner(f, args):
        nonlocal last
        last = args
        return f(args)

    def outer(f, args):
        return inner(f, args)

    return outer


@must_be_found
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


@must_be_found
def keeps_chain_of_one_class():
    last = []

    def inner(f, args):
        last.append(args)
        return f(args)

    return _Chained(_Chained(_Chained(inner)))


@must_be_found
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


@must_be_found
def keeps_map():
    hist = []

    def f(args):
        hist.append(args)
        return args

    def hook(args):
        return list(map(f, [args]))

    return hook


@must_be_found
def keeps_iter():
    it = iter(range(100))

    def hook(args):
        return args["x"] * next(it)

    return hook


@must_be_found
def keeps_in_generator():
    def running():
        last = None
        while True:
            last = yield last

    run = running()
    next(run)
    return lambda args: run.send(args)


@must_be_found
def keeps_lru():
    state = []

    @functools.lru_cache
    def f(args):
        state.append(args)
        return args

    def hook(args):
        return f(args)

    return hook
