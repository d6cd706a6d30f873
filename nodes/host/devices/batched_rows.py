"""Several states in one model call, on one device, each with a sigma of its own: as the rows of a batch."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import comfy.model_management
import comfy.sampler_helpers
import torch
from torch import Tensor

from ....chords_core import ROW_COUNTS, BatchPool, DenoiseRows, RowTimes, RowTrial
from ....chords_core.execution.pools import clear_frames
from ..interrupts import check_interrupt, passed_on
from ..known_sentences import phrase_of
from ..phrases import Phrase, message_of
from .controlnets import kinds_in
from .lanes import inline_denoiser
from .waiting import wait_for_device

_ROUNDING = {torch.float32: 1e-3, torch.float16: 4e-3}
"""How far a row may differ from a call of its own, by the type that the network computes in; relative to what the
network removes, without guidance. Measured: up to 1.7e-3 in float16 and 1.1e-2 in bfloat16 (benchmarks/results/gpu.md).
A row with the sigma or the prompt of another one differs by more than 0.1."""

_LOW_PRECISION = 1.5e-2
"""The same for bfloat16, and for types of fewer bits."""

_GUIDED = {torch.float32: 4e-3}
_GUIDED_LOW_PRECISION = 2e-2
"""The same with guidance, which makes the rounding of two sides larger. However strong it is: a row that differs by
more is not near."""

_SPARE_MEMORY = 1.5
"""Times the host's estimate of the memory of a call, as the host itself counts."""

_log = logging.getLogger("chords")


@dataclass(eq=False)
class _Known:
    """What trials and runs have shown for one model and shape since the server started."""

    seconds: dict[int, float] = field(default_factory=dict)
    problem: str = ""
    differences: dict[Hashable, str] = field(default_factory=dict)
    """From calls of one row, in words, by patches, prompt structure and number of rows; empty: there is none."""


_known: WeakKeyDictionary[Any, dict[Hashable, _Known]] = WeakKeyDictionary()  # by model


class RowCalls:
    """The model calls of one run, of one row or of several.

    Args:
        model: the host's model, as a sampler function gets it.
        extra_args: the further arguments of a model call.
        x: [B, ...] the start of the run.
        sigmas: [N + 1], its schedule.
        guided: whether each call has two sides.
    """

    def __init__(self, model: Any, extra_args: Mapping[str, Any], x: Tensor, sigmas: Tensor, guided: bool) -> None:
        self._model, self._extra_args = model, dict(extra_args)
        self._x, self._sigmas, self._guided = x, sigmas, guided
        self._guider = model.inner_model
        self._patcher = self._guider.model_patcher
        self.denoise = rows_denoiser(model, self._extra_args)
        structure = tuple(
            (side, tuple(sorted((*cond, *cond.get("model_conds", ())))), kinds_in(cond))
            for side, conds in self._guider.conds.items()
            for cond in conds or ()
        )
        self._subject = self._patcher.patches_uuid, structure
        self._known = _known.setdefault(self._patcher.model, {}).setdefault((tuple(x.shape), guided), _Known())
        self._fewer_than, self._problem = max(ROW_COUNTS) + 1, ""  # rows of this run, and why not more

    @property
    def seconds(self) -> Mapping[int, float]:
        """Of a call by its number of rows, for those that this run can use; empty if nothing is known."""
        return {rows: seconds for rows, seconds in self._known.seconds.items() if rows < self._fewer_than}

    @property
    def problem(self) -> Phrase:
        """Why this run can use no more rows, as a trial or a run has shown; empty if nothing is against them."""
        return phrase_of(self._problem or self._known.problem)

    def use(self, seconds: Mapping[int, float]) -> None:
        """Take these times, which were measured before the server started."""
        self._known.seconds = dict(seconds)

    def measure(self, worth: Callable[[int, Mapping[int, float]], bool]) -> Mapping[int, float]:
        """Time calls of several rows. Seconds of a call by its number of rows, for those that can be used; empty if the
        trial fails. ``worth``: see `RowTrial.measure`."""
        try:
            times = self._trial().measure(worth, self._fits)
        except Exception as error:
            clear_frames(error)
            times = RowTimes(problem=Phrase("a trial of rows failed: {error}", error=message_of(error)))
        check_interrupt()  # of which the trial may have made a failed call
        known = self._known
        known.seconds, known.problem = dict(times.seconds), times.problem
        known.differences |= {(self._subject, rows): "" for rows in times.seconds}
        if times.problem:
            comfy.model_management.soft_empty_cache()
        figures = ", ".join(f"{rows}: {seconds:.4g} s" for rows, seconds in times.seconds.items())
        _log.info("CHORDS: a call takes by its rows %s%s", figures, f" ({times.problem})" if times.problem else "")
        return times.seconds

    def check(self, rows: int) -> bool:
        """Whether this run can use calls of so many rows. If not, `seconds` has no time for it any more. Asks the model
        once since the server started.

        Raises:
            RowsFailed: if a call of so many rows raises.
        """
        found = self._known.differences.get((self._subject, rows))
        if found is None:
            if not self._fits(rows):
                self._limit(rows, Phrase("{rows} rows do not fit in memory", rows=rows))
                return False
            found = self._known.differences[self._subject, rows] = self._trial().check(rows)
        if found:
            self._limit(2, found)
        return not found

    def forbid(self, rows: int, problem: str) -> None:
        """Make no calls of so many rows of this model and shape any more, in any run. The memory of a failed one is
        given back."""
        check_interrupt()  # of which a failed call may have been made
        comfy.model_management.soft_empty_cache()
        self._known.problem = problem
        self._known.seconds = {count: seconds for count, seconds in self._known.seconds.items() if count < rows}
        self._limit(rows, problem)

    def pool(self, rows: int) -> BatchPool:
        """A pool that makes calls of so many rows."""
        return BatchPool(self.denoise, rows)

    def _limit(self, rows: int, problem: str) -> None:
        """Use no calls of so many rows in this run."""
        self._fewer_than, self._problem = min(rows, self._fewer_than), problem
        _log.warning("CHORDS: no calls of %d rows of this model: %s", rows, problem)

    def _trial(self) -> RowTrial:
        device, network = self._patcher.load_device, self._guider.inner_model
        limits, low = (_GUIDED, _GUIDED_LOW_PRECISION) if self._guided else (_ROUNDING, _LOW_PRECISION)
        limit = limits.get(network.manual_cast_dtype or network.get_dtype(), low)
        sigmas = self._sigmas[:-1].tolist()
        return RowTrial(self.denoise, self._x, sigmas, limit, synchronize=lambda: wait_for_device(device))

    def _fits(self, rows: int) -> bool:
        """Whether the host's estimate leaves room for so many rows. The host evaluates the sides of guidance one after
        the other where both do not fit."""
        device = self._patcher.load_device
        if device.type == "cpu":
            return True
        shape = [rows * self._x.shape[0], *self._x.shape[1:]]
        conds = {side: conds or [] for side, conds in self._guider.conds.items()}
        _, needed = comfy.sampler_helpers.estimate_memory(self._patcher, shape, conds)
        free: float = self._patcher.get_free_memory(device)
        return needed * _SPARE_MEMORY < free


