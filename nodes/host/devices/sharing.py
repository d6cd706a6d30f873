"""The calls of one lane, shared by its devices: by the sides of guidance, by tokens, or both, whichever is fastest."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ....chords_core import Autotuner
from ..known_sentences import phrase_of
from ..phrases import Phrase, message_of
from .cfg_split import spread_over
from .groups import MIN_GAIN, SHARE, WHOLE, Group, Split
from .token_team import TokenTeam, wrapped_in_teams
from .waiting import wait_for_device

Options = dict[str, Any]

_MAX_LOSSES = 2
"""Runs that lose a device by a way to share calls. After that it is not tried any more with this model and shape."""

_log = logging.getLogger("chords")

Key = tuple[tuple[int, ...], Group, tuple[Split, ...], bool]
_tuned: WeakKeyDictionary[Any, dict[Key, Autotuner[Split]]] = WeakKeyDictionary()  # by model


def measured_splits(patcher: ModelPatcher, shape: Sequence[int], group: Group, guided: bool) -> dict[Split, float]:
    """Seconds of a call by each split that these devices have tried with this model since the server started; infinite
    for a split that cannot be used."""
    found: dict[Split, float] = {}
    for (known_shape, known_group, _, known_guided), tuner in _tuned.get(patcher.model, {}).items():
        if (known_shape, known_group, known_guided) == (tuple(shape), group, guided) and tuner.choice is not None:
            found |= tuner.seconds | dict.fromkeys(tuner.dropped, math.inf)
    return found


class Sharing:
    """Makes a lane's calls with its devices.

    If a device fails, the call is made again by the lane's own device, and so are all later ones of the run.

    Args:
        patchers: the model on each device of the lane, the lane's own device first; loaded and prepared for the run.
        splits: the ways that are tried, `WHOLE` last; with only one, that way is taken.
        guided: whether each call has two sides.
        known: seconds of a call by split that were measured before.
        compare: whether a call may be made twice, to compare the results of two ways.
        lasting: whether what a call takes now counts for other runs of this model, too.
        on_tuned: gets the times when all ways have been measured.
    """

    def __init__(
        self,
        patchers: Mapping[torch.device, ModelPatcher],
        splits: Sequence[Split],
        guided: bool,
        known: Mapping[Split, float] | None = None,
        compare: bool = True,
        lasting: bool = True,
        on_tuned: Callable[[Mapping[Split, float]], object] | None = None,
    ) -> None:
        self.group: Group = tuple(patchers)
        self.splits = tuple(splits)
        self._patchers, self._guided, self._compare = dict(patchers), guided, compare
        self._known = {split: seconds for split, seconds in (known or {}).items() if math.isfinite(seconds)}
        self._on_tuned = on_tuned
        self._tuners: dict[Key, Autotuner[Split]] | None = None if lasting else {}
        self._stack = ExitStack()
        if self.group[0].type == "cpu":  # the number of threads that a member sets becomes the default of the process
            self._stack.callback(torch.set_num_threads, torch.get_num_threads())
        self._ways: dict[Split, _Way] = {}
        self._lost: Phrase | None = None
        self._lost_by: Split | None = None
        self._failed: set[Split] = set()  # in this run
        self._calls: dict[Split, int] = {}
        self._newest: Autotuner[Split] | None = None

    def __call__(self, call: Callable[[Options], Tensor], options: Options, x: Tensor) -> Tensor:
        """The result of ``call(options)`` for the latent ``x``, with options that share it among the devices."""
        if len(self.splits) == 1:
            return self._by(self.splits[0], call, options)
        tuner = self._tuner(tuple(x.shape))
        measuring = tuner.choice is None
        result = tuner(
            lambda split: self._by(split, call, options), self._synchronize, self._compare, without=self._failed
        )
        self._note_failures(tuner)
        if measuring and tuner.choice is not None:
            _log.info("CHORDS: %s: %s", SHARE.join(map(str, self.group)), _figures(tuner))
            found = {split: value for split, value in tuner.seconds.items() if split not in tuner.dropped}
            if self._on_tuned is not None and WHOLE in found and len(found) > 1:
                self._on_tuned(found)
        return result

    def _note_failures(self, tuner: Autotuner[Split]) -> None:
        """Take no more calls of the run by a way that has failed.

        A lost device may be good again in the next run. But a way that loses devices in run after run is not tried any
        more, nor is one that cannot share calls of this shape.
        """
        failed = {split: reason for split, way in self._ways.items() if (reason := way.reason) is not None}
        if self._lost is not None and self._lost_by is not None:
            failed[self._lost_by] = self._lost
        for split in failed.keys() - self._failed:
            if split == self._lost_by or self._ways[split].lost is not None:
                tuner.fail(split, failed[split], _MAX_LOSSES)
            else:
                tuner.drop(split, failed[split])
        self._failed |= failed.keys() if self._lost is None else {*self.splits} - {WHOLE}

    @property
    def splits_guidance(self) -> bool:
        """Whether the sides of a guided call may be evaluated at once."""
        return any(split.sides > 1 for split in self.splits)

    @property
    def split(self) -> Split:
        """The way that most calls of the run were made."""
        return max(self._calls, key=lambda split: self._calls[split], default=WHOLE)

    @property
    def seconds(self) -> dict[Split, float]:
        """Seconds of a call by each way that was measured, in this run or before."""
        return self._known if self._newest is None else self._newest.seconds

    @property
    def dropped(self) -> dict[Split, Phrase]:
        """The ways that are not used although they are possible, each with the reason."""
        if self._newest is None:
            return {}
        return {split: phrase_of(reason) for split, reason in self._newest.dropped.items()}

    @property
    def chosen(self) -> Split | None:
        """The way that was found to be the fastest; None if there was nothing to choose, or not yet."""
        if self._newest is not None:
            return self._newest.choice
        return self.splits[0] if self.splits[0] in self._known else None

    @property
    def lost(self) -> Phrase | None:
        """The error that a device was lost with; None if none was."""
        errors = [self._lost, *(way.lost for way in self._ways.values())]
        return next((error for error in errors if error is not None), None)

    @property
    def reason(self) -> Phrase | None:
        """Why calls were not shared by tokens although that was tried; None if they were."""
        return next((way.reason for way in self._ways.values() if way.reason is not None), None)

    def close(self) -> None:
        """End the threads of the devices."""
        self._stack.close()

    def _by(self, split: Split, call: Callable[[Options], Tensor], options: Options) -> Tensor:
        way = self._ways.get(split)
        if split.whole or self._lost is not None or (way is not None and way.reason is not None and split.sides == 1):
            self._count(WHOLE)
            return call(options)
        try:
            if way is None:
                way = self._ways[split] = _Way(self._stack, split, self._patchers)
            result = call(way.applied(options))
        except Exception as error:
            self._lost, self._lost_by = phrase_of(message_of(error)), split
            _log.warning("CHORDS: lost a device of several, the other goes on: %s", error)
        else:
            self._count(split if way.reason is None else replace(split, shares=1))
            return result
        # Not in the handler: there the error holds the tensors of the call that failed.
        self._count(WHOLE)
        return call(options)

    def _count(self, split: Split) -> None:
        self._calls[split] = self._calls.get(split, 0) + 1

    def _tuner(self, shape: tuple[int, ...]) -> Autotuner[Split]:
        known = self._tuners
        if known is None:
            known = _tuned.setdefault(next(iter(self._patchers.values())).model, {})
        key = shape, self.group, self.splits, self._guided
        if key not in known:
            known[key] = Autotuner(self.splits, MIN_GAIN, self._known)
        self._newest = known[key]
        return known[key]

    def _synchronize(self) -> None:
        for device in self.group:
            wait_for_device(device)


class _Way:
    """Threads and teams of one split."""

    def __init__(self, stack: ExitStack, split: Split, patchers: Mapping[torch.device, ModelPatcher]) -> None:
        teams = split.teams(tuple(patchers))
        self._own = teams[0][0]
        self.teams: dict[torch.device, TokenTeam] = {}
        if split.shares > 1:
            for devices in teams:
                team = TokenTeam({device: patchers[device] for device in devices})
                stack.callback(team.close)
                self.teams[devices[0]] = team
        self._guidance: Options = {}
        if split.sides > 1:
            spread_over(stack, self._guidance, {devices[0]: patchers[devices[0]] for devices in teams})

    @property
    def lost(self) -> Phrase | None:
        """The error that a device was lost with; None if none was."""
        return next((team.lost for team in self.teams.values() if team.lost is not None), None)

    @property
    def reason(self) -> Phrase | None:
        """Why calls are not shared by tokens; None if they are."""
        return next((team.reason for team in self.teams.values() if team.reason is not None), None)

    def applied(self, options: Options) -> Options:
        """The options of a call that is shared so."""
        shared = {**options, **self._guidance}
        return wrapped_in_teams(shared, self.teams, self._own) if self.teams else shared


class SharedModel(comfy.samplers.KSamplerX0Inpaint):  # type: ignore[misc]
    """The host's model as a sampler function gets it, with calls that several devices share.

    A sampler of the host can use it as it uses the host's own.
    """

    def __init__(self, model: Any, sharing: Sharing) -> None:
        self.__dict__.update(vars(model))
        self._whole, self._sharing = model, sharing

    def __call__(
        self,
        x: Tensor,
        sigma: Tensor,
        denoise_mask: Tensor | None = None,
        model_options: Options | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """[the shape of x] The denoised latent."""

        def call(options: Options) -> Tensor:
            denoised: Tensor = self._whole(x, sigma, denoise_mask, model_options=options, seed=seed)
            return denoised

        return self._sharing(call, model_options or {}, x)


def _figures(tuner: Autotuner[Split]) -> str:
    """What was measured, for the log."""
    times = [f"{split.name} {value:.4g} s" for split, value in tuner.seconds.items()]
    dropped = [f"{split.name} is not used: {reason}" for split, reason in tuner.dropped.items()]
    return f"a call takes {', '.join([*times, *dropped])}"
