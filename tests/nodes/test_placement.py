"""Where a run takes place: which devices, in pairs or alone, with which plan, and what the user is told."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from pack_modules import REPO, module

core = module("chords_core")
placement = module("nodes.host.sampling.placement")
messages = module("nodes.host.sampling.messages")
options = module("nodes.host.sampling.options")
request = module("nodes.host.devices.request")
timings = module("nodes.host.devices.timings")

Split = module("nodes.host.devices.groups").Split
Options, Request, Timings = options.SamplerOptions, request.DeviceRequest, timings.Timings
GPUS = tuple(torch.device("cuda", number) for number in range(8))
WHOLE, PAIR, TOKENS, FOUR, BOTH, EIGHT = Split(), Split(2), Split(1, 2), Split(1, 4), Split(2, 2), Split(1, 8)
SLOW_PAIR = {PAIR: 0.99, WHOLE: 1.0}
CPUS = tuple(torch.device("cpu", number) if number else torch.device("cpu") for number in range(8))


@dataclass
class Reasons:
    """Reasons that are known, and how often each was asked for."""

    one_core: str | None = None
    every_step: str | None = None
    cache: str | None = None
    tokens: str | None = "UNetModel is not a network that can be shared by tokens"
    one_device: str | None = None
    sides: str | None = None
    asked: list[str] = field(default_factory=list)

    @property
    def for_one_core(self) -> str | None:
        self.asked.append("one core")
        return self.one_core

    @property
    def for_every_step(self) -> str | None:
        self.asked.append("every step")
        return self.every_step

    @property
    def step_cache(self) -> str | None:
        self.asked.append("step cache")
        return self.cache

    @property
    def for_one_device(self) -> str | None:
        self.asked.append("one device")
        return self.one_device

    @property
    def against_sides(self) -> str | None:
        self.asked.append("sides")
        return self.sides

    @property
    def against_tokens(self) -> str | None:
        self.asked.append("tokens")
        return self.tokens


def facts(devices: tuple[torch.device, ...], **changes: Any) -> Any:
    """A run of 20 Euler steps without guidance, whose model is on the first device."""
    given = {
        "steps": 20,
        "solver": "euler",
        "solving_seconds": 0.0,
        "primary": devices[0],
        "devices": devices,
        "processors": 64,
        "threads": 1,
        "guided": False,
        "split_seconds": lambda group: {},
        "reasons": Reasons(),
    }
    return placement.Facts(**{**given, **changes})


def place(known: Any, wanted: Any = None, timings: Any = None, split: str = "auto", **request_changes: Any) -> Any:
    return placement.place(wanted or Options(), Request(split=split, **request_changes), known, timings)


def near(lanes: int, cores: int = 0, steps: int = 20, **changes: Any) -> Any:
    """The plan within the tolerance of `near`."""
    return core.plan(steps, lanes, cores, tolerance=options.NEAR, **changes)


def test_it_is_imported_without_a_host() -> None:
    code = (
        "import sys; sys.path.append('tests/nodes'); from pack_modules import module; "
        "module('nodes.host.sampling.placement'); module('nodes.host.sampling.messages'); "
        "assert not [name for name in sys.modules if name.split('.')[0] in ('comfy', 'server', 'folder_paths')]"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPO, check=True)


# --- the number of lanes


@pytest.mark.parametrize("count", [2, 4, 8])
def test_the_plan_is_the_planners_for_these_devices_and_each_core_has_a_lane(count: int) -> None:
    placed = place(facts(GPUS[:count]))
    assert placed.plan == near(count)
    assert placed.groups == tuple((device,) for device in GPUS[: placed.plan.cores])
    assert placed.notes == ()


@pytest.mark.parametrize("cores", [2, 3, 8])
def test_a_number_of_cores_is_kept_whatever_the_devices(cores: int) -> None:
    for count in (1, 2, 8):
        placed = place(facts(GPUS[:count]), Options(cores))
        assert placed.plan.cores == cores
        assert len(placed.groups) == min(cores, count)


def test_one_core_is_on_the_device_that_has_the_model() -> None:
    placed = place(facts(GPUS[1:3], primary=GPUS[0]), Options(1))  # the user named two others
    assert placed.groups == ((GPUS[0],),)


def test_more_cpu_lanes_than_processors_do_not_count_and_the_user_is_told() -> None:
    known = facts(CPUS[:4], processors=2)
    placed = place(known)
    assert placed.plan == near(2)
    assert [note for note in placed.notes if "2 of 4 CPU lanes" in note and "2 cores" in note]
    assert place(known, Options(4)).notes == ()  # a number of cores is kept, so there is nothing to say
    assert place(replace(known, reasons=Reasons("keeps state"))).notes == ()
    assert place(facts(CPUS[:4], processors=4)).notes == ()
    assert place(facts(GPUS[:4], processors=2)).notes == ()


# --- two devices a call


def test_two_devices_share_the_calls_of_one_core() -> None:
    placed = place(facts(GPUS[:2], guided=True))
    assert placed.groups == (GPUS[:2],)
    assert placed.plan.cores == 1 and placed.plan.tolerance == options.NEAR
    within, shared = placed.plan.reasons
    assert within.cause is core.Cause.WITHIN_TOLERANCE
    assert shared == (
        "cuda:0 and cuda:1 make each call together or one of them alone, whichever the first calls show to be faster"
    )
    exact = place(facts(GPUS[:2], guided=True), Options(fidelity="exact"))
    assert exact.groups == (GPUS[:2],)
    assert exact.plan.reasons[-1] == f"{shared}, the same picture apart from rounding"


def test_the_device_that_has_the_model_is_the_first_of_its_pair() -> None:
    known = facts((GPUS[1], GPUS[0]), primary=GPUS[0], guided=True)
    assert place(known).groups == (GPUS[:2],)


@pytest.mark.parametrize("count", [4, 8])
def test_pairs_are_lanes(count: int) -> None:
    placed = place(facts(GPUS[:count], guided=True))
    assert placed.plan == near(count // 2)
    assert placed.groups == tuple(GPUS[2 * pair : 2 * pair + 2] for pair in range(placed.plan.cores))


@pytest.mark.parametrize(
    ("split", "devices", "changes", "paired"),
    [
        ("auto", GPUS, {}, True),
        ("auto", CPUS, {}, False),  # lanes of one processor
        ("guidance", CPUS, {}, True),
        ("off", GPUS, {}, False),
        ("guidance", GPUS, {"guided": False}, False),
        ("guidance", GPUS, {"reasons": Reasons("keeps state")}, False),
        ("auto", GPUS, {"split_seconds": lambda group: SLOW_PAIR}, False),
        ("guidance", GPUS, {"split_seconds": lambda group: SLOW_PAIR}, True),
    ],
)
def test_when_devices_are_paired(
    split: str, devices: tuple[torch.device, ...], changes: dict[str, Any], paired: bool
) -> None:
    placed = place(facts(devices[:2], **{"guided": True, **changes}), split=split)
    assert (len(placed.groups[0]) == 2) == paired


def test_a_core_of_its_own_comes_before_half_a_call() -> None:
    known = facts(GPUS[:4], guided=True)
    assert place(known, Options(4)).groups == tuple((device,) for device in GPUS[:4])
    assert place(known, Options(2)).groups == (GPUS[:2], GPUS[2:4])


@pytest.mark.parametrize(
    "wanted", [{"fidelity": "exact"}, {"accept": "exact"}, {"fidelity": "fast", "accept": "exact"}]
)
@pytest.mark.parametrize("guided", [True, False])
def test_the_exact_picture_comes_earlier_by_shared_calls(wanted: dict[str, Any], guided: bool) -> None:
    placed = place(transformer(GPUS[:4], guided=guided), Options(**wanted))
    assert isinstance(placed.plan, core.SequentialPlan) and placed.groups == (GPUS[:4],)
    assert "the same picture apart from rounding" in placed.plan.reasons[-1]
    assert place(facts(GPUS[:4]), Options(**wanted)).groups == (GPUS[:1],)


# --- fidelity


@pytest.mark.parametrize("steps", [4, 11, 20, 50])
def test_on_one_device_auto_is_ksampler_and_advises_what_would_gain(steps: int) -> None:
    placed = place(facts(GPUS[:1], steps=steps))
    assert isinstance(placed.plan, core.SequentialPlan)
    gains = isinstance(near(1, steps=steps), core.AdaptivePlan)
    assert any("fidelity near: about" in str(reason) for reason in placed.plan.reasons) == gains
    for wanted in (Options(1), Options(accept="exact"), Options(fidelity="exact"), Options(method="chords")):
        told = messages.reasons_of(place(facts(GPUS[:1], steps=steps), wanted).plan)
        assert "fidelity near" not in told


@pytest.mark.parametrize("devices", [GPUS[:1], GPUS[:4]], ids=["one device", "four devices"])
@pytest.mark.parametrize("wanted", [Options(), Options(fidelity="near"), Options(fidelity="fast"), Options(cores=4)])
def test_fidelity_is_advised_instead_of_a_step_cache(devices: Any, wanted: Any) -> None:
    reasons = Reasons("LazyCache keeps results", cache="LazyCache")
    placed = place(facts(devices, reasons=reasons), wanted)
    assert isinstance(placed.plan, core.SequentialPlan) and placed.groups == (GPUS[:1],)
    advice = {"near": "remove LazyCache, and fidelity near acts", "fast": "remove LazyCache, and fidelity fast acts"}
    told = messages.reasons_of(placed.plan)
    assert advice.get(wanted.fidelity, "without LazyCache, set fidelity to near") in told
    assert "closer to KSampler's picture" in told


@pytest.mark.parametrize(
    "changes",
    [{"steps": 4}, {"reasons": Reasons("LazyCache keeps results", every_step="a prompt ends", cache="LazyCache")}],
)
def test_fidelity_is_not_advised_where_it_leaves_out_no_call(changes: dict[str, Any]) -> None:
    known = facts(GPUS[:1], **{"reasons": Reasons("LazyCache keeps results", cache="LazyCache"), **changes})
    for wanted in (Options(), Options(fidelity="near")):
        assert "LazyCache, " not in messages.reasons_of(place(known, wanted).plan)


def test_a_model_that_keeps_state_gets_no_advice_that_it_cannot_follow() -> None:
    told = messages.reasons_of(place(facts(GPUS[:1], reasons=Reasons("keeps state"))).plan)
    assert "fidelity near" not in told


@pytest.mark.parametrize(("fidelity", "tolerance"), [("near", 0.01), ("fast", 0.03)])
@pytest.mark.parametrize("count", [1, 2, 8])
def test_near_and_fast_hold_on_any_number_of_devices(fidelity: Any, tolerance: float, count: int) -> None:
    placed = place(facts(GPUS[:count]), Options(fidelity=fidelity))
    assert placed.plan == core.plan(20, count, tolerance=tolerance)


@pytest.mark.parametrize("fidelity", ["auto", "near", "fast"])
@pytest.mark.parametrize("method", [None, "secant"])
def test_a_number_of_cores_gives_the_same_plan_on_any_devices(fidelity: Any, method: Any) -> None:
    wanted = Options(4, fidelity=fidelity, method=method)
    one, *others = (place(facts(GPUS[:count]), wanted).plan for count in (1, 2, 4, 8))
    assert isinstance(one, core.AdaptivePlan) and all(other == one for other in others)


@pytest.mark.parametrize("fidelity", options.FIDELITIES)
@pytest.mark.parametrize("count", [1, 2, 8])
def test_few_steps_are_all_taken(fidelity: Any, count: int) -> None:
    assert isinstance(place(facts(GPUS[:count], steps=4), Options(fidelity=fidelity)).plan, core.SequentialPlan)


@pytest.mark.parametrize("fidelity", options.FIDELITIES)
@pytest.mark.parametrize("count", [1, 2, 8])
def test_what_needs_its_steps_in_order_gets_them_whatever_the_fidelity(fidelity: Any, count: int) -> None:
    known = facts(GPUS[:count], reasons=Reasons("keeps state"))
    assert isinstance(place(known, Options(fidelity=fidelity)).plan, core.SequentialPlan)


@pytest.mark.parametrize("fidelity", options.FIDELITIES)
@pytest.mark.parametrize(("count", "cores"), [(1, 0), (2, 0), (8, 0), (8, 4)])
def test_where_nothing_near_can_be_promised_every_step_is_taken(fidelity: Any, count: int, cores: int) -> None:
    known = facts(GPUS[:count], reasons=Reasons(every_step="a prompt ends"))
    placed = place(known, Options(cores, fidelity=fidelity))
    if fidelity == "exact" and cores:
        assert placed.plan.accept == 4  # CHORDS to its exact result
    else:
        assert isinstance(placed.plan, core.SequentialPlan)
        told = messages.reasons_of(placed.plan)
        assert ("a prompt ends" in told) == (fidelity in ("near", "fast") or (fidelity == "auto" and count > 1))
        assert "fidelity near" not in told
    shared = place(transformer(GPUS[:4], reasons=Reasons(every_step="a prompt ends", tokens=None)))
    assert isinstance(shared.plan, core.SequentialPlan) and len(shared.groups[0]) == 4


@pytest.mark.parametrize("wanted", [{"method": "chords"}, {"accept": 1}, {"accept": 2, "method": "secant"}])
def test_a_method_or_a_result_overrides_the_fidelity(wanted: dict[str, Any]) -> None:
    placed = place(facts(GPUS[:4]), Options(fidelity="near", **wanted))
    assert placed.plan == core.plan(20, 4, **wanted)


def test_exact_with_several_cores_is_chords_to_its_end() -> None:
    placed = place(facts(GPUS[:4]), Options(4, fidelity="exact"))
    assert placed.plan == core.plan(20, 4, 4, accept="exact") and placed.plan.method == "chords"


def test_where_pairs_are_no_faster_the_number_of_lanes_and_the_picture_stay() -> None:
    known = facts(GPUS[:4], guided=True)
    slow = place(replace(known, split_seconds=lambda group: SLOW_PAIR))
    assert slow.groups == ((GPUS[0],), (GPUS[2],))[: slow.plan.cores]
    assert slow.plan.cores == place(known).plan.cores


# --- calls shared by tokens


def transformer(devices: tuple[torch.device, ...], **changes: Any) -> Any:
    """A model whose calls can be shared by tokens."""
    return facts(devices, **{"reasons": Reasons(tokens=None), **changes})


@pytest.mark.parametrize("count", [2, 3, 4, 8])
@pytest.mark.parametrize(
    "changes", [{}, {"guided": True}, {"steps": 4}, {"reasons": Reasons("keeps state", tokens=None)}]
)
def test_all_devices_share_by_tokens_if_that_is_asked_for(count: int, changes: dict[str, Any]) -> None:
    """On one core, whatever needs its steps in order; the fidelity decides how many calls it makes."""
    for fidelity in options.FIDELITIES:
        placed = place(transformer(GPUS[:count], **changes), Options(fidelity=fidelity), split="tokens")
        assert placed.groups == (GPUS[:count],) and placed.splits == (Split(1, count),)
        every = isinstance(placed.plan, core.SequentialPlan)
        assert placed.plan.cores == 1 and (every or fidelity != "exact")
        told = messages.reasons_of(placed.plan)
        assert "share each call by tokens" in told and ("the same picture apart from rounding" in told) == every


@pytest.mark.parametrize(("cores", "count", "shares"), [(2, 4, 2), (2, 5, 2), (3, 8, 2), (4, 4, 1), (2, 3, 1)])
def test_cores_that_are_asked_for_share_the_devices_out(cores: int, count: int, shares: int) -> None:
    placed = place(transformer(GPUS[:count]), Options(cores), split="tokens")
    assert placed.plan.cores == cores and placed.splits == (Split(1, shares),)
    assert placed.groups == tuple(GPUS[lane * shares : (lane + 1) * shares] for lane in range(cores))


def test_a_network_that_cannot_be_split_is_not_and_the_user_is_told() -> None:
    placed = place(facts(GPUS[:4]), split="tokens")
    assert placed.plan == near(4) and placed.splits == (WHOLE,)
    assert placed.notes == ("calls are not shared by tokens: UNetModel is not a network that can be shared by tokens",)


@pytest.mark.parametrize(
    ("count", "guided", "splits"),
    [
        (2, False, (TOKENS, WHOLE)),
        (2, True, (TOKENS, PAIR, WHOLE)),
        (4, False, (FOUR, TOKENS, WHOLE)),
        (4, True, (FOUR, BOTH, TOKENS, PAIR, WHOLE)),
        (8, False, (EIGHT, FOUR, TOKENS, WHOLE)),
        (8, True, (EIGHT, Split(2, 4), FOUR, BOTH, TOKENS, PAIR, WHOLE)),
        (6, False, (Split(1, 6), Split(1, 3), WHOLE)),
        (3, False, (Split(1, 3), WHOLE)),
    ],
)
def test_where_one_core_is_best_all_ways_to_share_its_calls_are_tried(
    count: int, guided: bool, splits: tuple[Any, ...]
) -> None:
    placed = place(transformer(GPUS[:count], steps=4, guided=guided))
    assert placed.plan.cores == 1 and placed.groups == (GPUS[:count],) and placed.splits == splits


def test_one_core_shares_its_calls_by_tokens_although_its_model_keeps_state() -> None:
    """Guidance is not split then: the order of the two sides may matter."""
    placed = place(transformer(GPUS[:2], guided=True, reasons=Reasons("keeps state", tokens=None)))
    assert placed.splits == (TOKENS, WHOLE)
    assert placed.plan.reasons[0] == "keeps state" and "cuda:0 and cuda:1" in placed.plan.reasons[1]


@pytest.mark.parametrize("guided", [False, True])
def test_why_there_is_one_core_is_said_also_where_calls_are_shared(guided: bool) -> None:
    """With one device there is nothing else to say."""
    for count in (4, 8):
        placed = place(transformer(GPUS[:count], guided=guided, steps=11))
        first, *others = placed.plan.reasons
        assert first == near(count, steps=11).reasons[0]
        assert len(others) == 1 and "make each call together" in others[0]
    assert len(place(transformer(GPUS[:1], steps=11)).plan.reasons) == 1


def test_what_is_known_to_be_fastest_is_not_measured_again() -> None:
    known = {FOUR: 0.4, TOKENS: 0.6, WHOLE: 1.0}
    placed = place(transformer(GPUS[:4], steps=4, split_seconds=lambda group: known))
    assert placed.splits == (FOUR,) and placed.groups == (GPUS[:4],)
    placed = place(transformer(GPUS[:4], steps=4), timings=measured(splits={**known, FOUR: 0.7}))
    assert placed.splits == (TOKENS,) and placed.groups == (GPUS[:2],)
    placed = place(transformer(GPUS[:4], steps=4), timings=measured(splits={**known, FOUR: 0.95, TOKENS: 0.95}))
    assert placed.splits == (WHOLE,) and placed.groups == ((GPUS[0],),)


@pytest.mark.parametrize(("seconds", "shared"), [(0.3, True), (0.9, False)])
def test_shared_calls_are_taken_wherever_they_are_at_least_about_as_fast(seconds: float, shared: bool) -> None:
    known = {FOUR: seconds, TOKENS: 0.95, WHOLE: 1.0}
    placed = place(transformer(GPUS[:4], split_seconds=lambda group: known), timings=measured())
    assert (placed.plan.cores == 1) is shared is (placed.splits == (FOUR,))


def test_of_ways_that_are_about_as_fast_the_one_with_every_step_is_taken() -> None:
    """With few steps hardly any can be left out."""
    known = {FOUR: 0.4, TOKENS: 0.95, WHOLE: 1.0}
    for steps in range(8, 30):
        placed = place(transformer(GPUS[:4], steps=steps, split_seconds=lambda group: known), timings=measured())
        fewest = min(near(4, steps=steps).depth, 0.4 * near(1, steps=steps).depth)
        assert isinstance(placed.plan, core.SequentialPlan) == (0.4 * steps <= 1.1 * fewest)


@pytest.mark.parametrize("fidelity", ["exact", "near", "fast"])
def test_shared_calls_and_left_out_steps_add_up(fidelity: Any) -> None:
    known = {FOUR: 0.3, TOKENS: 0.6, WHOLE: 1.0}
    placed = place(transformer(GPUS[:4], split_seconds=lambda group: known), Options(fidelity=fidelity), measured())
    assert placed.splits == (FOUR,)
    assert (placed.plan.depth < 20) == (fidelity != "exact")


def test_the_first_run_shows_what_shared_calls_take_also_where_a_window_gains() -> None:
    """Lanes of a CPU are for a trial of several cores: they are taken at once."""
    placed = place(transformer(GPUS[:4]))
    assert placed.plan.cores == 1 and placed.splits == (FOUR, TOKENS, WHOLE)
    assert place(transformer(CPUS[:4])).plan == near(4)
    assert place(facts(GPUS[:4])).plan == near(4)  # no tokens: there is nothing to find out


@pytest.mark.parametrize("wanted", [Options(4), Options(method="secant")], ids=["cores", "method"])
def test_what_is_asked_for_is_not_replaced_by_a_split(wanted: Any) -> None:
    known = {FOUR: 0.1, TOKENS: 0.5, WHOLE: 1.0}
    placed = place(transformer(GPUS[:4], split_seconds=lambda group: known), wanted, measured())
    assert placed.plan.cores > 1 and placed.splits == (WHOLE,)


@pytest.mark.parametrize(("split", "splits"), [("auto", (TOKENS, WHOLE)), ("tokens", (TOKENS,)), ("off", (WHOLE,))])
def test_a_sampler_of_the_host_shares_its_calls_too(split: str, splits: tuple[Any, ...]) -> None:
    placed = placement.place_stock(Request(split=split), transformer(GPUS[:2], steps=4), "it is lcm", None)
    assert placed.splits == splits and placed.plan.cores == 1 and placed.plan.reasons[0] == "it is lcm"
    assert placed.groups == (GPUS[:2] if split != "off" else GPUS[:1],)
    alone = placement.place_stock(Request(split=split), transformer(CPUS[:1], steps=4), "it is lcm", None)
    assert alone.splits == (WHOLE,) and alone.groups == (CPUS[:1],) and alone.plan.reasons == ("it is lcm",)


@pytest.mark.parametrize(("processors", "threads", "members"), [(8, 1, 4), (3, 1, 3), (8, 4, 2), (2, 2, 1), (1, 1, 1)])
def test_on_a_cpu_auto_tries_tokens_on_idle_cores(processors: int, threads: int, members: int) -> None:
    """By tokens a CPU gives the same bits, by guidance it does not."""
    known = transformer(CPUS[:4], steps=4, guided=True, processors=processors, threads=threads)
    for placed in (place(known), placement.place_stock(Request(), known, "it is lcm", None)):
        assert placed.groups == (CPUS[:members],)
        assert {split.sides for split in placed.splits} == {1} and placed.splits[-1] == WHOLE
        assert max(split.shares for split in placed.splits) == members


def test_times_are_those_of_the_devices_that_share() -> None:
    """On a CPU these are fewer than the lanes."""
    group, asked = CPUS[:2], []

    def seconds(asked_for: tuple[torch.device, ...]) -> dict[Any, float]:
        asked.append(asked_for)
        return {TOKENS: 0.5, WHOLE: 1.0} if asked_for == group else {}

    placed = place(transformer(CPUS[:4], steps=4, processors=2, split_seconds=seconds))
    assert set(asked) == {group} and placed.groups == (group,) and placed.splits == (TOKENS,)


@pytest.mark.parametrize("seconds", [{}, {TOKENS: 0.1, WHOLE: 1.0}])
def test_on_a_cpu_measured_times_do_not_change_the_number_of_cores(seconds: dict[Any, float]) -> None:
    """Other work of the processor would decide the picture."""
    known = transformer(CPUS[:2], split_seconds=lambda group: seconds)
    assert place(known).plan == near(2)


@pytest.mark.parametrize("seconds", [{TOKENS: math.inf}, {TOKENS: math.inf, WHOLE: 1.0}])
def test_a_way_that_cannot_be_used_is_not_tried_again(seconds: dict[Any, float]) -> None:
    known = transformer(GPUS[:2], split_seconds=lambda group: seconds)
    assert place(known).plan == near(2)
    assert place(replace(known, steps=4)).splits == (WHOLE,)


@pytest.mark.parametrize(
    ("known", "wanted", "why"),
    [
        (transformer(GPUS[:1]), Options(), "there is one device only"),
        (transformer(GPUS[1:3], primary=GPUS[0]), Options(), "the model is on cuda:0, which is none of the chosen"),
        (transformer(GPUS[:4]), Options(3), "3 cores on 4 devices leave no device to share a call"),
        (transformer(GPUS[:3]), Options(2), "2 cores on 3 devices leave no device to share a call"),
    ],
)
def test_tokens_that_are_asked_for_in_vain_are_explained(known: Any, wanted: Any, why: str) -> None:
    placed = place(known, wanted, split="tokens")
    assert placed.splits == (WHOLE,)
    assert [note for note in placed.notes if note.startswith(f"calls are not shared by tokens: {why}")]
    if wanted.cores == 0:
        stock = placement.place_stock(Request(split="tokens"), known, "it is lcm", None)
        assert stock.notes == placed.notes


@pytest.mark.parametrize("split", ["auto", "tokens"])
def test_a_model_on_a_device_that_is_not_named_is_not_split(split: str) -> None:
    placed = place(transformer(GPUS[1:3], primary=GPUS[0], steps=4), split=split)
    assert placed.groups == ((GPUS[0],),) and placed.splits == (WHOLE,)


# --- measured times


def measured(**changes: Any) -> Any:
    return Timings(**{"step": 1.0, "rounds": {1: 1.0, 2: 1.0, 4: 1.0, 8: 1.0}, **changes})


def test_devices_that_are_slow_together_are_not_used() -> None:
    for steps in (7, 20):
        placed = place(facts(GPUS[:4], steps=steps), timings=measured(rounds={1: 1.0, 4: 3.9}))
        assert placed.plan.cores == 1 and placed.groups == ((GPUS[0],),)


def test_a_slow_device_has_the_last_lane() -> None:
    calls = {str(GPUS[0]): 9.0, str(GPUS[1]): 1.0, str(GPUS[2]): 1.05}
    placed = place(facts(GPUS[:3]), Options(3), timings=measured(calls=calls))
    assert placed.groups == ((GPUS[1],), (GPUS[2],), (GPUS[0],))


def test_pairs_that_were_measured_as_no_faster_are_not_made() -> None:
    known = facts(GPUS[:2], guided=True)
    assert place(known, timings=measured(splits={PAIR: 0.95})).groups != (GPUS[:2],)
    assert place(known, timings=measured(splits={PAIR: 0.5})).groups == (GPUS[:2],)
    assert place(known, timings=measured(splits={PAIR: 0.95}), split="guidance").groups == (GPUS[:2],)


# --- what this model does not allow


def test_a_model_that_keeps_state_runs_on_one_core() -> None:
    reasons = Reasons("keeps state")
    placed = place(facts(GPUS[:4], reasons=reasons))
    assert placed.plan == core.SequentialPlan(20, ("keeps state",))
    assert placed.groups == ((GPUS[0],),)


def test_nothing_is_asked_that_makes_no_difference() -> None:
    """To read the code of a model's patches takes time, which a user with one device should not pay for."""
    reasons = Reasons()
    place(facts(GPUS[:1], reasons=reasons, steps=4))
    place(facts(GPUS[:1], reasons=reasons), Options(fidelity="exact"))
    place(facts(GPUS[:2], reasons=reasons), Options(1), split="off")
    assert reasons.asked == []


