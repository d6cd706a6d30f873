"""Where more devices stop to help, and what a planner should do about it: runs on imagined devices.

    python benchmarks/scale.py [--small]

The real driver and state machine in virtual time (chords_core/simulation.py). Writes scale.md, scale.json and scale.png
to benchmarks/results; the picture needs matplotlib (pip install matplotlib). One section holds the simulator against
threads that sleep, in real time.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from statistics import fmean, median
from typing import Any

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))

import torch

from benchmarks._plans import planned_starts
from chords_core import (
    Barrier,
    Device,
    Evaluation,
    Link,
    Method,
    Plan,
    SequentialPlan,
    Simulated,
    ThreadPool,
    expected_seconds,
    plan,
    simulate,
    skeleton,
)
from chords_core.execution.driver import drive
from chords_core.simulated_devices import ETHERNET_1, ETHERNET_10, ETHERNET_100, LOCAL, NVLINK, PCIE

Row = dict[str, Any]
Section = list[Row]

LINKS = (NVLINK, PCIE, ETHERNET_100, ETHERNET_10, ETHERNET_1)
STEPS = (20, 30, 50)
MOST_DEVICES = 16
MOST_CORES = 10  # the planner's starts end at 8
JITTERS = {"none": 0.0, "±10 %": 0.1, "±30 %": 0.3, "30 % s.d.": 0.3 * math.sqrt(3)}


@dataclass(frozen=True)
class Work:
    """A model on one device: the elements of its latent, and seconds of an evaluation."""

    name: str
    elements: int
    seconds: float

    def payload(self, bytes_each: int) -> int:
        return self.elements * bytes_each

    def costs(self, bytes_each: int) -> dict[str, Any]:
        """For `expected_seconds`. Of the driver's thread a result takes 0.3 to 0.5 ms at 1 MB in
        results/driver_overhead.md, most of it arithmetic on the state."""
        payload = self.payload(bytes_each)
        return {"payload": payload, "overhead": 0.05e-3 + 0.35e-3 * payload / 2**20}


FLUX = Work("Flux 1024x1024", 16 * 128 * 128, 0.5)
WORKS = (Work("SDXL 1024x1024", 4 * 128 * 128, 0.05), FLUX, Work("Wan 14B video", 16 * 21 * 60 * 104, 5.0))
PRECISIONS = {"fp32": 4, "bf16": 2}


@lru_cache
def candidates(steps: int) -> tuple[Plan, ...]:
    """One core, and the planner's choices for 2 and more devices, which stay close to the sequential result."""
    plans = [SequentialPlan(steps, ("one core",)), *(plan(steps, cores) for cores in range(2, MOST_CORES + 1))]
    return tuple({chosen.cores: chosen for chosen in plans}.values())


def least(steps: int, devices: Sequence[Device], **costs: Any) -> float:
    """The seconds of the best candidate on all of ``devices``."""
    return min(expected_seconds(candidates(steps), devices, **costs))


def around(link: Link, count: int, seconds: float) -> list[Device]:
    """One device where the driver is, and the others behind ``link``."""
    return [Device(seconds), *[Device(seconds, link)] * (count - 1)]


# --- the sections


