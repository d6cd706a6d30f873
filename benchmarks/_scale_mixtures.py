"""Which mixture of token split, guidance split, cores and calls left out is fastest, and what the pack chooses.

A section of benchmarks/scale.py: whole runs by the costs of `_token_split_costs`. What the pack chooses comes from its
own placement, and what it tries in a run from its own autotuner, in virtual time.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from math import prod
from types import ModuleType
from typing import Any

import torch

from benchmarks._report import REPO, RESULTS
from benchmarks._token_split_costs import Exchange, ModelCosts, Way, load_costs
from chords_core import AdaptivePlan, Autotuner, Plan, SequentialPlan, fastest_way, plan, solve_seconds

Row = dict[str, Any]
Group = tuple[torch.device, ...]

DEVICES = (1, 2, 4, 8)  # numbers of members that were measured
STEPS = (4, 8, 20, 50)
BANDWIDTHS = (12, 25, 64, 450)  # GB/s into a device: PCIe 4.0 without peer access and with it, PCIe 5.0, NVLink
FIDELITIES = ("exact", "auto")  # of the nodes; on several devices "auto" is at least "near"
STATES = ("first run", "later runs", "benchmark")
"""What the pack knows: nothing; what the runs before have tried; or all times, as CHORDS Benchmark measures them."""

LATENTS = {  # as benchmarks/token_split_gpu.py has them
    "Flux dev 12B, 1024x1024": (16, 128, 128),
    "Wan 2.1 1.3B, 832x480, 33 frames": (16, 9, 60, 104),
    "Wan 2.1 1.3B, 832x480, 81 frames": (16, 21, 60, 104),
    "Qwen-Image 20B, 1328x1328": (16, 1, 160, 160),  # 1280x1280, whose tokens 8 members share evenly
    "Wan 2.1 14B, 832x480, 81 frames": (16, 21, 60, 104),
    "Wan 2.1 14B, 1280x720, 81 frames": (16, 21, 90, 160),
}


def _pack_module(name: str) -> ModuleType:
    """A module of the pack that needs no host, without the pack's entry, which needs one."""
    for package, folder in {"chords_pack": REPO, "chords_pack.nodes": REPO / "nodes"}.items():
        if package not in sys.modules:
            sys.modules[package] = ModuleType(package)
            sys.modules[package].__path__ = [str(folder)]
    return importlib.import_module(f"chords_pack.nodes.host.{name}")


_placement = _pack_module("sampling.placement")
_groups = _pack_module("devices.groups")
_options = _pack_module("sampling.options")
_request = _pack_module("devices.request")
_timings = _pack_module("devices.timings")


@dataclass(frozen=True)
class Case:
    """A run on equal devices of one machine: Euler, with all devices that the pack sees.

    Attributes:
        costs: of the model.
        guided: whether each call has two sides.
        steps: of the schedule.
        devices: their number, one of `DEVICES`.
        exchange: how keys and values travel.
    """

    costs: ModelCosts
    guided: bool
    steps: int
    devices: int
    exchange: Exchange

    @property
    def solving(self) -> float:
        """Seconds that a window's own arithmetic takes in a round."""
        return solve_seconds(self.steps, prod(LATENTS[self.costs.name]))

    def call(self, cores: int, split: Any) -> float:
        """Seconds of a round of so many calls, each shared by this `groups.Split`."""
        return self.costs.round_seconds(Way(cores, split.sides, split.shares), self.guided, self.exchange)

    def round(self, cores: int, split: Any) -> float:
        """The same with the arithmetic of several cores."""
        return self.call(cores, split) + (self.solving if cores > 1 else 0.0)


@dataclass(frozen=True)
class Run:
    """A way to make a run.

    Attributes:
        name: what it mixes, as in "4 cores x guidance x tokens 2"; "one device" for KSampler's way.
        seconds: of the whole run.
        devices: that take part.
        exact: whether the picture is KSampler's, apart from rounding. Others are near it.
    """

    name: str
    seconds: float
    devices: int
    exact: bool


def run_of(case: Case, chosen: Any, split: Any, seconds: float | None = None) -> Run:
    """The run of a plan whose calls are all shared by ``split``; ``seconds`` if it takes another time."""
    many, exact = chosen.cores > 1, not hasattr(chosen, "tolerance")  # the pack has classes of its own
    parts = [f"{chosen.cores} cores"] * many + ["calls left out"] * (not many and not exact)
    parts += [split.name] * (not split.whole)
    return Run(
        " x ".join(parts) or "one device",
        chosen.depth * case.round(chosen.cores, split) if seconds is None else seconds,
        chosen.cores * split.devices,
        exact=exact,
    )


# --- what is possible


@lru_cache
def plans(steps: int, devices: int) -> tuple[Plan, ...]:
    """One core at every step, and the planner's choices near its picture for up to so many lanes."""
    near = (plan(steps, lanes, tolerance=_options.NEAR) for lanes in range(1, devices + 1))
    by_cores = {chosen.cores: chosen for chosen in near if isinstance(chosen, AdaptivePlan)}
    return (SequentialPlan(steps, ("one core",)), *by_cores.values())


def runs(case: Case) -> Iterator[Run]:
    """All mixtures on the devices of the case or on fewer."""
    for chosen in plans(case.steps, case.devices):
        for sides, shares in product((1, 2) if case.guided else (1,), DEVICES):
            if chosen.cores * sides * shares <= case.devices:
                yield run_of(case, chosen, _groups.Split(sides, shares))


def best(found: Iterable[Run]) -> Run:
    """The fastest; of equals the one that is exact, then the one with fewer devices."""
    return min(found, key=lambda run: (run.seconds, not run.exact, run.devices))


# --- what the pack chooses