# --- alone, and on a cluster


@pytest.mark.parametrize("fidelity", options.FIDELITIES)
def test_one_core_after_a_problem_makes_as_many_calls_as_without_the_other_devices(fidelity: Any) -> None:
    wanted = Options(fidelity=fidelity)
    placed = placement.place_alone(place(facts(GPUS[:4]), wanted), wanted, facts(GPUS[:4]), "no room")
    assert placed.plan.depth == place(facts(GPUS[:1]), wanted).plan.depth
    assert placed.plan.cores == 1 and placed.groups == ((GPUS[0],),)
    assert placed.plan.reasons[-1] == "no room"


@pytest.mark.parametrize("solver", ["euler", ""])
@pytest.mark.parametrize("fidelity", options.FIDELITIES)
def test_a_sampler_of_the_host_makes_every_call_after_a_problem_too(fidelity: Any, solver: str) -> None:
    """Its solver may be none that the core knows."""
    known = transformer(GPUS[:2], solver=solver)
    stock = placement.place_stock(Request(split="tokens"), known, "it is lcm", None)
    alone = placement.place_alone(stock, Options(fidelity=fidelity), known, "no room")
    assert alone.plan == core.SequentialPlan(20, ("no room",)) and alone.groups == ((GPUS[0],),)


COMPILED = "the model is compiled for cuda:0"