def by_devices(small: bool) -> Section:
    """Free links, equal devices: speed-up against one device, by their number."""
    rows = []
    for steps in STEPS:
        times: list[float] = []
        for count in range(1, MOST_DEVICES + 1):
            found = expected_seconds(candidates(steps), [Device(1.0)] * count)
            times.append(min(found))
            (today,) = expected_seconds([plan(steps, count)], [Device(1.0)] * count)
            cores = candidates(steps)[found.index(min(found))].cores
            rows.append(
                {
                    "steps": steps,
                    "devices": count,
                    "speedup": steps / times[-1],
                    "a core a device": steps / today,
                    "cores": cores,
                    # Guidance split over pairs: half as many lanes, each twice as fast.
                    "pairs": 2 * steps / times[count // 2 - 1] if count > 1 else 1.0,
                }
            )
    return rows


def by_links(small: bool) -> Section:
    """Equal devices behind a link: the best speed-up by their number, and the fewest within 2 % of the best."""
    counts = (1, 2, 4, 6, 8) if small else (1, 2, 3, 4, 6, 8, 12, 16)
    rows = []
    for steps in (50,) if small else (20, 50):
        for work in WORKS:
            for precision, size in PRECISIONS.items():
                costs = work.costs(size)
                alone = least(steps, [Device(work.seconds)], **costs)
                for link in LINKS:
                    speedups = {
                        count: alone / least(steps, around(link, count, work.seconds), **costs) for count in counts
                    }
                    enough = min(count for count in counts if speedups[count] >= 0.98 * max(speedups.values()))
                    names = {"steps": steps, "work": work.name, "precision": precision, "link": link.name}
                    rows.append({**names, "speedups": speedups, "enough": enough})
    return rows


def by_seconds(small: bool) -> Section:
    """The best speed-up on 8 devices behind a link, 50 steps, by the seconds of an evaluation."""
    costs = FLUX.costs(4)
    rows = []
    for tenths in range(-20, 11, 5 if small else 2):
        seconds = 10 ** (tenths / 10)
        alone = least(50, [Device(seconds)], **costs)
        for link in (LOCAL, *LINKS):
            speedup = alone / least(50, around(link, 8, seconds), **costs)
            rows.append({"seconds": seconds, "link": link.name, "speedup": speedup})
    return rows


def fast_enough(small: bool) -> Section:
    """The shortest evaluation for which a link costs at most 5 % of the time without it; 8 cores, 50 steps."""
    chosen = plan(50, 8)

    def loss(link: Link, payload: int, seconds: float) -> float:
        free, real = (expected_seconds([chosen], around(way, 8, seconds), payload=payload)[0] for way in (LOCAL, link))
        return real / free - 1

    rows = []
    for work in WORKS:
        for link in LINKS:
            low, high = 1e-5, 100.0
            while high / low > 1.05:
                middle = math.sqrt(low * high)
                low, high = (low, middle) if loss(link, work.payload(4), middle) <= 0.05 else (middle, high)
            rows.append({"work": work.name, "link": link.name, "seconds": high})
    return rows


def slow_device(small: bool) -> Section:
    """Equal devices and one that is slower: the best with it against the best without it, and what taking all does."""
    rows = []
    for steps in (50,) if small else STEPS:
        for count in (4, 5, 8) if small else (3, 4, 5, 6, 8):
            fast = [Device(1.0)] * (count - 1)
            without = least(steps, fast)
            for slowness in (1.1, 1.25, 1.5, 2.0, 3.0):
                every = [*fast, Device(slowness)]
                (blindly,) = expected_seconds([plan(steps, count)], every)
                rows.append(
                    {
                        "steps": steps,
                        "devices": count,
                        "slowness": slowness,
                        "all": blindly,
                        "best with": least(steps, every),
                        "without": without,
                    }
                )
    return rows


def jitter(small: bool) -> Section:
    """CHORDS by dataflow against barriers, a device a core: mean seconds over seeds, evaluations of 1 s on average."""
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
                    for wrap in (_as_it_is, Barrier)
                )
                row = {"steps": steps, "cores": len(starts), "hit": accept, "jitter": name}
                rows.append({**row, "dataflow": free, "barrier": held, "saved": 1 - free / held})
    return rows


def failures(small: bool) -> Section:
    """A device that is lost half way, 50 steps on 8 devices and 8 cores: what it adds, in evaluations."""
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
    """Threads that sleep for the times of a simulated run, against the simulated time of it."""
    rows = []
    for steps, cores in ((20, 4), (50, 8)):
        starts = planned_starts(steps, cores)
        for name in ("none", "±30 %", "30 % s.d."):
            devices = [Device(0.04, jitter=JITTERS[name])] * len(starts)
            for kind, wrap in (("dataflow", _as_it_is), ("barrier", Barrier)):
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
    """Seconds that ``method`` really takes on threads whose evaluations sleep as long as the simulated ones took."""
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


def _as_it_is(method: Method) -> Method:
    return method


# --- what is written


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    return lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows] + [""]


