"""A node that decides what rows of one model call take, as if a trial had measured it."""

import json
import sys

from comfy_api.latest import io

from .base import ModelNode


class TestRowTimes(ModelNode):
    """Keeps the seconds of a call by its number of rows, for a latent of this shape on one device.

    ``trial``: measure it also on a CPU, in a trial as on a GPU, if ``seconds`` has nothing.
    ``fails_from``: calls of several rows raise from this one on, as if there were too little memory; 0: none does.
    """

    INPUTS = [
        io.String.Input("seconds", default="{}"),
        io.String.Input("shape", default="[1, 16, 16, 16]"),
        io.Float.Input("cfg", default=3.5),
        io.Int.Input("fails_from", default=0),
        io.Boolean.Input("trial", default=False),
        io.Int.Input("salt", default=0),
    ]

    @classmethod
    def execute(cls, model, seconds, shape, cfg, fails_from, trial, salt):
        rows = cls._module("devices.batched_rows")
        usual = getattr(rows.rows_denoiser, "usual", rows.rows_denoiser)
        rows.rows_denoiser = failing(usual, fails_from) if fails_from else usual
        rows._known.clear()
        cls._module("sampling.opened_rows").TRIED = frozenset(("cpu",) if trial else ("cuda", "xpu"))
        file, request = cls._module("devices.timings_file"), cls._module("devices.request").DeviceRequest()
        file.timings_path().unlink(missing_ok=True)
        times = {int(count): value for count, value in json.loads(seconds).items()}
        if times:
            file.keep_rows(file.timings_key(model, json.loads(shape), request, cfg), times)
        return io.NodeOutput(model)

    @staticmethod
    def _module(name):
        (found,) = (module for full, module in sys.modules.items() if full.endswith(f".nodes.host.{name}"))
        return found


def failing(usual, fails_from):
    """As ``usual``, with calls that fail."""
    made = []

    def rows_denoiser(*arguments):
        denoise = usual(*arguments)

        def denoise_rows(xs, sigmas):
            made.extend([len(xs)] if len(xs) > 1 else [])
            if len(xs) > 1 and len(made) >= fails_from:
                raise RuntimeError("too little memory, for a test")
            return denoise(xs, sigmas)

        return denoise_rows

    rows_denoiser.usual = usual
    return rows_denoiser


NODES = [TestRowTimes]