def compiled(count: int, **changes: Any) -> Any:
    return facts(GPUS[:count], reasons=Reasons(one_device=COMPILED, tokens=COMPILED), guided=True, **changes)


def test_whether_a_model_belongs_to_its_device_is_asked_only_where_there_is_another_one() -> None:
    """The answer reads the whole network, which the only device would wait for."""
    for count, asked in ((1, False), (2, True)):
        for wanted in (Options(), Options(1), Options(fidelity="near")):
            known = facts(GPUS[:count])
            place(known, wanted)
            placement.place_stock(Request(split="auto"), known, "why", None)
            assert ("one device" in known.reasons.asked) == asked


@pytest.mark.parametrize("split", ["auto", "guidance", "tokens"])
@pytest.mark.parametrize("cores", [0, 4])
def test_a_model_that_belongs_to_its_device_leaves_calls_out_there(cores: int, split: str) -> None:
    """The other devices have no part, whatever is asked for, and the plan says why."""
    placed = place(compiled(4), Options(cores, fidelity="near"), split=split)
    assert (placed.groups, placed.splits) == (((GPUS[0],),), (WHOLE,))
    assert isinstance(placed.plan, core.AdaptivePlan) and placed.plan.cores == 1
    assert placed.plan.reasons[0] == COMPILED and placed.plan.depth == near(1, 1).depth
    exact = place(compiled(4), Options(cores, fidelity="exact"), split=split)
    assert exact.plan == core.SequentialPlan(20, (COMPILED,)) and exact.groups == ((GPUS[0],),)