def report(sections: dict[str, Section], command: str) -> str:
    """scale.md."""
    lines = [
        "# Where more devices stop to help",
        "",
        f"`{command}`: the real driver and state machine on imagined devices, in virtual time; "
        "torch and the standard library only. Times of evaluations and links are assumptions (below), so are "
        "the times that follow from them; no model ran. Plans: what the planner chooses for 2 and more devices, whose "
        "starts stay close to the sequential result; first hit.",
        "",
        *findings(sections),
        "## Devices, without links",
        "Equal devices, speed-up against one. *a core a device*: what the planner takes, never more cores than "
        "devices; *best*: the best of all its plans, also with more cores than devices; *pairs*: guidance split first, "
        "two devices an evaluation, taken as exactly twice as fast.",
        "",
    ]
    rows = sections["devices"]
    lines += table(
        ["devices", *(f"{steps} steps: a core a device / best (cores) / pairs" for steps in STEPS)],
        [
            [
                count,
                *(
                    f"{row['a core a device']:.2f} / {row['speedup']:.2f} ({row['cores']}) / {row['pairs']:.2f}"
                    for row in rows
                    if row["devices"] == count
                ),
            ]
            for count in range(1, MOST_DEVICES + 1)
        ],
    )
    lines += [
        "## Links",
        "One device where the driver is, the others behind the link. Latency one way and bandwidth assumed: "
        + "; ".join(
            f"{link.name} {1e3 * link.latency:g} ms, {link.bandwidth / 1e9:g} GB/s{', shared' if link.shared else ''}"
            for link in LINKS
        )
        + ". Evaluations: "
        + ", ".join(f"{work.name} {work.seconds:g} s" for work in WORKS)
        + ". With the driver's own time for each result. *enough*: the fewest devices within 2 % of the best.",
        "",
    ]
    counts = list(sections["links"][0]["speedups"])
    lines += table(
        ["steps", "model", "latent", "link", *(f"{count}" for count in counts), "enough"],
        [
            [row["steps"], row["work"], row["precision"], row["link"]]
            + [f"{value:.2f}" for value in row["speedups"].values()]
            + [row["enough"]]
            for row in sections["links"]
        ],
    )
    lines += [
        "## How short an evaluation may be",
        "For which the link costs 5 % of the run; 50 steps, 8 cores on 8 devices, fp32 latents. Longer ones lose less.",
        "",
    ]
    lines += table(
        ["latent of", *(link.name for link in LINKS)],
        [
            [work.name] + [f"{1e3 * row['seconds']:.1f} ms" for row in sections["short"] if row["work"] == work.name]
            for work in WORKS
        ],
    )
    lines += [
        "## One slower device",
        "Seconds for evaluations of 1 s, the slower device's times as long. *all*: the plan for that many devices "
        "on all of them; *best with*: the best plan on all of them; *without*: the best plan on the others. The driver "
        "gives a device notably slower than the fastest an evaluation only if no other is idle.",
        "",
    ]
    lines += table(
        ["steps", "devices", "times as long", "all", "best with", "without", "use it?"],
        [
            [row["steps"], row["devices"], row["slowness"], f"{row['all']:.2f}", f"{row['best with']:.2f}"]
            + [f"{row['without']:.2f}", "yes" if row["best with"] < row["without"] - 1e-9 else "no"]
            for row in sections["slow"]
        ],
    )
    lines += [
        "## Jitter: dataflow against barriers",
        "A device a core; evaluations of 1 s on average, evenly distributed in the range; *30 % s.d.*: ±52 %, whose "
        "standard deviation is 30 %. A barrier waits for all evaluations of a round before the next begins.",
        "",
    ]
    lines += table(
        ["steps", "cores", "hit", "jitter", "dataflow", "barrier", "saved"],
        [
            [row["steps"], row["cores"], row["hit"], row["jitter"], f"{row['dataflow']:.2f}", f"{row['barrier']:.2f}"]
            + [f"{row['saved']:.1%}"]
            for row in sections["jitter"]
        ],
    )
    lines += [
        "## Lost devices",
        "50 steps, 8 cores on 8 devices, lost half way; usual patience (at least 20 s, ten times the slowest so far).",
        "",
    ]
    lines += table(
        ["an evaluation", "what", "seconds without", "with", "added, in evaluations"],
        [
            [f"{row['seconds']:g} s", row["fate"], f"{row['without']:.1f}", f"{row['with']:.1f}"]
            + [f"{row['added evaluations']:.1f}"]
            for row in sections["failures"]
        ],
    )
    lines += [
        "## The simulator against real threads",
        "Threads that sleep for the times of the simulated evaluations, 40 ms on average: real over simulated time. "
        "What is beyond 1 is the driver and the sleeps themselves, each a little too long.",
        "",
    ]
    lines += table(
        ["steps", "cores", "jitter", "kind", "simulated, s", "real / simulated, median", "worst"],
        [
            [row["steps"], row["cores"], row["jitter"], row["kind"], f"{row['simulated']:.3f}"]
            + [f"{row['ratio']:.3f}", f"{row['worst']:.3f}"]
            for row in sections["reality"]
        ],
    )
    return "\n".join(lines)


