"""What came of a benchmark's runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import comfy.model_management
import torch
from PIL import Image
from torch import Tensor

from ..devices.groups import is_shared
from ..devices.timings import TimingsKey
from ..sampling.options import SamplerOptions
from ..sampling.run_record import ChordsRun, RunHit
from ..streaming.hits import hit_images
from ..streaming.previews import to_picture
from .sweep import name_of


@dataclass(frozen=True, eq=False)
class TimedRun:
    """One run.

    Attributes:
        latent: its result, on the CPU.
        seconds: from its beginning to the latent.
        run: our record of it; None: the host's own sampler ran.
    """

    latent: Tensor
    seconds: float
    run: ChordsRun | None

    def seconds_to(self, place: int) -> float:
        """Until the hit at ``place`` of the record."""
        timeline = self.run.timeline if self.run is not None else None
        return self.seconds - (timeline.seconds - timeline.hits[place].seconds) if timeline else self.seconds


@dataclass(frozen=True)
class Fidelity:
    """How far a result is from the host's own.

    Attributes:
        rmse: of the latents, relative to the RMS of the host's.
        largest: the largest difference of the latents, relative likewise.
        psnr: of the decoded pictures in dB, infinite if they are equal.
    """

    rmse: float
    largest: float
    psnr: float


@dataclass(frozen=True, eq=False)
class TimedResult:
    """A result of a run.

    Attributes:
        core, depth: as of a hit; core 1 for the host's own sampler.
        seconds: since the run began.
        fidelity: its difference from the host's result.
        picture: the result, decoded.
    """

    core: int
    depth: int
    seconds: float
    fidelity: Fidelity
    picture: Image.Image


@dataclass(frozen=True, eq=False)
class BenchmarkRow:
    """What came of one setting.

    Attributes:
        options: the setting; None: the host's own sampler.
        seconds: of each timed run, from its beginning to the latent.
        run: the record of the last of them.
        first: its first result.
        accepted: the result that it ended with.
        hits: the relative RMSE of each hit of the record.
    """

    options: SamplerOptions | None
    seconds: tuple[float, ...]
    run: ChordsRun | None
    first: TimedResult
    accepted: TimedResult
    hits: tuple[float, ...] = ()

    @property
    def name(self) -> str:
        """The setting in a few words."""
        return name_of(self.options)

    def saves(self, steps: int) -> bool:
        """Whether it made fewer than ``steps`` model calls in a row, or shared each between two devices. Otherwise it
        did what the host does, and differences in time are chance."""
        run = self.run
        if run is None:
            return False
        return any(map(is_shared, run.devices)) or (run.method != "stock" and run.depth < steps)


@dataclass(frozen=True, eq=False)
class BenchmarkResult:
    """A benchmark.

    Attributes:
        rows: the host's own sampler first.
        key: the model and the devices.
        runs: the number of runs.
        seconds: the time that they took together.
    """

    rows: tuple[BenchmarkRow, ...]
    key: TimingsKey
    runs: int
    seconds: float


def compare(runs: dict[SamplerOptions | None, list[TimedRun]], steps: int, vae: Any) -> tuple[BenchmarkRow, ...]:
    """A row for each setting; the host's own sampler is that of None, and what the others are compared with."""
    comparer = _Comparer(runs[None][-1].latent, vae)
    return tuple(_row(options, timed, steps, comparer) for options, timed in runs.items())


def _row(options: SamplerOptions | None, timed: Sequence[TimedRun], steps: int, comparer: _Comparer) -> BenchmarkRow:
    times, newest = tuple(each.seconds for each in timed), timed[-1]
    run = newest.run
    if run is None:
        whole = comparer.result(newest.latent, RunHit(1, steps, newest.latent), median(times))
        return BenchmarkRow(options, times, None, whole, whole)
    last = len(run.hits) - 1
    place = next((place for place, hit in enumerate(run.hits) if hit.core), last)  # the draft does not count
    accepted = comparer.result(newest.latent, run.hits[last], median(times))
    if place == last:
        first = accepted
    else:
        hit = run.hits[place]
        first = comparer.result(hit.samples, hit, median(each.seconds_to(place) for each in timed))
    return BenchmarkRow(options, times, run, first, accepted, tuple(comparer.rmse(hit.samples) for hit in run.hits))


class _Comparer:
    """Compares latents with the host's own, and decodes each of them only once."""

    def __init__(self, stock: Tensor, vae: Any) -> None:
        self._stock, self._vae = stock.double(), vae
        self._decoded: list[tuple[Tensor, Tensor]] = []
        self._pixels = self._decode(stock)

    def result(self, latent: Tensor, hit: RunHit, seconds: float) -> TimedResult:
        """``latent``, which came as ``hit`` after ``seconds``."""
        pixels = self._decode(latent)
        error = (pixels.double() - self._pixels.double()).square().mean().item()
        psnr = math.inf if error == 0 else -10 * math.log10(error)
        fidelity = Fidelity(self.rmse(latent), self._relative(latent).abs().max().item(), psnr)
        return TimedResult(hit.core, hit.depth, seconds, fidelity, to_picture(pixels))

    def rmse(self, latent: Tensor) -> float:
        """Relative to the RMS of the host's latent."""
        return self._relative(latent).square().mean().sqrt().item()

    def _relative(self, latent: Tensor) -> Tensor:
        return (latent.double() - self._stock) / self._stock.square().mean().sqrt()

    def _decode(self, latent: Tensor) -> Tensor:
        """The pictures in 0..1, on the CPU."""
        for known, pixels in self._decoded:
            if torch.equal(known, latent):
                return pixels
        comfy.model_management.throw_exception_if_processing_interrupted()
        pixels = hit_images(ChordsRun(hits=(RunHit(1, 0, latent),)), self._vae).clamp(0, 1).cpu()
        self._decoded.append((latent, pixels))
        return pixels
