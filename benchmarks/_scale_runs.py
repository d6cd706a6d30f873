"""The simulated runs of benchmarks/scale.py: each function returns a section of scale.json.

A section is a list of rows; ``small`` leaves out some of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import fmean, median
from typing import Any

import torch

from benchmarks._plans import planned_starts
from benchmarks._scale_mixtures import mixtures
from chords_core import (
    Barrier,
    Device,
    Evaluation,
    Link,
    Plan,
    SequentialPlan,
    Simulated,
    ThreadPool,
    expected_seconds,
    plan,
    simulate,
    skeleton,
)
from chords_core.execution.driver import Method, drive
from chords_core.simulated_devices import ETHERNET_1, ETHERNET_10, ETHERNET_100, LOCAL, NVLINK, PCIE

Row = dict[str, Any]
Section = list[Row]

LINKS = (NVLINK, PCIE, ETHERNET_100, ETHERNET_10, ETHERNET_1)
STEPS = (20, 30, 50)
MAX_DEVICES = 16
MAX_CORES = 10  # the planner uses 8 at most
JITTERS = {"none": 0.0, "±10 %": 0.1, "±30 %": 0.3, "30 % s.d.": 0.3 * math.sqrt(3)}


@dataclass(frozen=True)
class Model:
    """A model on one device: the number of elements of its latent, and the seconds of an evaluation."""

    name: str
    elements: int
    seconds: float

    def payload(self, bytes_each: int) -> int:
        return self.elements * bytes_each

    def costs(self, bytes_each: int) -> dict[str, Any]:
        """Arguments of `expected_seconds`.

        A result takes 0.3 to 0.5 ms of the driver's thread at 1 MB (results/driver_overhead.md); most of this is
        arithmetic on the state.
        """
        payload = self.payload(bytes_each)
        return {"payload": payload, "overhead": 0.05e-3 + 0.35e-3 * payload / 2**20}


FLUX = Model("Flux 1024x1024", 16 * 128 * 128, 0.5)
MODELS = (Model("SDXL 1024x1024", 4 * 128 * 128, 0.05), FLUX, Model("Wan 14B video", 16 * 21 * 60 * 104, 5.0))
PRECISIONS = {"fp32": 4, "bf16": 2}


@lru_cache
def candidates(steps: int) -> tuple[Plan, ...]:
    """One core, and the planner's choices for two and more devices."""
    plans = [SequentialPlan(steps, ("one core",)), *(plan(steps, cores) for cores in range(2, MAX_CORES + 1))]
    return tuple({chosen.cores: chosen for chosen in plans}.values())


def best_seconds(steps: int, devices: Sequence[Device], **costs: Any) -> float:
    """The seconds of the fastest candidate on all of ``devices``."""
    return min(expected_seconds(candidates(steps), devices, **costs))


def behind(link: Link, count: int, seconds: float) -> list[Device]:
    """``count`` equal devices: one where the driver is, the others behind ``link``."""
    return [Device(seconds), *[Device(seconds, link)] * (count - 1)]


# --- the sections


