"""Members that compute model calls together: a thread each, of which the first is the caller's own."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .adapter import Adapter
from .errors import CannotSplit, MemberTimeout, Released
from .exchange import ThreadExchange
from .family import Family, find_family
from .hooks import acting_as, hook, unhook
from .transfer import Transfer, transfer_between

Run = Callable[[int, dict[str, Any], Any], Tensor]
"""``run(rank, transformer_options, control)``: the whole model call on a member's device, with that member's inputs and
these options and ControlNet residuals."""

Context = Callable[[int], AbstractContextManager[object]]
"""``context(rank)``: what a member's thread works in, its device selected, say."""

_POLL_SECONDS = 0.02  # how long a cancel may go unseen
_STOP_SECONDS = 1.0  # that members have to come back in, after a cancel or when one of them does not answer


@dataclass(frozen=True, eq=False)
class Member:
    """A device that takes part, and the replica of the diffusion model there."""

    device: torch.device
    network: nn.Module


@dataclass(eq=False)
class _Call:
    """One call under way."""

    run: Run
    adapters: Sequence[Adapter]
    exchange: ThreadExchange
    inference: bool
    grad: bool
    results: list[Tensor | None]
    failures: list[BaseException] = field(default_factory=list)
    left: set[int] = field(default_factory=set)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def compute(self, rank: int, context: Context = nullcontext) -> None:
        """One member's part. A failure releases the others."""
        try:
            adapter = self.adapters[rank]
            with context(rank), acting_as(adapter):
                result = self.run(rank, adapter.transformer_options, adapter.control)
        except BaseException as error:  # a host's interrupt may be no Exception
            self.exchange.abort(error)
            self._end(rank, None, error)
        else:
            self.exchange.leave(rank)
            self._end(rank, result, None)

    def _end(self, rank: int, result: Tensor | None, failure: BaseException | None) -> None:
        with self.changed:
            self.results[rank] = result
            if failure is not None:
                self.failures.append(failure)
            self.left.discard(rank)
            self.changed.notify_all()

    def first_failure(self) -> BaseException | None:
        """What ended the call: a cancel before an error, an error before those that it caused."""
        causes = [failure for failure in self.failures if not isinstance(failure, Released)]
        cancels = [failure for failure in causes if not isinstance(failure, Exception)]
        return next(iter(cancels or causes or self.failures), None)

    def clear(self) -> None:
        """Let go of errors and results.

        The frames of an error hold tensors, and a call in these frames holds the error: such a ring would stay in
        memory, which the device may need now. A member that hangs still has to see the error.
        """
        self.results = [None] * len(self.results)
        if not self.left:
            self.failures.clear()
            self.exchange.clear()


