"""Measures the host's own sampler and settings of ours on the same picture: seconds, and how far results differ."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from statistics import fmean, median
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.utils
import torch
from PIL import Image
from torch import Tensor

from ...chords_core import Evaluation, InvalidInput, Timeline, choose_calls, plan
from .devices.lanes import SHARE
from .devices.request import DeviceRequest, lane_devices
from .devices.timings import Key, Measured, keep, key_of
from .ray.cluster import cluster_lanes
from .sampling.ksampler import schedule
from .sampling.options import CHORDS, EVERY_STEP, SECANT, SamplerOptions
from .sampling.run_record import ChordsRun, RunHit, tell
from .sampling.sampler import PARALLEL, chords_sampler
from .streaming.hits import hit_images
from .streaming.previews import to_picture

_log = logging.getLogger("chords")

FEWER_CALLS = "auto"


@dataclass(frozen=True, eq=False)
class Task:
    """What is sampled: KSampler's inputs."""

    model: Any
    seed: int
    steps: int
    cfg: float
    sampler_name: str
    scheduler: str
    positive: Any
    negative: Any
    latent: dict[str, Any]
    denoise: float


AUTO = SamplerOptions()


@dataclass(frozen=True)
class Fidelity:
    """How far a result is from the host's own: ``rmse`` and the ``largest`` difference of the latents, relative to the
    RMS of the host's; ``psnr`` of the decoded pictures in dB, infinite where they are equal."""

    rmse: float
    largest: float
    psnr: float


@dataclass(frozen=True, eq=False)
class Outcome:
    """A picture, ``seconds`` after the run began. ``core``: as of a hit, 1 for the host's own sampler."""

    core: int
    depth: int
    seconds: float
    fidelity: Fidelity
    picture: Image.Image


@dataclass(frozen=True, eq=False)
class Row:
    """What came of a ``setting`` (None: the host's own sampler). ``seconds``: of each timed run, from its beginning to
    the latent; ``run``: the record of the last of them; ``first``: its first hit, ``accepted``: its result."""

    setting: SamplerOptions | None
    seconds: tuple[float, ...]
    run: ChordsRun | None
    first: Outcome
    accepted: Outcome
    hits: tuple[float, ...] = ()  # the relative RMSE of each hit of the record

    @property
    def name(self) -> str:
        return _name(self.setting)

    def saves(self, steps: int) -> bool:
        """Whether it made fewer than ``steps`` model calls in a row, or shared each between two devices: else it was
        what the host does, in the same time but for chance."""
        run = self.run
        shared = run is not None and any(SHARE in device for device in run.devices)
        return shared or (run is not None and run.method != "stock" and run.depth < steps)


@dataclass(frozen=True, eq=False)
class Benchmark:
    """All rows, the host's own first; what they were measured on; and how many runs that took."""

    rows: tuple[Row, ...]
    key: Key
    runs: int
    seconds: float


def run_benchmark(task: Task, vae: Any, request: DeviceRequest | None, cores: Sequence[int], repeats: int) -> Benchmark:
    """Sample the task with the host's sampler and with each setting, ``repeats`` times in turn after a run of each
    number of cores that does not count. ``cores``: to try; empty for what the devices there are could gain from."""
    began = time.perf_counter()
    bench = _Bench(task, request or DeviceRequest())
    settings = sweep(bench.steps, cores or bench.counts()) if bench.parallel else [AUTO]
    warming = [None, AUTO, *(setting for setting in settings if _window(setting) and setting.calls == EVERY_STEP)]
    timed = repeats * [None, *settings]
    progress = _Progress(len(warming) + len(timed))
    for setting in warming:
        bench.sample(setting, progress.begin(f"{_name(setting)}, to warm up"))
    runs: dict[SamplerOptions | None, list[_Sampled]] = {setting: [] for setting in timed}
    for setting in timed:
        runs[setting].append(bench.sample(setting, progress.begin(_name(setting))))
    progress.end()
    rows = _rows(runs, bench.steps, vae)
    keep(bench.key, _measured(rows, bench.steps))
    return Benchmark(rows, bench.key, len(warming) + len(timed), time.perf_counter() - began)


def sweep(steps: int, counts: Sequence[int]) -> list[SamplerOptions]:
    """The settings to try: what the node chooses by itself; a window of each number of cores; CHORDS on the most of
    them, to its first result, to the one that it ends with by itself, and to the exact one, which is no faster but
    shows results before; and one core and each number with the model called at fewer steps, where that saves any.

    Methods are named: with some samplers "auto" takes one core."""
    settings = [AUTO, *(_on(cores) for cores in counts)]
    most = max(counts, default=0)
    if most > 1:
        settings += [SamplerOptions(most, accept, method=CHORDS) for accept in ("first", "auto", "exact")]
    if choose_calls(steps) is not None:
        settings += [_on(cores, FEWER_CALLS) for cores in sorted({1, *counts})]
    return settings


