"""Members that fail, hang or are cancelled: the others are released, the error is the real one, nothing is left."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice, product
from typing import Any

import pytest
import test_flux
import torch
from split_cases import CPU, TIMEOUT, Case, is_same
from token_split import CannotSplit, Member, MemberTimeout, SplitCall
from token_split.errors import OutOfStep, TokenSplitError
from torch import Tensor, nn

TIMES = 50
BLOCKS = [("double_block", 0), ("double_block", 1), ("single_block", 0), ("single_block", 2)]
MOMENT = 0.05  # seconds that a member is waited for where one hangs


class Cancelled(BaseException):
    """As the host's interrupt: no Exception."""


@pytest.fixture
def case(comfy: None) -> Case:
    return test_flux.case()


def members(network: nn.Module, count: int) -> list[Member]:
    return [Member(CPU, network)] * count


def call(
    split: SplitCall,
    case: Case,
    count: int,
    rank: int = 0,
    key: tuple[str, int] | None = None,
    event: Callable[[], Any] = lambda: None,
    **settings: Any,
) -> list[Tensor]:
    """A split call in which ``event`` happens in block ``key`` of member ``rank``."""

    def in_block(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        event()
        return extra["original_block"](args)

    options: list[dict[str, Any]] = [{} for _ in range(count)]
    if key is not None:
        options[rank] = {"patches_replace": {"dit": {key: in_block}}}

    def run(rank: int, options: dict[str, Any], control: Any) -> Tensor:
        return case.call(case.network, options, control)

    return split(run, options, **{"timeout": TIMEOUT, **settings})


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("chords-member")]


def places(count: int) -> Iterator[tuple[int, tuple[str, int]]]:
    """Which member and in which block, as often as is asked for."""
    every = list(product(range(3), BLOCKS))
    return islice((place for _ in range(TIMES) for place in every), count)


def raising(error: BaseException) -> Callable[[], None]:
    def event() -> None:
        raise error

    return event


@pytest.mark.parametrize("error", [MemoryError("full"), Cancelled()], ids=["an error", "a cancel"])
def test_a_member_that_raises_ends_the_call(case: Case, error: BaseException) -> None:
    """With its own error, in any block; the next call is as if nothing had been."""
    whole = case.whole()
    with SplitCall(members(case.network, 3)) as split:
        for rank, key in places(TIMES):
            with pytest.raises(type(error)) as caught:
                call(split, case, 3, rank, key, raising(error))
            assert caught.value is error
            assert split.hung == ()
        assert len(threads()) == 2
        assert all(is_same(result, whole) for result in call(split, case, 3))
    assert threads() == []


def test_a_member_that_hangs_is_given_up(case: Case) -> None:
    """The others are back at once. The hung one ends when it comes back, and can then be used again."""
    for rank, key in places(TIMES):
        if rank == 0:  # that is the caller itself
            continue
        back = threading.Event()
        with SplitCall(members(case.network, 3)) as split:
            with pytest.raises(MemberTimeout):
                call(split, case, 3, rank, key, back.wait, timeout=MOMENT)
            back.set()
        for thread in threads():
            thread.join(TIMEOUT)
        assert threads() == []


def test_no_call_is_made_while_a_member_hangs(case: Case) -> None:
    whole = case.whole()
    back = threading.Event()
    with SplitCall(members(case.network, 2)) as split:
        with pytest.raises(MemberTimeout, match="no answer from member 1"):
            call(split, case, 2, 1, ("single_block", 1), back.wait, timeout=5.0)
        assert split.hung == (1,)
        with pytest.raises(MemberTimeout):
            call(split, case, 2)
        back.set()
        while split.hung:
            back.wait(0.01)
        assert all(is_same(result, whole) for result in call(split, case, 2))


def test_a_cancel_is_heard_while_a_member_hangs(case: Case) -> None:
    back, hanging = threading.Event(), threading.Event()

    def hang() -> None:
        hanging.set()
        back.wait()

    def poll() -> None:
        if hanging.is_set():
            raise Cancelled

    with SplitCall(members(case.network, 2)) as split:
        with pytest.raises(Cancelled):
            call(split, case, 2, 1, ("double_block", 1), hang, poll=poll)
        assert split.hung == (1,)
        back.set()


def test_a_member_that_ends_early_is_not_waited_for(case: Case) -> None:
    """As with a step cache that replaces the forward function of one device only."""

    def run(early: int, rank: int, options: dict[str, Any], control: Any) -> Tensor:
        return torch.zeros(1) if rank == early else case.call(case.network, options, control)

    with SplitCall(members(case.network, 3)) as split:
        for early in range(3):
            with pytest.raises(OutOfStep, match="ended its part before"):
                split(partial(run, early), [{}] * 3, timeout=10 * TIMEOUT)
        assert split.hung == ()


@pytest.mark.parametrize("rank", [0, 1])
def test_closing_ends_a_call_whose_thread_was_given_up(case: Case, rank: int) -> None:
    """Closing waits neither for a member that hangs in it nor for the caller's own thread."""
    back, hanging, ended = threading.Event(), threading.Event(), threading.Event()
    split = SplitCall(members(case.network, 2))

    def hang() -> None:
        hanging.set()
        back.wait()

    def side() -> None:
        with torch.inference_mode(), pytest.raises(TokenSplitError):
            call(split, case, 2, rank, ("single_block", 1), hang, timeout=10 * TIMEOUT)
        ended.set()

    thread = threading.Thread(target=side)
    thread.start()
    hanging.wait()
    split.close()
    assert rank in split.hung
    back.set()
    for each in (thread, *threads()):
        each.join(TIMEOUT)
    assert ended.is_set() and threads() == [] and split.hung == ()