def rows_denoiser(model: Any, extra_args: Mapping[str, Any]) -> DenoiseRows:
    """The sampler's model call for several states of the same shape, in the calling thread.

    Args:
        model: the host's KSamplerX0Inpaint. What it has for each item of the latent is repeated for each row.
        extra_args: the further arguments of a model call.
    """
    alone = inline_denoiser(model, dict(extra_args))
    tiled: dict[int, tuple[Any, dict[str, Any]]] = {}

    def denoise_rows(xs: Sequence[Tensor], sigmas: Sequence[float]) -> Sequence[Tensor]:
        with passed_on():  # in some hosts an interrupt is an Exception, as a lack of memory is
            if len(xs) == 1:
                return [alone(xs[0], sigmas[0])]
            if len(xs) not in tiled:
                tiled[len(xs)] = _tiled(model, extra_args, len(xs), xs[0].shape[0])
            rows_model, arguments = tiled[len(xs)]
            home, noise = xs[0].device, model.noise
            each = torch.tensor(list(sigmas), dtype=noise.dtype, device=noise.device)
            x = torch.cat(list(xs)).to(noise.device)
            denoised: Tensor = rows_model(x, each.repeat_interleave(xs[0].shape[0]), **arguments)
            return denoised.to(home).chunk(len(xs))

    return denoise_rows


def _tiled(model: Any, extra_args: Mapping[str, Any], rows: int, batch: int) -> tuple[Any, dict[str, Any]]:
    """The model and its arguments for a batch of so many rows. Conditioning is repeated by the host."""

    def repeated(value: Any) -> Any:
        if isinstance(value, Tensor) and value.shape[:1] == (batch,):
            return value.repeat(rows, *(1 for _ in value.shape[1:]))
        return value

    rows_model = copy.copy(model)
    for name in ("latent_image", "noise"):
        setattr(rows_model, name, repeated(getattr(model, name)))
    return rows_model, {**extra_args, "denoise_mask": repeated(extra_args.get("denoise_mask"))}