def findings(sections: dict[str, Section]) -> list[str]:
    """What the tables say, from their figures."""
    devices = sections["devices"]
    stops = []
    for steps in STEPS:
        mine = [row for row in devices if row["steps"] == steps]
        last = next(row for row in mine if row["speedup"] >= mine[-1]["speedup"] - 1e-9)
        stops.append(f"{last['devices']} at {steps} steps ({last['speedup']:.2f}x)")
    used = [row["slowness"] for row in sections["slow"] if row["best with"] < row["without"] - 1e-9]
    unused = [row["slowness"] for row in sections["slow"] if row["best with"] >= row["without"] - 1e-9]
    shares = {
        name: [row["saved"] for row in sections["jitter"] if row["jitter"] == name and row["hit"] == "first"]
        for name in JITTERS
    }
    ratios = [row["ratio"] for row in sections["reality"]]
    lost = {row["fate"]: row["added evaluations"] for row in sections["failures"] if row["seconds"] == 0.5}
    gains = [
        (row["speedup"] / row["a core a device"], row["devices"], row["steps"])
        for row in devices
        if row["speedup"] > row["a core a device"]
    ]
    if gains:
        gain, count, steps = max(gains)
        more = f"can pay: up to {gain:.2f}x sooner than a core a device ({count} devices, {steps} steps)"
    else:
        more = "never pay"
    pairs = "; ".join(
        f"{row['devices']} devices, {row['steps']} steps {row['pairs']:.2f}x against {row['speedup']:.2f}x"
        for row in devices
        if row["devices"] in (4, 8) and row["steps"] in (20, 50)
    )
    losses = {
        link.name: [1 - row["speedups"][8] / near["speedups"][8] for row, near in _beside(sections["links"], link)]
        for link in LINKS[1:]
    }
    return [
        "## In short",
        f"- The most devices that help: {', '.join(stops)}; with the guidance split over pairs, twice as many and "
        "twice the speed-up. A planner should leave any more idle.",
        f"- The guidance split beats cores: {pairs}.",
        f"- More cores than devices {more}.",
        "- Links hardly matter but for short evaluations: 8 devices lose to NVLink "
        + ", ".join(f"{max(0, min(each)):.1%} to {max(each):.1%} by {name}" for name, each in losses.items())
        + " (the three models).",
        f"- A slower device, one that takes {min(used + unused)} to {max(used + unused)} times as long, is better left "
        f"out in {len(unused)} of {len(unused) + len(used)} cases; the slowest ever worth using takes "
        f"{max(used, default=1.0)} times as long. Using all there are is up to "
        f"{max(row['all'] / row['without'] for row in sections['slow']):.2f} times the time without it.",
        "- Dataflow saves against barriers, first hit: "
        + "; ".join(
            f"{min(each):.1%} to {max(each):.1%} under {name}".rstrip(".")
            for name, each in shares.items()
            if name != "none"
        )
        + ".",
        f"- A device that dies half way costs {lost['dies']:.1f} evaluations; one that hangs costs the patience, "
        f"{lost['hangs']:.0f} evaluations of 0.5 s.",
        f"- Real threads take {min(ratios):.3f} to {max(ratios):.3f} of the simulated time (medians).",
        "",
    ]


def _beside(rows: Section, link: Link) -> list[tuple[Row, Row]]:
    """Each row of ``link`` with the one of NVLink that is otherwise the same."""
    fastest = [row for row in rows if row["link"] == NVLINK.name]
    return list(zip((row for row in rows if row["link"] == link.name), fastest, strict=True))