@dataclass(frozen=True)
class _NoReasons:
    """Everything is possible with the model."""

    for_one_core: None = None
    for_every_step: None = None
    step_cache: None = None
    for_one_device: None = None
    against_sides: None = None
    against_tokens: None = None


def pick(case: Case, fidelity: str, state: str) -> Run:
    """What the pack chooses with ``fidelity``, one of `FIDELITIES`, and its other inputs at their defaults.

    ``state``: what it knows, one of `STATES`.
    """
    if state == "benchmark":
        placed = _placed(case, fidelity, lambda group: _all_splits(case, len(group)), _measured(case))
        return _run_of(case, placed, _all_splits(case, len(placed.groups[0])))
    placed = _placed(case, fidelity)
    if state == "first run":
        return _first_run(case, placed)
    return _run_of(case, _after_trials(case, fidelity, placed))


def _after_trials(case: Case, fidelity: str, placed: Any) -> Any:
    """The placement after some runs, when all splits that the placements ask for have been tried."""
    known: dict[Group, dict[Any, float]] = {}
    kept: dict[Any, float] = {}  # in the file, of one core only

    def tried(group: Group) -> Mapping[Any, float]:
        return known.get(group, {})

    for _ in range(4):  # after that nothing new is tried
        seconds = {split: case.call(placed.plan.cores, split) for split in placed.splits}
        if len(seconds) > 1:
            known |= {group: {**tried(group), **seconds} for group in placed.groups}
            kept |= seconds if len(placed.groups) == 1 else {}
        timings = _timings.Timings(kept[_groups.WHOLE], splits=kept) if kept else None
        placed = _placed(case, fidelity, tried, timings)
    return placed


def _placed(
    case: Case,
    fidelity: str,
    split_seconds: Callable[[Group], Mapping[Any, float]] = lambda group: {},
    timings: Any = None,
) -> Any:
    """What the pack's own placement chooses. The arguments: what it knows."""
    devices = tuple(torch.device("cuda", number) for number in range(case.devices))
    facts = _placement.Facts(
        steps=case.steps,
        solver="euler",
        solving_seconds=case.solving,
        primary=devices[0],
        devices=devices,
        processors=64,
        threads=1,
        guided=case.guided,
        split_seconds=split_seconds,
        reasons=_NoReasons(),
    )
    options = _options.SamplerOptions(fidelity=fidelity)
    return _placement.place(options, _request.DeviceRequest(), facts, timings)


def _all_splits(case: Case, devices: int) -> dict[Any, float]:
    return {split: case.call(1, split) for split in _groups.possible_splits(devices, case.guided, True)}


def _measured(case: Case) -> Any:
    """The timings that a benchmark of everything leaves."""
    rounds = {cores: case.call(cores, _groups.WHOLE) for cores in range(1, case.devices + 1)}
    return _timings.Timings(rounds[1], rounds, splits=_all_splits(case, case.devices))


def _run_of(case: Case, placed: Any, known: Mapping[Any, float] | None = None) -> Run:
    """The run of a placement. Of several splits it takes the fastest: by the ``known`` seconds of a call, or as the
    runs before have measured them on these lanes."""
    if len(placed.splits) == 1:
        return run_of(case, placed.plan, placed.splits[0])
    if known is None:
        known = {split: case.call(placed.plan.cores, split) for split in placed.splits}
    seconds = {split: known[split] for split in placed.splits}
    return run_of(case, placed.plan, fastest_way(seconds, _groups.WHOLE, _groups.MIN_GAIN))


def _first_run(case: Case, placed: Any) -> Run:
    """The run of a placement whose first calls try each of several splits. Its name says which one is the fastest."""
    if len(placed.splits) == 1:
        return _run_of(case, placed)
    now = 0.0

    def call(split: Any) -> torch.Tensor:
        nonlocal now
        now += case.round(placed.plan.cores, split)
        return torch.ones(1)

    tuner = Autotuner(placed.splits, _groups.MIN_GAIN, clock=lambda: now)
    for _ in range(placed.plan.depth):
        tuner(call)
    return replace(_run_of(case, placed), seconds=now)


# --- the section


def cases(small: bool) -> Iterator[Case]:
    """All cases; the parts that ``small`` leaves out are of no kind of their own."""
    models = load_costs(RESULTS / "token_split_gpu.json")
    chosen = (models[0], models[-1]) if small else models
    steps, devices, bandwidths = ((4, 20), (4,), (25,)) if small else (STEPS, DEVICES[1:], BANDWIDTHS)
    for costs, guided, number, count in product(chosen, (False, True), steps, devices):
        for bandwidth, overlapped in product(bandwidths, (False, True)):
            yield Case(costs, guided, number, count, Exchange(bandwidth, overlapped))


def mixtures(small: bool) -> list[Row]:
    """A row for each case. Runs are pairs of a name and how many times as fast as one device they are; a call's seconds
    are those of one side on one device."""
    return [_row(case) for case in cases(small)]


def _row(case: Case) -> Row:
    found = list(runs(case))
    alone = next(run for run in found if run.exact and run.devices == 1)

    def entry(run: Run) -> tuple[str, float]:
        return run.name, float(f"{alone.seconds / run.seconds:.4g}")

    return {
        "model": case.costs.name,
        "call": round(case.costs.shares[1], 4),
        "guided": case.guided,
        "steps": case.steps,
        "devices": case.devices,
        "link": case.exchange.bandwidth,
        "overlapped": case.exchange.overlapped,
        "fastest": {
            "exact": entry(best(run for run in found if run.exact)),
            "auto": entry(best(found)),
        },
        "picks": {fidelity: {state: entry(pick(case, fidelity, state)) for state in STATES} for fidelity in FIDELITIES},
    }
