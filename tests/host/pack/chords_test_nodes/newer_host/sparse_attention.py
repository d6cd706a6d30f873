"""Attention that keeps the step before, in each place where it may be kept: as a node of a newer host has it."""

import operator

_LAST = {}
"""The attention of the step before, by block."""


def _place(transformer_options):
    return transformer_options.get("block_type"), transformer_options.get("block_index")


def _mixed(now, last):
    return now if last is None or last.shape != now.shape else 0.6 * now + 0.4 * last


def in_a_closure(network):
    last = {}

    def attend(func, *args, transformer_options, **kwargs):
        now = func(*args, transformer_options=transformer_options, **kwargs)
        place = _place(transformer_options)
        out, last[place] = _mixed(now, last.get(place)), now
        return out

    return {"optimized_attention_override": attend}


def in_a_global(network):
    _LAST.clear()

    def attend(func, *args, transformer_options, **kwargs):
        now = func(*args, transformer_options=transformer_options, **kwargs)
        place = _place(transformer_options)
        out, _LAST[place] = _mixed(now, _LAST.get(place)), now
        return out

    return {"optimized_attention_override": attend}


class Sparse:
    """An object that is called in the place of the attention."""

    def __init__(self):
        self.last = {}

    def __call__(self, func, *args, transformer_options, **kwargs):
        now = func(*args, transformer_options=transformer_options, **kwargs)
        return self.mixed(now, _place(transformer_options))

    def mixed(self, now, place):
        out, self.last[place] = _mixed(now, self.last.get(place)), now
        return out


def in_an_object(network):
    return {"optimized_attention_override": Sparse()}


class Memory:
    attention = None


def in_an_option(network):
    """The state is in an object beside the function, in the options of the network."""

    def attend(func, *args, transformer_options, **kwargs):
        memory = transformer_options["sparse_memory"]
        now = func(*args, transformer_options=transformer_options, **kwargs)
        out, memory.attention = _mixed(now, memory.attention), now
        return out

    return {"optimized_attention_override": attend, "sparse_memory": Memory()}


def in_an_attention_patch(network):
    last = {}

    def output(now, extra_options):
        place = _place(extra_options)
        out, last[place] = _mixed(now, last.get(place)), now
        return out

    return {"patches": {"attn1_output_patch": [output]}}


def in_a_block(network):
    """The state is an attribute of a block of the network."""
    block = network.double_blocks[0]
    block.sparse_last = None

    def replaced(args, extra):
        out = extra["original_block"](args)
        block.sparse_last, last = out["img"], block.sparse_last
        return {**out, "img": _mixed(out["img"], last)}

    return {"patches_replace": {"dit": {("double_block", 0): replaced}}}


def late(network):
    """Only in the second half of the steps: a trial does not find it."""
    last = {}

    def attend(func, *args, transformer_options, **kwargs):
        now = func(*args, transformer_options=transformer_options, **kwargs)
        if float(transformer_options["sigmas"].max()) > 0.5:
            return now
        place = _place(transformer_options)
        out, last[place] = _mixed(now, last.get(place)), now
        return out

    return {"optimized_attention_override": attend}


def hidden(network):
    """Reading does not find it."""
    memory = Memory()

    def attend(func, *args, transformer_options, **kwargs):
        now = func(*args, transformer_options=transformer_options, **kwargs)
        out = _mixed(now, memory.attention)
        operator.methodcaller("__setattr__", "attention", now)(memory)
        return out

    return {"optimized_attention_override": attend}


def harmless(network):
    """It depends on the call only."""

    def attend(func, q, k, v, *args, **kwargs):
        return func(q, 0.9 * k, v, *args, **kwargs)

    return {"optimized_attention_override": attend}
