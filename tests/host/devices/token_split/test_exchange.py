"""Members that swap tensors: everybody gets everything in order, and nobody is left waiting."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from split_cases import CPU, TIMEOUT
from token_split.errors import MemberTimeout, OutOfStep, Released
from token_split.exchange import ThreadExchange
from token_split.transfer import transfer_between


def run(members: int, work: Callable[[int], Any]) -> list[Any]:
    """What ``work(rank)`` returns or raises in a thread a member."""
    found: list[Any] = [None] * members

    def member(rank: int) -> None:
        try:
            found[rank] = work(rank)
        except BaseException as error:
            found[rank] = error

    threads = [threading.Thread(target=member, args=(rank,)) for rank in range(members)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
        assert not thread.is_alive()
    return found


@pytest.mark.parametrize("members", [1, 2, 3, 5])
def test_everybody_gets_what_everybody_gave(members: int) -> None:
    exchange = ThreadExchange([CPU] * members, TIMEOUT)

    def work(rank: int) -> list[list[list[float]]]:
        found = []
        for number in range(200):
            sizes = torch.full((rank + 1,), float(number)), torch.full((2, rank + 1), number + 0.5)
            parts = exchange.all_gather(rank, sizes)
            assert [part[1].shape for part in parts] == [(2, other + 1) for other in range(members)]
            found.append([[float(part[0].sum()), float(part[1].sum())] for part in parts])
        return found

    wanted = [
        [[number * (rank + 1), (number + 0.5) * 2 * (rank + 1)] for rank in range(members)] for number in range(200)
    ]
    assert run(members, work) == [wanted] * members
    assert exchange.exchanges == 200


def test_what_is_broadcast_belongs_to_each_member() -> None:
    """Patches and blocks change it in place."""
    exchange = ThreadExchange([CPU] * 3, TIMEOUT)

    def work(rank: int) -> list[float]:
        for _ in range(100):
            mine = {"img": torch.zeros(1000)} if rank == 0 else None
            found = exchange.broadcast(rank, mine)
            assert found is not None
            found["img"] += rank + 1
            assert found["img"].eq(rank + 1).all()
        nothing = exchange.broadcast(rank, None)
        assert nothing is None
        return found["img"][:2].tolist()

    assert run(3, work) == [[1, 1], [2, 2], [3, 3]]


def test_nobody_gets_tensors_of_another_point_of_the_call() -> None:
    exchange = ThreadExchange([CPU] * 2, TIMEOUT)
    found = run(2, lambda rank: exchange.all_gather(rank, [torch.zeros([1] * (rank + 2))]))
    assert all(isinstance(error, OutOfStep) for error in found)


def test_an_abort_releases_who_waits_and_who_comes_later() -> None:
    exchange = ThreadExchange([CPU] * 3, TIMEOUT)

    def work(rank: int) -> Any:
        if rank == 2:
            time.sleep(0.05)
            exchange.abort(MemoryError("full"))
        return exchange.all_gather(rank, [torch.zeros(1)])

    found = run(3, work)
    assert all(isinstance(error, Released) and isinstance(error.__cause__, MemoryError) for error in found)


def test_members_that_do_not_come_are_named() -> None:
    exchange, both = ThreadExchange([CPU] * 4, 2.0), threading.Barrier(2)

    def work(rank: int) -> Any:
        if rank in (1, 3):
            return None
        both.wait(TIMEOUT)  # a thread may begin long after another
        return exchange.all_gather(rank, [torch.zeros(1)])

    found = run(4, work)
    late = [error for error in found if isinstance(error, MemberTimeout)]
    assert late and late[0].ranks == (1, 3)
    assert all(isinstance(found[rank], (MemberTimeout, Released)) for rank in (0, 2))


def test_a_cancel_ends_the_wait() -> None:
    class Cancelled(BaseException):
        pass

    cancelled = threading.Event()

    def poll() -> None:
        if cancelled.is_set():
            raise Cancelled

    exchange = ThreadExchange([CPU] * 2, TIMEOUT, poll)

    def work(rank: int) -> Any:
        if rank == 0:
            return exchange.all_gather(rank, [torch.zeros(1)])
        return cancelled.set()

    assert isinstance(run(2, work)[0], Cancelled)


def test_devices_of_two_types_cannot_share_a_call() -> None:
    with pytest.raises(ValueError, match="several types \\(cpu, meta\\)"):
        transfer_between([CPU, torch.device("meta")])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="NOT TESTED ON A GPU: torch sees no CUDA device")
@pytest.mark.parametrize("always_copy", [False, True])
@pytest.mark.parametrize("through_host", [False, True])
def test_on_streams_nothing_is_read_before_it_is_there(always_copy: bool, through_host: bool) -> None:
    """Streams are held up; tensors are dropped as soon as they are sent, so that their memory is used again."""
    from token_split.transfer import DeviceTransfer

    device = torch.device("cuda", 0)
    transfer = DeviceTransfer([device] * 2, always_copy=always_copy, through_host=through_host)
    exchange = ThreadExchange([device] * 2, TIMEOUT, transfer=transfer)

    def work(rank: int) -> bool:
        with torch.cuda.stream(torch.cuda.Stream(device)):
            good = torch.ones((), dtype=torch.bool, device=device)
            for number in range(300):
                torch.cuda._sleep(50_000 * ((number + rank) % 3))
                parts = exchange.all_gather(rank, [torch.full((256, 256), number + 0.5 * rank, device=device)])
                torch.cuda._sleep(20_000 * ((number * 7 + rank) % 4))
                good &= (parts[0][0] == number).all() & (parts[1][0] == number + 0.5).all()
                del parts
            return bool(good)

    assert run(2, work) == [True, True]