@pytest.mark.parametrize("rank", [0, 1])
def test_nothing_of_a_failed_call_stays_in_memory(case: Case, rank: int) -> None:
    """Not even until the garbage is collected: the call may have failed because the device is full."""
    seen: list[weakref.ref[Tensor]] = []

    def in_block(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        seen.append(weakref.ref(args["img"]))
        raise torch.OutOfMemoryError("full")

    def run(member: int, options: dict[str, Any], control: Any) -> Tensor:
        return case.call(case.network, options, control)

    options: list[dict[str, Any]] = [{}, {}]
    options[rank] = {"patches_replace": {"dit": {("single_block", 1): in_block}}}
    with SplitCall(members(case.network, 2)) as split:
        gc.collect()
        gc.disable()
        try:
            with pytest.raises(torch.OutOfMemoryError) as caught:
                split(run, options, timeout=TIMEOUT)
            del caught
            assert [reference() for reference in seen] == [None]
        finally:
            gc.enable()


def test_a_member_that_cannot_start_leaves_nothing(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "chords-member-2":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="new thread"):
        SplitCall(members(case.network, 3))
    assert threads() == []
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in case.network.modules())


def test_an_error_behind_the_last_exchange(case: Case) -> None:
    """Member 0 has its result then."""

    def run(rank: int, options: dict[str, Any], control: Any) -> Tensor:
        result = case.call(case.network, options, control)
        if rank == 1:
            raise ValueError("late")
        return result

    with SplitCall(members(case.network, 2)) as split:
        with pytest.raises(ValueError, match="late"):
            split(run, [{}, {}], timeout=TIMEOUT)


def test_an_error_of_the_context_ends_the_call(case: Case) -> None:
    @contextmanager
    def context(rank: int) -> Iterator[None]:
        if rank == 1:
            raise RuntimeError("no such device")
        yield

    with SplitCall(members(case.network, 2), context) as split:
        with pytest.raises(RuntimeError, match="no such device"):
            call(split, case, 2)


def test_the_life_of_a_members_thread(case: Case) -> None:
    """It is entered once a thread, however many calls there are, and left before `close` returns."""
    lives: list[str] = []

    @contextmanager
    def life(rank: int) -> Iterator[None]:
        lives.append(f"{rank} began")
        yield
        lives.append(f"{rank} ended")

    with SplitCall(members(case.network, 3), life=life) as split:
        for _ in range(2):
            call(split, case, 3)
    assert sorted(lives) == ["1 began", "1 ended", "2 began", "2 ended"]


def test_sides_of_guidance_are_split_at_the_same_time(case: Case) -> None:
    """Two split calls in two threads, on the same network here."""
    other = test_flux.case()
    other.network = case.network
    wanted = [case.whole(), other.whole()]
    found: list[list[Tensor]] = [[], []]

    def side(index: int) -> None:
        torch.set_num_threads(1)
        with torch.inference_mode(), SplitCall(members(case.network, 2)) as split:
            for _ in range(5):
                found[index] += call(split, (case, other)[index], 2)

    sides = [threading.Thread(target=side, args=(index,)) for index in range(2)]
    for thread in sides:
        thread.start()
    for thread in sides:
        thread.join(TIMEOUT)
    assert [len(results) for results in found] == [10, 10]
    assert all(is_same(result, wanted[index]) for index in range(2) for result in found[index])


def test_whole_calls_go_on_beside_a_split_one(case: Case) -> None:
    """Hooks do nothing in other threads, nor in copies of the network, and are gone in the end."""
    import copy

    whole = case.whole()
    split = SplitCall(members(case.network, 2))
    try:
        twin = copy.deepcopy(case.network)
        assert torch.equal(case.whole(), whole)
        assert torch.equal(case.call(twin, {}, None), whole)
        with SplitCall(members(twin, 2)) as again:
            twin_case = Case(twin, case.call, case.exchanges)
            assert all(is_same(result, whole) for result in call(again, twin_case, 2))
    finally:
        split.close()
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in case.network.modules())


def test_each_member_has_inputs_of_its_own(case: Case) -> None:
    """Its own replica, and its own options, in which the host may write."""
    import copy

    whole = case.whole()
    networks = [case.network, copy.deepcopy(case.network)]
    options = [{"marker": rank} for rank in range(2)]

    def run(rank: int, options: dict[str, Any], control: Any) -> Tensor:
        assert options["marker"] == rank
        options["written"] = rank
        return case.call(networks[rank], options, control)

    with SplitCall([Member(CPU, network) for network in networks]) as split:
        results = split(run, options, timeout=TIMEOUT)
    assert all(is_same(result, whole) for result in results)
    assert options == [{"marker": 0}, {"marker": 1}]


def test_too_few_tokens_are_refused_in_words(comfy: None) -> None:
    case = test_flux.case()
    x = torch.zeros(2, 4, 4, 4)

    def run(rank: int, options: dict[str, Any], control: Any) -> Tensor:
        text, y = torch.zeros(2, 3, 48), torch.zeros(2, 24)
        return case.network(x, torch.ones(2), text, y=y, guidance=torch.ones(2), transformer_options=options)

    with SplitCall(members(case.network, 5)) as split:
        with pytest.raises(CannotSplit, match="a picture of 4 tokens cannot be shared by 5 devices"):
            split(run, [{}] * 5, timeout=TIMEOUT)


def test_the_number_of_threads_is_put_back(case: Case) -> None:
    torch.set_num_threads(2)
    try:
        with SplitCall(members(case.network, 2)) as split:
            call(split, case, 2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
