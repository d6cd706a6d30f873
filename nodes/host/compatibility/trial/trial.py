"""Tries the patches of other packs before their first run in parallel, with the run's own input.

Reading the code of a patch (`reading`) cannot find everything. Therefore the first run of a model with such
patches makes each lane call the model at one sigma, at another one, and at the first one again. The conditions of a
parallel run must hold: the same call gives the same result, and on each lane the result that it gives on the model's
own device; nothing draws from a global generator; nothing adds an option; the input stays as it was. If a condition
does not hold, the run takes one core. In both cases the trial restores what it changed. The answer to its first call
is used by the run, so that a trial costs two calls, once while the server runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .....chords_core import LaneTimeouts, Pool
from .....chords_core.execution.driver import drive
from .....chords_core.execution.lane_timeout import LaneWatchdog
from ...phrases import Phrase, listed
from .rounds import ROUNDS, FirstAnswerPool, TrialLanes, TrialRounds, failure_of, has_other_cause
from .saved_generators import SavedGenerators
from .saved_options import SavedOptions
from .saved_patches import SavedPatches
from .verdicts import LanePlace, TrialSubject, remember


def run_trial(
    subject: TrialSubject,
    pool: Pool,
    lanes: TrialLanes,
    places: Sequence[LanePlace],
    x: Tensor,
    sigmas: Tensor,
    cancelled: Callable[[], bool],
    timeouts: LaneTimeouts,
) -> tuple[Pool, Phrase | None]:
    """Try the patches on the lanes of ``pool``, and remember the verdict.

    An error that a patch raises is a failure of the trial. A cancel of the prompt passes through. An error with another
    cause (no memory, no finite number, a device that hangs) is left to the run.

    Args:
        places: where the lanes are.
        x: the start of the run.
        sigmas: [N + 1], its schedule.

    Returns:
        The pool for the run, which knows the answer to the first call, and the reason for one core; None if the trial
        passed.
    """
    trial = TrialRounds(pool.lanes, x, (float(sigmas[0]), float(sigmas[max(1, (len(sigmas) - 1) // 2)])))
    devices = {device for place in places if not isinstance(place, str) for device in place}
    generators, options = SavedGenerators.now(devices), SavedOptions.of(*lanes.options)
    patches = SavedPatches(hook.call for hook in subject.hooks)
    is_conclusive = anywhere = True
    try:
        drive(trial, pool, ROUNDS, on_event=trial.listen, cancel=cancelled, watchdog=LaneWatchdog(timeouts))
        failure = _failure(trial, lanes, generators, options, devices)
        if failure is None:
            failure = trial.failure_against_host(lanes)
            anywhere = failure is None
        is_conclusive = failure is not None or trial.is_complete
    except Exception as error:
        is_conclusive = not has_other_cause(error)
        failure = failure_of(error) if is_conclusive else None
    finally:
        generators.restore()
        patches.restore()
        options.restore()
    reason = None
    if failure is not None:
        packs = ", ".join(subject.packs)
        reason = Phrase("patches of {packs} were tried, and {failure}", packs=packs, failure=failure)
    if is_conclusive:
        remember(subject, places, reason, anywhere)
    return FirstAnswerPool(pool, trial), reason


def _failure(
    trial: TrialRounds,
    lanes: TrialLanes,
    generators: SavedGenerators,
    options: SavedOptions,
    devices: set[torch.device],
) -> Phrase | None:
    """Which condition the calls of a trial did not meet; None if they met all."""
    if drawn := generators.changed(SavedGenerators.now(devices)):
        return Phrase("they draw random numbers in each call ({generators})", generators=listed(drawn))
    if changed := options.changed():
        return Phrase("they keep state in the model's options ({options})", options=listed(changed))
    return trial.failure(lanes)
