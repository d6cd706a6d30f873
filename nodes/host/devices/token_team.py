"""The devices that compute one side of a guided call, or a whole call, together: a token split of the host's models.

The host calls a ``model_function_wrapper`` in the place of a model's ``apply_model``. Here that wrapper gives each
member its inputs, on its device, and has a `SplitCall` compute the call. What cannot be split is called as it is.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ....chords_core import LaneTimeouts
from ..interrupts import check_interrupt
from ..known_sentences import phrase_of
from ..phrases import Phrase, message_of
from ..tree import mapped
from . import cfg_split
from .groups import Group, in_words
from .thread_context import thread_context
from .thread_state import thread_life
from .token_split import CannotSplit, Member, SplitCall, reason_against

ApplyModel = Callable[..., Tensor]

_log = logging.getLogger("chords")


class TokenTeam:
    """One model call at a time, computed by the devices of a team.

    A call that a member fails in, or that cannot be split, is made whole on the team's first device. After a failure
    all later calls are made so, too. A cancel of the prompt raises.

    Args:
        patchers: the model on each device, the first one's device being the team's own; loaded and prepared.

    Attributes:
        reason: why calls of this run are not split; None while they are.
        lost: the error that ended the split; None if there was none.
        split_calls: how many calls were computed together.
    """

    def __init__(self, patchers: Mapping[torch.device, ModelPatcher]) -> None:
        self.devices: Group = tuple(patchers)
        self._models: list[Any] = [patcher.model for patcher in patchers.values()]
        pairs = zip(self.devices, self._models, strict=True)
        members = [Member(device, model.diffusion_model) for device, model in pairs]
        self._split = SplitCall(members, thread_context(self.devices), life=lambda rank: thread_life())
        self._slowest: float | None = None
        self.reason: Phrase | None = None
        self.lost: Phrase | None = None
        self.split_calls = 0

    def apply(self, apply_model: ApplyModel, x: Tensor, t: Tensor, **conds: Any) -> Tensor:
        """What ``apply_model`` of the team's first model gives for these inputs."""
        caller: Any = getattr(apply_model, "__self__", None)
        if self.reason is not None or caller is not self._models[0]:
            return apply_model(x, t, **conds)
        reason = reason_against(caller.diffusion_model, conds["transformer_options"], len(self.devices))
        if reason is not None:
            self.reason = phrase_of(reason)
            return apply_model(x, t, **conds)
        try:
            return self._apply_together(apply_model, x, t, conds)
        except CannotSplit as error:
            self.reason = phrase_of(str(error))
        except Exception as error:
            self.lost = self.reason = phrase_of(message_of(error))
            _log.warning("CHORDS: lost a device of %s, the others go on: %s", in_words(self.devices), self.lost)
        return apply_model(x, t, **conds)

    def close(self) -> None:
        """End the threads, except those of members that hang."""
        self._split.close()
        if self._split.hung:
            with _lock:
                _hung.append(self)

    def hung_devices(self) -> set[torch.device]:
        """The devices that were given up and have not come back."""
        return {self.devices[rank] for rank in self._split.hung}

    def _apply_together(self, apply_model: ApplyModel, x: Tensor, t: Tensor, conds: dict[str, Any]) -> Tensor:
        inputs = [_inputs_on(device, rank, x, t, conds) for rank, device in enumerate(self.devices)]
        calls = [apply_model, *(model.apply_model for model in self._models[1:])]

        def run(rank: int, options: dict[str, Any], control: Any) -> Tensor:
            own_x, own_t, own = inputs[rank]
            own = {**own, "transformer_options": options}
            if "control" in conds:
                own["control"] = control
            return calls[rank](own_x, own_t, **own)

        began = time.monotonic()
        controls = [own.get("control") for *_, own in inputs]
        options = [own["transformer_options"] for *_, own in inputs]
        results = self._split(run, options, controls, timeout=self._timeout, poll=check_interrupt)
        self._slowest = max(self._slowest or 0.0, time.monotonic() - began)
        self.split_calls += 1
        return results[0]

    @property
    def _timeout(self) -> float:
        """The seconds that a member is waited for."""
        timeouts: LaneTimeouts = cfg_split.LANE_TIMEOUTS
        return timeouts.of_first(0.0) if self._slowest is None else timeouts.of_next(self._slowest, 0.0)


def _inputs_on(
    device: torch.device, rank: int, x: Tensor, t: Tensor, conds: dict[str, Any]
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """A member's own inputs of a call. The first one's are where they are."""
    if rank == 0:
        return x, t, conds
    moved: dict[str, Any] = mapped(conds, lambda tensor: tensor.to(device))
    return x.to(device), t.to(device), moved


def wrapped_in_teams(
    options: dict[str, Any], teams: Mapping[torch.device, TokenTeam], own: torch.device
) -> dict[str, Any]:
    """Model options with which the host's calls are computed by teams.

    Args:
        options: the model options of a call. A ``model_function_wrapper`` in them stays the outer one: it gets the
            split call as its ``apply_model``.
        teams: by the device that leads each.
        own: the device of the lane, for calls that the host makes in the caller's thread.
    """
    theirs = options.get("model_function_wrapper")

    def wrapper(apply_model: ApplyModel, args: dict[str, Any]) -> Tensor:
        team = teams.get(args["c"].get("transformer_options", {}).get("multigpu_thread_device", own))
        apply = apply_model if team is None else partial(team.apply, apply_model)
        if theirs is not None:
            output: Tensor = theirs(apply, args)
            return output
        return apply(args["input"], args["timestep"], **args["c"])

    return {**options, "model_function_wrapper": wrapper}


_lock = threading.Lock()
_hung: list[TokenTeam] = []


def hung_members() -> set[torch.device]:
    """The devices that are still at work for a call that has given them up."""
    with _lock:
        _hung[:] = [team for team in _hung if team.hung_devices()]
        return {device for team in _hung for device in team.hung_devices()}
