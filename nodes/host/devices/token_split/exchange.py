"""All-gather between the member threads of one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from .errors import OutOfStep
from .rendezvous import Rendezvous
from .transfer import SentTensor, Transfer, transfer_between


class Exchange(Protocol):
    """What an adapter needs: swapping tensors with the other members. All members call in the same order."""

    members: int

    def all_gather(self, rank: int, tensors: Sequence[Tensor]) -> list[list[Tensor]]:
        """Give this member's tensors; returns those of all, by rank, on this member's device, for reading.

        What was given must not be changed afterwards.
        """

    def broadcast(self, rank: int, tensors: dict[str, Tensor] | None) -> dict[str, Tensor] | None:
        """What member 0 gives, for every member, as tensors of its own that it may change. Others give None."""


class ThreadExchange:
    """The exchange of threads in one process, one a member.

    The first tensor is on its way before the next one is asked for, so keys given before values arrive before them.

    Args:
        devices: by rank, all of one type.
        timeout: seconds that a member waits for the others at one exchange.
        poll: called by member 0 while it waits; what it raises ends the call.
        transfer: how tensors travel; by default what fits the devices.
    """

    def __init__(
        self,
        devices: Sequence[torch.device],
        timeout: float,
        poll: Callable[[], object] | None = None,
        transfer: Transfer | None = None,
    ) -> None:
        self.members = len(devices)
        self.exchanges = 0
        """How often the members met to all-gather."""
        self._meeting = Rendezvous(self.members, timeout, poll)
        self._transfer = transfer_between(devices) if transfer is None else transfer

    def abort(self, cause: BaseException) -> None:
        """Release all members at once; see `Rendezvous.abort`."""
        self._meeting.abort(cause)

    def leave(self, rank: int) -> None:
        """This member's part is done; see `Rendezvous.leave`."""
        self._meeting.leave(rank)

    def clear(self) -> None:
        """Let go of all tensors and errors, once all members are done."""
        self._meeting.clear()

    @property
    def aborted(self) -> BaseException | None:
        """What the call was given up for, if it was."""
        return self._meeting.aborted

    def all_gather(self, rank: int, tensors: Sequence[Tensor]) -> list[list[Tensor]]:
        self.exchanges += rank == 0
        sent: list[list[SentTensor]] = self._meeting.swap(
            rank, [self._transfer.send(rank, tensor) for tensor in tensors]
        )
        mine = [_kind(item.tensor) for item in sent[rank]]
        if any([_kind(item.tensor) for item in items] != mine for items in sent):
            raise OutOfStep("the members of a split call are at different points of it")
        received: list[list[Tensor]] = [[] for _ in sent]
        for number in range(len(tensors)):  # the keys of all members, then their values
            for gathered, items in zip(received, sent, strict=True):
                gathered.append(self._transfer.receive(rank, items[number]))
        return received

    def broadcast(self, rank: int, tensors: dict[str, Tensor] | None) -> dict[str, Tensor] | None:
        sent = None
        if rank == 0 and tensors is not None:  # a copy: member 0 goes on to change its own
            sent = {name: self._transfer.send(rank, tensor.clone()) for name, tensor in tensors.items()}
        given: dict[str, SentTensor] | None = self._meeting.swap(rank, sent)[0]
        if rank == 0 or given is None:
            return tensors
        return {name: self._transfer.receive(rank, item).clone() for name, item in given.items()}


def _kind(tensor: Tensor) -> tuple[torch.dtype, int]:
    return tensor.dtype, tensor.ndim
