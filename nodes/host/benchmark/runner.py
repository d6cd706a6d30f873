"""Runs a benchmark: the host's own sampler and each setting of ours, in turn."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.utils
from torch import Tensor

from ....chords_core import InvalidInput
from ..devices.available import lane_devices
from ..devices.request import DeviceRequest
from ..devices.timings import TimingsKey
from ..devices.timings_file import keep_timings, recall_timings, timings_key
from ..node_text import show_lines
from ..phrases import Phrase
from ..ray.cluster import cluster_lanes
from ..sampling.ksampler import KSamplerInputs
from ..sampling.names import PARALLEL
from ..sampling.options import SamplerOptions
from ..sampling.run_record import ChordsRun
from ..sampling.sampler import chords_sampler
from .measure import timings_of
from .results import BenchmarkResult, TimedRun, compare
from .sweep import AUTOMATIC, gaining, name_of, sweep, to_warm_up

_log = logging.getLogger("chords")


def run_benchmark(
    inputs: KSamplerInputs, vae: Any, request: DeviceRequest | None, cores: Sequence[int], repeats: int
) -> BenchmarkResult:
    """Sample with the host's sampler and with each setting, ``repeats`` times in turn, after one run of each number of
    cores that does not count. ``cores``: the numbers to try; empty: those that could gain something."""
    began = time.perf_counter()
    runner = _Runner(inputs, request or DeviceRequest())
    settings = sweep(cores or runner.counts()) if runner.parallel else [AUTOMATIC]
    warming = to_warm_up(settings)
    timed: list[SamplerOptions | None] = repeats * [None, *settings]
    progress = _Progress(len(warming) + len(timed))
    for options in warming:
        runner.sample(options, progress.begin(Phrase("{name}, to warm up", name=name_of(options))))
    runs: dict[SamplerOptions | None, list[TimedRun]] = {options: [] for options in timed}
    for options in timed:
        runs[options].append(runner.sample(options, progress.begin(name_of(options))))
    progress.end()
    rows = compare(runs, runner.steps, vae)
    step = median(rows[0].seconds) / runner.steps
    known, timings = recall_timings(runner.key), timings_of((row.run for row in rows if row.run is not None), step)
    keep_timings(runner.key, replace(timings, rows=known.rows if known is not None else {}))
    return BenchmarkResult(rows, runner.key, len(warming) + len(timed), time.perf_counter() - began)


class _Runner:
    """Samples the same latent, as KSampler does, with the sampler that is to be measured."""

    def __init__(self, inputs: KSamplerInputs, request: DeviceRequest) -> None:
        self._inputs, self._request = inputs, request
        self._samples = inputs.samples()
        if self._samples.is_nested:
            raise InvalidInput("latent_image", "a latent of several parts (video and sound) cannot be measured yet")
        self._sigmas = inputs.sigmas()
        if len(self._sigmas) < 2:
            raise InvalidInput("denoise", "at 0 there is nothing to sample")

    @property
    def key(self) -> TimingsKey:
        return timings_key(self._inputs.model, self._samples.shape, self._request, self._inputs.cfg)

    @property
    def parallel(self) -> bool:
        """Whether settings make any difference for this sampler."""
        return self._inputs.sampler_name in PARALLEL

    @property
    def steps(self) -> int:
        return len(self._sigmas) - 1

    def counts(self) -> list[int]:
        """The numbers of cores that gain something on the lanes there are."""
        primary = self._inputs.model.load_device
        if self._request.ray_address:
            lanes = cluster_lanes(self._request)
        else:
            lanes = len(lane_devices(self._request, primary))
            if primary.type == "cpu":
                lanes = min(lanes, os.cpu_count() or 1)  # more lanes would only take turns
        return gaining(self.steps, lanes, PARALLEL[self._inputs.sampler_name])

    def sample(self, options: SamplerOptions | None, callback: Callable[..., None]) -> TimedRun:
        """One run by ours, or by the host's own sampler (None). Neither shows pictures of steps."""
        began = time.perf_counter()
        if options is None:
            latent, run = self._sample_stock(callback), None
        else:
            latent, run = self._sample_ours(options, callback)
        latent = latent.cpu()  # after everything that the device still has to do
        return TimedRun(latent, time.perf_counter() - began, run)

    def _sample_stock(self, callback: Callable[..., None]) -> Tensor:
        given = self._inputs
        latent: Tensor = comfy.sample.sample(
            given.model,
            given.noise(self._samples),
            given.steps,
            given.cfg,
            given.sampler_name,
            given.scheduler,
            given.positive,
            given.negative,
            self._samples,
            denoise=given.denoise,
            noise_mask=given.latent_image.get("noise_mask"),
            callback=callback,
            disable_pbar=True,
            seed=given.seed,
        )
        return latent

    def _sample_ours(self, options: SamplerOptions, callback: Callable[..., None]) -> tuple[Tensor, ChordsRun]:
        records: list[ChordsRun] = []
        # Not shown: its messages and pictures would stay on the node in place of the benchmark's own.
        sampler = chords_sampler(
            self._inputs.sampler_name, options, self._request, on_record=records.append, shown=False
        )
        sigmas = self._sigmas.clone()  # some samplers change them
        latent = self._inputs.sample_with(sampler, self._samples, sigmas, callback, disable_pbar=True)
        return latent, records[-1]


class _Progress:
    """The host's progress bar over all runs, and a line on the node that names the current run."""

    _PARTS = 100  # of a run

    def __init__(self, runs: int) -> None:
        self._runs, self._begun = runs, 0
        self._bar = comfy.utils.ProgressBar(self._PARTS * runs)

    def begin(self, name: str) -> Callable[..., None]:
        """Begin the next run. Returns its sampler's callback, which raises if the user has interrupted."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        before = self._PARTS * self._begun
        self._begun += 1
        line = Phrase("run {number} of {count}", number=self._begun, count=self._runs)
        _log.info("CHORDS benchmark: %s: %s", line, name)
        show_lines(line, name)
        self._bar.update_absolute(before)

        def callback(step: int, denoised: Tensor, x: Tensor, steps: int) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            self._bar.update_absolute(before + min(self._PARTS - 1, self._PARTS * (step + 1) // steps))

        return callback

    def end(self) -> None:
        self._bar.update_absolute(self._PARTS * self._runs)