def by_devices(small: bool) -> Section:
    """Equal devices and links that cost nothing: the speed-up against one device, by the number of devices."""
    rows = []
    for steps in STEPS:
        times: dict[int, float] = {}
        for count in (1, 2, 4, 8) if small else range(1, MAX_DEVICES + 1):
            found = expected_seconds(candidates(steps), [Device(1.0)] * count)
            times[count] = min(found)
            (today,) = expected_seconds([plan(steps, count)], [Device(1.0)] * count)
            cores = candidates(steps)[found.index(min(found))].cores
            rows.append(
                {
                    "steps": steps,
                    "devices": count,
                    "speedup": steps / times[count],
                    "a core a device": steps / today,
                    "cores": cores,
                    # Guidance split over pairs: half as many lanes, each twice as fast.
                    "pairs": 2 * steps / times[count // 2] if count > 1 else 1.0,
                }
            )
    return rows


def by_links(small: bool) -> Section:
    """Equal devices behind a link: the best speed-up by their number, and the fewest devices within 2 % of the best."""
    counts = (1, 2, 8) if small else (1, 2, 3, 4, 6, 8, 12, 16)
    rows = []
    for steps in (50,) if small else (20, 50):
        for model in MODELS:
            for precision, size in list(PRECISIONS.items())[: 1 if small else None]:
                costs = model.costs(size)
                alone = best_seconds(steps, [Device(model.seconds)], **costs)
                for link in LINKS:
                    devices = {count: behind(link, count, model.seconds) for count in counts}
                    speedups = {count: alone / best_seconds(steps, each, **costs) for count, each in devices.items()}
                    enough = min(count for count in counts if speedups[count] >= 0.98 * max(speedups.values()))
                    names = {"steps": steps, "model": model.name, "precision": precision, "link": link.name}
                    rows.append({**names, "speedups": speedups, "enough": enough})
    return rows


def by_seconds(small: bool) -> Section:
    """8 devices behind a link, 50 steps: the best speed-up by the seconds of an evaluation."""
    costs = FLUX.costs(4)
    rows = []
    for tenths in range(-20, 11, 15 if small else 2):
        seconds = 10 ** (tenths / 10)
        alone = best_seconds(50, [Device(seconds)], **costs)
        for link in (LOCAL, *LINKS):
            speedup = alone / best_seconds(50, behind(link, 8, seconds), **costs)
            rows.append({"seconds": seconds, "link": link.name, "speedup": speedup})
    return rows


def fast_enough(small: bool) -> Section:
    """The shortest evaluation for which a link costs at most 5 % of the time without it; 8 cores, 50 steps."""
    chosen = plan(50, 8)

    def loss(link: Link, payload: int, seconds: float) -> float:
        free, real = (expected_seconds([chosen], behind(way, 8, seconds), payload=payload)[0] for way in (LOCAL, link))
        return real / free - 1

    rows = []
    for model in MODELS:
        for link in LINKS:
            low, high = 1e-5, 100.0
            while high / low > (2 if small else 1.05):
                middle = math.sqrt(low * high)
                low, high = (low, middle) if loss(link, model.payload(4), middle) <= 0.05 else (middle, high)
            rows.append({"model": model.name, "link": link.name, "seconds": high})
    return rows


def slow_device(small: bool) -> Section:
    """Equal devices and one that is slower: the best time with it, the best time without it, and that of the plan for
    all of them."""
    rows = []
    for steps in (50,) if small else STEPS:
        for count in (4, 5, 8) if small else (3, 4, 5, 6, 8):
            fast = [Device(1.0)] * (count - 1)
            without = best_seconds(steps, fast)
            for slowness in (1.1, 1.25, 1.5, 2.0, 3.0):
                every = [*fast, Device(slowness)]
                (blindly,) = expected_seconds([plan(steps, count)], every)
                rows.append(
                    {
                        "steps": steps,
                        "devices": count,
                        "slowness": slowness,
                        "all": blindly,
                        "best with": best_seconds(steps, every),
                        "without": without,
                    }
                )
    return rows


def jitter(small: bool) -> Section:
    """CHORDS by dataflow against barriers, one device per core: mean seconds over seeds, evaluations of 1 s."""
    seeds = range(10 if small else 60)
    rows = []
    for steps, lanes in ((20, 4), (30, 6), (50, 8)):
        starts = planned_starts(steps, lanes)
        for name, share in JITTERS.items():
            devices = [Device(1.0, jitter=share)] * len(starts)
            for accept in ("first", "last"):
                number = 1 if accept == "first" else len(starts)
                free, held = (
                    fmean(simulate(wrap(skeleton(steps, starts, number)), devices, seed=seed).seconds for seed in seeds)
                    for wrap in (_unchanged, Barrier)
                )
                row = {"steps": steps, "cores": len(starts), "hit": accept, "jitter": name}
                rows.append({**row, "dataflow": free, "barrier": held, "saved": 1 - free / held})
    return rows


def failures(small: bool) -> Section:
    """A device that is lost in the middle of a run of 50 steps on 8 devices and 8 cores: the time it adds."""
    starts = planned_starts(50, 8)
    rows = []
    for seconds in (0.5, 5.0):
        healthy = [Device(seconds)] * 8
        expected = simulate(skeleton(50, starts), healthy).seconds
        half = expected / 2 + seconds / 2
        fates = {
            "dies": [replace(healthy[0], dies_at=half)],
            "hangs": [replace(healthy[0], hangs_at=half)],
            "four die": [replace(healthy[0], dies_at=half)] * 4,
            "all but one die": [replace(healthy[0], dies_at=half)] * 7,
        }
        for fate, lost in fates.items():
            result = simulate(skeleton(50, starts), [*healthy[len(lost) :], *lost])
            rows.append(
                {"seconds": seconds, "fate": fate, "without": expected, "with": result.seconds}
                | {"added evaluations": (result.seconds - expected) / seconds}
            )
    return rows


def reality(small: bool) -> Section:
    """Threads that sleep as long as the evaluations of a simulated run took: their time against the simulated time."""
    rows = []
    for steps, cores in ((20, 4), (50, 8)):
        starts = planned_starts(steps, cores)
        for name in ("none", "±30 %", "30 % s.d."):
            devices = [Device(0.04, jitter=JITTERS[name])] * len(starts)
            for kind, wrap in (("dataflow", _unchanged), ("barrier", Barrier)):
                ratios, expected = [], 0.0
                for seed in range(2 if small else 5):
                    simulated = simulate(wrap(skeleton(steps, starts)), devices, seed=seed)
                    expected += simulated.seconds
                    ratios.append(slept(wrap(skeleton(steps, starts)), simulated, len(devices)) / simulated.seconds)
                rows.append(
                    {"steps": steps, "cores": len(starts), "jitter": name, "kind": kind}
                    | {"simulated": expected / len(ratios), "ratio": median(ratios), "worst": max(ratios)}
                )
    return rows


def slept(method: Method, simulated: Simulated, lanes: int) -> float:
    """The real seconds of ``method`` on threads whose evaluations sleep as long as the simulated ones took."""
    takes = {(one.core, one.index): one.seconds for one in simulated.timeline.evaluations}
    naps = [0.0] * lanes

    class Napping(ThreadPool):
        def submit(self, lane: int, evaluation: Evaluation) -> None:
            naps[lane] = takes[evaluation.core, evaluation.index]
            super().submit(lane, evaluation)

    def napper(lane: int) -> Callable[[torch.Tensor, float], torch.Tensor]:
        def denoise(x: torch.Tensor, sigma: float) -> torch.Tensor:
            time.sleep(naps[lane])
            return x

        return denoise

    with Napping([napper(lane) for lane in range(lanes)]) as pool:
        began = time.perf_counter()
        drive(method, pool)
        return time.perf_counter() - began


def _unchanged(method: Method) -> Method:
    return method


SECTIONS: dict[str, Callable[[bool], Section]] = {
    "devices": by_devices,
    "links": by_links,
    "seconds": by_seconds,
    "short": fast_enough,
    "slow": slow_device,
    "jitter": jitter,
    "failures": failures,
    "reality": reality,
    "mixtures": mixtures,
}