def _on(cores: int, calls: str = EVERY_STEP) -> SamplerOptions:
    """A window of so many cores; one core alone."""
    return SamplerOptions(cores, calls=calls, method=SECANT if cores > 1 else "auto")


def _window(setting: SamplerOptions) -> bool:
    return setting.cores > 1 and setting.method == SECANT


# --- one run


@dataclass(frozen=True, eq=False)
class _Sampled:
    """One run: its latent, how long it took, and our record of it."""

    latent: Tensor
    seconds: float
    run: ChordsRun | None

    def seconds_to(self, place: int) -> float:
        """Until the hit at ``place`` was there."""
        timeline = self.run.timeline if self.run is not None else None
        return self.seconds - (timeline.seconds - timeline.hits[place].seconds) if timeline else self.seconds


class _Bench:
    """Samples the task, as KSampler does, by whatever sampler is to be measured."""

    def __init__(self, task: Task, request: DeviceRequest) -> None:
        latent = task.latent
        self._task, self._request = task, request
        self._samples = comfy.sample.fix_empty_latent_channels(
            task.model,
            latent["samples"],
            latent.get("downscale_ratio_spacial"),
            latent.get("downscale_ratio_temporal"),
        )
        if self._samples.is_nested:
            raise InvalidInput("latent_image", "a latent of several parts (video and sound) cannot be measured yet")
        self._sigmas = schedule(task.model, task.steps, task.sampler_name, task.scheduler, task.denoise)
        if len(self._sigmas) < 2:
            raise InvalidInput("denoise", "at 0 there is nothing to sample")

    @property
    def key(self) -> Key:
        return key_of(self._task.model, self._samples.shape, self._request, self._task.cfg)

    @property
    def parallel(self) -> bool:
        """Whether settings make any difference to this sampler."""
        return self._task.sampler_name in PARALLEL

    @property
    def steps(self) -> int:
        return len(self._sigmas) - 1

    def counts(self) -> list[int]:
        """Numbers of cores that gain something on the lanes there are: all of them, and powers of two below."""
        primary = self._task.model.load_device
        if self._request.ray_address:
            lanes = cluster_lanes(self._request)
        else:
            lanes = len(lane_devices(self._request, primary))
        if primary.type == "cpu" and not self._request.ray_address:
            lanes = min(lanes, os.cpu_count() or 1)  # further ones would only take turns
        counts = sorted({lanes, *(1 << power for power in range(1, lanes.bit_length()))})
        solver = PARALLEL[self._task.sampler_name]
        return [cores for cores in counts if plan(self.steps, cores, method="secant", solver=solver).cores > 1]

    def sample(self, setting: SamplerOptions | None, callback: Any) -> _Sampled:
        """One run by the host's own sampler (None) or by ours, without previews of steps, which neither is about."""
        task = self._task
        inputs = {
            "latent_image": self._samples,
            "noise_mask": task.latent.get("noise_mask"),
            "callback": callback,
            "disable_pbar": True,
            "seed": task.seed,
        }
        began = time.perf_counter()
        noise = comfy.sample.prepare_noise(self._samples, task.seed, task.latent.get("batch_index"))
        run = None
        if setting is None:
            latent = comfy.sample.sample(
                task.model,
                noise,
                task.steps,
                task.cfg,
                task.sampler_name,
                task.scheduler,
                task.positive,
                task.negative,
                denoise=task.denoise,
                **inputs,
            )
        else:
            # Its pictures and lines would stay on the node in place of what the benchmark has to show.
            run = ChordsRun(latent_format=task.model.model.latent_format, shown=False)
            sampler = chords_sampler(task.sampler_name, setting, self._request, run=run)
            sigmas = self._sigmas.clone()  # some samplers change them
            latent = comfy.sample.sample_custom(
                task.model, noise, task.cfg, sampler, sigmas, task.positive, task.negative, **inputs
            )
        latent = latent.cpu()  # after all that the device still has to do
        return _Sampled(latent, time.perf_counter() - began, run)