def test_nothing_is_said_of_a_model_that_belongs_to_its_device_where_no_other_one_is_asked_for() -> None:
    for known, wanted in ((compiled(1), Options(fidelity="near")), (compiled(4), Options(1, fidelity="near"))):
        placed = place(known, wanted)
        assert COMPILED not in placed.plan.reasons and placed.groups == ((GPUS[0],),)
        assert isinstance(placed.plan, core.AdaptivePlan)


def test_a_model_that_belongs_to_its_device_is_not_moved_to_one_that_the_user_names() -> None:
    placed = place(replace(compiled(1), devices=GPUS[1:3]), Options(fidelity="near"))
    assert placed.groups == ((GPUS[0],),) and placed.plan.reasons[0] == COMPILED


def test_the_stock_sampler_and_a_cluster_leave_a_model_on_its_device() -> None:
    stock = placement.place_stock(Request(split="auto"), compiled(2), "it is lcm", None)
    assert (stock.groups, stock.splits) == (((GPUS[0],),), (WHOLE,))
    assert placement.place_on_cluster(Options(), compiled(1), 4, None).plan == core.SequentialPlan(20, (COMPILED,))


def test_sides_of_guidance_that_need_one_device_are_not_split() -> None:
    """Several cores have a device each."""
    for known, pairs in ((Reasons(), True), (Reasons(sides="weight hooks"), False)):
        placed = place(facts(GPUS[:2], guided=True, reasons=known), Options(1), split="guidance")
        assert (PAIR in placed.splits) == pairs
        lanes = place(facts(GPUS[:4], guided=True, reasons=known), Options(4))
        assert lanes.plan.cores == 4 and len(lanes.groups) == 4


@pytest.mark.parametrize("lanes", [1, 2, 8])
def test_on_a_cluster_the_workers_count(lanes: int) -> None:
    placed = placement.place_on_cluster(Options(), facts(GPUS[:1]), lanes, None)
    assert placed.plan == (near(lanes) if lanes > 1 else core.plan(20, 1)) and placed.groups == ()