def picture(sections: dict[str, Section], path: Path) -> None:
    """The four questions in one picture."""
    try:
        import matplotlib
    except ImportError as error:
        raise SystemExit("the picture needs matplotlib: pip install matplotlib, or use --no-picture") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    ink, faint, paper = "#1f2430", "#d9dde6", "#ffffff"
    colours = ("#3b6fd4", "#e07a3f", "#2f9e77", "#b0468f", "#8a8f9c")
    pyplot.rcParams.update(
        {"font.size": 10, "axes.edgecolor": faint, "text.color": ink, "axes.labelcolor": ink}
        | {"xtick.color": ink, "ytick.color": ink, "axes.spines.top": False, "axes.spines.right": False}
        | {"axes.grid": True, "grid.color": faint, "grid.linewidth": 0.6, "axes.axisbelow": True}
        | {"axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left", "legend.frameon": False}
    )
    figure, axes = pyplot.subplots(2, 2, figsize=(12.5, 8.6), facecolor=paper, layout="constrained")
    (devices, links), (slow, waits) = axes

    for colour, steps in zip(colours, STEPS, strict=False):
        rows = [row for row in sections["devices"] if row["steps"] == steps]
        counts = [row["devices"] for row in rows]
        devices.plot(counts, [row["speedup"] for row in rows], "o-", ms=4, color=colour, label=f"{steps} steps")
        devices.plot(counts, [row["pairs"] for row in rows], "--", lw=1.2, color=colour, alpha=0.75)
    devices.plot([], [], "--", color=ink, lw=1.2, label="guidance split first")
    devices.set(title="Devices: where they stop to help", xlabel="equal devices, free links", ylabel="speed-up")
    devices.set_xticks(range(1, MOST_DEVICES + 1))
    devices.legend()

    for colour, link in zip(colours, LINKS, strict=True):
        rows = [row for row in sections["seconds"] if row["link"] == link.name]
        seconds, speedups = [row["seconds"] for row in rows], [row["speedup"] for row in rows]
        links.plot(seconds, speedups, "-", lw=2, color=colour, label=link.name)
    links.axhline(1, color=ink, lw=0.8)
    links.set(title="Links: 8 devices, 50 steps, Flux latents in fp32", xscale="log", ylim=(0, 4))
    links.set(xlabel="seconds of an evaluation", ylabel="best speed-up")
    links.legend(loc="lower right", bbox_to_anchor=(1, 0.02), fontsize=9)

    counts = sorted({row["devices"] for row in sections["slow"] if row["steps"] == 50})
    for colour, count in zip(colours, counts, strict=False):
        rows = [row for row in sections["slow"] if row["steps"] == 50 and row["devices"] == count]
        shares = [100 * (row["all"] / row["without"] - 1) for row in rows]
        slow.plot([row["slowness"] for row in rows], shares, "o-", ms=4, color=colour, label=f"{count} devices")
    slow.axhline(0, color=ink, lw=0.8)
    slow.set(title="One slower device, 50 steps: using all against leaving it out")
    slow.set(xlabel="its evaluations take so many times as long", ylabel="time added by using it, %")
    slow.legend()

    rows = [row for row in sections["jitter"] if row["hit"] == "first"]
    names = [name for name in JITTERS if name != "none"]
    plans = list(dict.fromkeys((row["steps"], row["cores"]) for row in rows))
    for place, (colour, (steps, cores)) in enumerate(zip(colours, plans, strict=False)):
        values = [100 * row["saved"] for row in rows if row["steps"] == steps and row["jitter"] in names]
        places = [index + (place - 1) * 0.26 for index in range(len(values))]
        bars = waits.bar(places, values, 0.24, color=colour, label=f"{steps} steps, {cores} cores")
        waits.bar_label(bars, fmt="%.1f", fontsize=8.5, padding=2)
    waits.axhline(10, color=ink, lw=0.8, ls=":")
    waits.text(-0.38, 10.2, "goal", fontsize=8.5)
    waits.set_xticks(range(len(names)), [name.replace("s.d.", "standard deviation") for name in names])
    waits.set_ylim(0, 16.5)
    waits.set(title="Jitter: time that dataflow saves against barriers", xlabel="jitter of an evaluation", ylabel="%")
    waits.grid(axis="x", visible=False)
    waits.legend()

    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="fewer cases and seeds: under a minute")
    parser.add_argument("--no-picture", action="store_true", help="without matplotlib")
    parser.add_argument("--out", type=Path, default=REPO / "benchmarks" / "results", help="the folder to write to")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    makers = {
        "devices": by_devices,
        "links": by_links,
        "seconds": by_seconds,
        "short": fast_enough,
        "slow": slow_device,
        "jitter": jitter,
        "failures": failures,
        "reality": reality,
    }
    sections = {}
    for name, make in makers.items():
        began = time.perf_counter()
        sections[name] = make(arguments.small)
        print(f"{name}: {time.perf_counter() - began:.1f} s", flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    command = "python benchmarks/scale.py" + (" --small" if arguments.small else "")
    (arguments.out / "scale.md").write_text(report(sections, command), encoding="utf-8")
    (arguments.out / "scale.json").write_text(json.dumps(sections, indent=1) + "\n", encoding="utf-8")
    if not arguments.no_picture:
        picture(sections, arguments.out / "scale.png")


if __name__ == "__main__":
    main()