class _Progress:
    """The host's progress bar over all runs, and a line on the node that says which one it is."""

    _PARTS = 100  # of a run

    def __init__(self, runs: int) -> None:
        self._runs, self._begun = runs, 0
        self._bar = comfy.utils.ProgressBar(self._PARTS * runs)

    def begin(self, name: str) -> Any:
        """The next run begins. Returns its sampler's callback, which raises where the user has interrupted."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        before = self._PARTS * self._begun
        self._begun += 1
        line = f"run {self._begun} of {self._runs}: {name}"
        _log.info("CHORDS benchmark: %s", line)
        tell(line)
        self._bar.update_absolute(before)

        def callback(step: int, denoised: Tensor, x: Tensor, steps: int) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            self._bar.update_absolute(before + min(self._PARTS - 1, self._PARTS * (step + 1) // steps))

        return callback

    def end(self) -> None:
        self._bar.update_absolute(self._PARTS * self._runs)


# --- what came of the runs


def _rows(runs: dict[SamplerOptions | None, list[_Sampled]], steps: int, vae: Any) -> tuple[Row, ...]:
    judge = _Judge(runs[None][-1].latent, vae)
    return tuple(_row(setting, sampled, steps, judge) for setting, sampled in runs.items())


def _row(setting: SamplerOptions | None, sampled: Sequence[_Sampled], steps: int, judge: _Judge) -> Row:
    times, newest = tuple(each.seconds for each in sampled), sampled[-1]
    run = newest.run
    if run is None:
        whole = judge.outcome(newest.latent, RunHit(1, steps, newest.latent), median(times))
        return Row(setting, times, None, whole, whole)
    last = len(run.hits) - 1
    place = next((place for place, hit in enumerate(run.hits) if hit.core), last)  # before it is the draft
    accepted = judge.outcome(newest.latent, run.hits[last], median(times))
    if place == last:
        early = accepted
    else:
        first = run.hits[place]
        early = judge.outcome(first.samples, first, median(each.seconds_to(place) for each in sampled))
    return Row(setting, times, run, early, accepted, tuple(judge.rmse(hit.samples) for hit in run.hits))


class _Judge:
    """Compares latents with the host's own, and decodes each only once."""

    def __init__(self, stock: Tensor, vae: Any) -> None:
        self._stock, self._vae = stock.double(), vae
        self._decoded: list[tuple[Tensor, Tensor]] = []
        self._pixels = self._decode(stock)

    def outcome(self, latent: Tensor, hit: RunHit, seconds: float) -> Outcome:
        """``latent``, which came as ``hit`` after ``seconds``."""
        pixels = self._decode(latent)
        error = (pixels.double() - self._pixels.double()).square().mean().item()
        psnr = math.inf if error == 0 else -10 * math.log10(error)
        fidelity = Fidelity(self.rmse(latent), self._relative(latent).abs().max().item(), psnr)
        return Outcome(hit.core, hit.depth, seconds, fidelity, to_picture(pixels))

    def rmse(self, latent: Tensor) -> float:
        return self._relative(latent).square().mean().sqrt().item()

    def _relative(self, latent: Tensor) -> Tensor:
        return (latent.double() - self._stock) / self._stock.square().mean().sqrt()

    def _decode(self, latent: Tensor) -> Tensor:
        """In 0..1, on the CPU."""
        for known, pixels in self._decoded:
            if torch.equal(known, latent):
                return pixels
        comfy.model_management.throw_exception_if_processing_interrupted()
        pixels = hit_images(ChordsRun(hits=(RunHit(1, 0, latent),)), self._vae).clamp(0, 1).cpu()
        self._decoded.append((latent, pixels))
        return pixels


def _measured(rows: Sequence[Row], steps: int) -> Measured:
    """What a later plan can be made from."""
    rounds: dict[int, float] = {}
    calls: dict[str, float] = {}
    shared = None
    # A window's rounds are what is planned with; of CHORDS, which has fewer cores at work in some, only without one.
    for run in sorted((row.run for row in rows if row.run), key=lambda run: run.method == "secant"):
        if run.timeline is None or run.depth == 0 or run.lost_lanes or len(run.devices) < run.plan.cores:
            continue
        windowed = run.method == "secant"
        seconds = _seconds_a_round(run.timeline) if windowed else run.timeline.seconds / run.depth
        if any(SHARE in device for device in run.devices):
            if run.plan.cores == 1:
                shared = min(seconds, shared or math.inf)
            continue
        if windowed:
            rounds[run.plan.cores] = seconds
        else:
            rounds.setdefault(run.plan.cores, seconds)
        lanes = run.timeline.seconds_per_evaluation()
        if len(lanes) >= len(calls):
            calls = {run.devices[lane]: seconds for lane, seconds in lanes.items()}
    when = datetime.now(timezone.utc).isoformat("T", "seconds")
    return Measured(median(rows[0].seconds) / steps, rounds, calls, shared, when)


def _seconds_a_round(timeline: Timeline) -> float:
    """From the first model call of a round to its last answer, by the mean: without what solving takes in between,
    which a plan adds by itself."""
    rounds: dict[int, list[Evaluation]] = {}
    for evaluation in timeline.evaluations:
        rounds.setdefault(evaluation.depth, []).append(evaluation)
    ends = (max(each.began + each.seconds for each in calls) for calls in rounds.values())
    begins = (min(each.began for each in calls) for calls in rounds.values())
    return fmean(end - begin for begin, end in zip(begins, ends, strict=True))


def _name(setting: SamplerOptions | None) -> str:
    if setting is None:
        return "KSampler"
    if setting.cores == 0:
        return "automatic"
    cores = f"{setting.cores} core{'s' * (setting.cores > 1)}"
    if setting.calls != EVERY_STEP:
        return f"{cores}, fewer calls"
    if setting.cores == 1:
        return cores
    if setting.method == SECANT:
        return f"{cores}, window"
    which = {"first": ", first result", "auto": ""}
    return f"{cores}, CHORDS{which.get(setting.accept, f', {setting.accept}')}"