class SplitCall:
    """Computes model calls of some members together.

    The caller's thread is member 0; the others have a thread each until `close`. Use it from one thread at a time.
    Several can be at work at once, each called from another thread: the sides of guidance, or lanes.

    Args:
        members: the first is on the device of the calling thread. All devices are of one type.
        context: what the threads of the members but the first work in, at each call.
        transfer: how tensors travel; by default what fits the devices.
        family: how the network is split; by default found by its class.
        life: like ``context``, but for the whole life of each of these threads. It must not raise.

    Raises:
        CannotSplit: if there is no family for the network, or the devices are of several types.
    """

    def __init__(
        self,
        members: Sequence[Member],
        context: Context = nullcontext,
        transfer: Transfer | None = None,
        family: Family | None = None,
        life: Context = nullcontext,
    ) -> None:
        family = find_family(members[0].network) if family is None else family
        if family is None:
            raise CannotSplit(f"{type(members[0].network).__name__} is not a network that can be shared by tokens")
        self._family = family
        self._members = tuple(members)
        self._devices = [member.device for member in members]
        try:
            self._transfer = transfer_between(self._devices) if transfer is None else transfer
        except ValueError as error:
            raise CannotSplit(str(error)) from None
        self._context, self._life = context, life
        self.exchanges = 0
        """How often the members met in the last call, to put keys and values, or tokens, together."""
        self._call: _Call | None = None  # under way
        self._given_up: _Call | None = None
        # A thread's choice of one intra-op thread becomes the process's default: it is put back at the end.
        self._intra_op_threads = torch.get_num_threads() if self._devices[0].type == "cpu" else None
        self._hooked: list[nn.Module] = []
        self._inboxes: list[queue.SimpleQueue[_Call | None]] = []
        self._threads: list[threading.Thread] = []
        try:
            for member in members:
                hook(member.network, family)
                self._hooked.append(member.network)
            for rank in range(1, len(members)):
                self._inboxes.append(queue.SimpleQueue())
                name = f"chords-member-{rank}"
                thread = threading.Thread(target=self._live, args=(rank,), name=name, daemon=True)
                thread.start()
                self._threads.append(thread)
        except BaseException:
            self.close()
            raise

    def __call__(
        self,
        run: Run,
        options: Sequence[Mapping[str, Any]],
        control: Sequence[Mapping[str, list[Tensor | None]] | None] | None = None,
        *,
        timeout: float,
        poll: Callable[[], object] | None = None,
    ) -> list[Tensor]:
        """One call, computed together.

        Args:
            run: the whole model call on one member's device.
            options: the call's ``transformer_options``, for each member on its device.
            control: the residuals of ControlNets, for each member on its device.
            timeout: seconds that a member is waited for, at each exchange and at the end.
            poll: called in the caller's thread while it waits; what it raises (a cancel) ends the call.

        Returns:
            The result of every member, by rank; they are equal apart from the device.

        Raises:
            CannotSplit: if this call has too few tokens.
            MemberTimeout: if a member does not answer. No more calls can be made before it is back.
            BaseException: what a member raised first.
        """
        if self.hung:
            raise MemberTimeout(self.hung, 0.0)
        controls = [None] * len(self._members) if control is None else control
        exchange = ThreadExchange(self._devices, timeout, poll, self._transfer)
        adapters = [
            self._family(exchange, rank, member.network, options[rank], controls[rank])
            for rank, member in enumerate(self._members)
        ]
        call = _Call(
            run,
            adapters,
            exchange,
            torch.is_inference_mode_enabled(),
            torch.is_grad_enabled(),
            results=[None] * len(self._members),
            left=set(range(len(self._members))),
        )
        self._call = call
        for inbox in self._inboxes:
            inbox.put(call)
        call.compute(0)
        self._wait(call, timeout, poll)
        self._call = None
        self.exchanges = exchange.exchanges
        failure, results = call.first_failure(), call.results
        call.clear()
        if failure is not None:
            try:
                raise failure
            finally:
                del failure
        return [result for result in results if result is not None]

    @property
    def hung(self) -> tuple[int, ...]:
        """The members still at a call that was given up."""
        if self._given_up is None:
            return ()
        with self._given_up.changed:
            left = tuple(sorted(self._given_up.left))
        if not left:
            self._given_up = None
        return left

    def close(self) -> None:
        """Take the hooks off and end the threads; those of `hung` members end when they come back.

        A call under way, in a thread that was given up, is ended.
        """
        for inbox in self._inboxes:
            inbox.put(None)
        call = self._call
        if call is not None:
            call.exchange.abort(Released("the run has ended"))
        end = time.monotonic() + _STOP_SECONDS
        hung = self.hung
        for rank, thread in enumerate(self._threads, 1):
            if rank not in hung:
                thread.join(None if call is None else max(0.0, end - time.monotonic()))
        if call is not None:
            self._given_up = call
        for network in self._hooked:
            unhook(network)
        self._hooked = []
        if self._intra_op_threads is not None and torch.get_num_threads() != self._intra_op_threads:
            torch.set_num_threads(self._intra_op_threads)

    def __enter__(self) -> SplitCall:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _live(self, rank: int) -> None:
        """A member's thread."""
        with self._life(rank):
            self._work(rank)

    def _work(self, rank: int) -> None:
        on_cpu = self._members[rank].device.type == "cpu"
        while (call := self._inboxes[rank - 1].get()) is not None:
            if on_cpu and torch.get_num_threads() != 1:
                torch.set_num_threads(1)  # as in a lane: its device is one core
            with torch.inference_mode(call.inference), torch.set_grad_enabled(call.grad):
                call.compute(rank, self._context)
            del call  # an idle member must not keep a latent alive

    def _wait(self, call: _Call, timeout: float, poll: Callable[[], object] | None) -> None:
        """Until all members are back, or those that are not are given up."""
        end = time.monotonic() + timeout
        urgent = False
        while True:
            cause = call.exchange.aborted
            if not urgent and _is_urgent(cause):
                urgent, end = True, min(end, time.monotonic() + _STOP_SECONDS)
            late = set(cause.ranks) if isinstance(cause, MemberTimeout) else set()  # these were waited for already
            with call.changed:
                if not call.left:
                    return
                left = end - time.monotonic()
                if left <= 0 or call.left <= late:
                    self._given_up = call
                    call.failures.append(MemberTimeout(sorted(call.left), timeout))
                    call.exchange.abort(call.failures[-1])
                    return
                call.changed.wait(min(left, _POLL_SECONDS))
            if poll is not None and call.exchange.aborted is None:
                try:
                    poll()
                except BaseException as error:
                    call.failures.append(error)
                    call.exchange.abort(error)


def _is_urgent(cause: BaseException | None) -> bool:
    """Whether members are waited for a moment only: after a cancel, or when one has already been waited for."""
    return cause is not None and (isinstance(cause, MemberTimeout) or not isinstance(cause, Exception))
