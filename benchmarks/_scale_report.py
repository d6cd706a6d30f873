"""The report of benchmarks/scale.py: scale.md with the tables and what they say, and scale.png."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks._report import INK, figure, table
from benchmarks._scale_mixtures_reading import in_short
from benchmarks._scale_mixtures_report import mixtures, plot_choices, plot_exact
from benchmarks._scale_runs import JITTERS, LINKS, MAX_DEVICES, MODELS, NVLINK, STEPS, Link, Row, Section

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#3b6fd4", "#e07a3f", "#2f9e77", "#b0468f", "#8a8f9c")

Sections = dict[str, Section]


def report(sections: Sections, command: str) -> list[str]:
    """scale.md."""
    lines = [
        "# Where more devices stop to help",
        "",
        f"{command}: the real driver and state machine on imagined devices, in virtual time; torch and the standard "
        "library only. The times of evaluations and links are assumptions (below), and so are the times that follow "
        "from them; no model ran. Plans: what the planner chooses for two and more devices; first hit. The last "
        "section, *Mixtures*, has the costs of real models, measured on one GPU.",
        "",
        *findings(sections),
    ]
    for section in (_devices, _links, _short, _slow, _jitter, _failures, _reality):
        lines += [*section(sections), ""]
    return [*lines, *mixtures(sections["mixtures"])]


# --- the sections


def _devices(sections: Sections) -> list[str]:
    rows = [
        [
            count,
            *(
                f"{row['a core a device']:.2f} / {row['speedup']:.2f} ({row['cores']}) / {row['pairs']:.2f}"
                for row in sections["devices"]
                if row["devices"] == count
            ),
        ]
        for count in sorted({row["devices"] for row in sections["devices"]})
    ]
    return [
        "## Devices, without links",
        "Equal devices, speed-up against one. *a core a device*: the planner's choice, never more cores than devices; "
        "*best*: the best of all its plans, also with more cores than devices; *pairs*: guidance is split first, two "
        "devices per evaluation, taken as exactly twice as fast.",
        "",
        *table(["devices", *(f"{steps} steps: a core a device / best (cores) / pairs" for steps in STEPS)], rows),
    ]


def _links(sections: Sections) -> list[str]:
    assumed = "; ".join(
        f"{link.name} {1e3 * link.latency:g} ms, {link.bandwidth / 1e9:g} GB/s{', shared' if link.shared else ''}"
        for link in LINKS
    )
    evaluations = ", ".join(f"{model.name} {model.seconds:g} s" for model in MODELS)
    counts = list(sections["links"][0]["speedups"])
    rows = [
        [row["steps"], row["model"], row["precision"], row["link"]]
        + [f"{value:.2f}" for value in row["speedups"].values()]
        + [row["enough"]]
        for row in sections["links"]
    ]
    return [
        "## Links",
        "One device where the driver is, the others behind the link. Assumed latency in one direction and bandwidth: "
        f"{assumed}. Evaluations: {evaluations}. With the driver's own time for each result. *enough*: the fewest "
        "devices within 2 % of the best.",
        "",
        *table(["steps", "model", "latent", "link", *map(str, counts), "enough"], rows),
    ]


def _short(sections: Sections) -> list[str]:
    rows = [
        [model.name] + [f"{1e3 * row['seconds']:.1f} ms" for row in sections["short"] if row["model"] == model.name]
        for model in MODELS
    ]
    return [
        "## How short an evaluation may be",
        "At this length the link costs 5 % of the run; 50 steps, 8 cores on 8 devices, fp32 latents. Longer "
        "evaluations lose less.",
        "",
        *table(["latent of", *(link.name for link in LINKS)], rows),
    ]


def _slow(sections: Sections) -> list[str]:
    rows = [
        [row["steps"], row["devices"], row["slowness"], f"{row['all']:.2f}", f"{row['best with']:.2f}"]
        + [f"{row['without']:.2f}", "yes" if _worth_using(row) else "no"]
        for row in sections["slow"]
    ]
    return [
        "## One slower device",
        "Seconds for evaluations of 1 s; the slower device takes so many times as long. *all*: the plan for that many "
        "devices on all of them; *best with*: the best plan on all of them; *without*: the best plan on the others. "
        "The driver gives an evaluation to a device that is notably slower than the fastest only if no other is idle.",
        "",
        *table(["steps", "devices", "times as long", "all", "best with", "without", "use it?"], rows),
    ]


def _jitter(sections: Sections) -> list[str]:
    rows = [
        [row["steps"], row["cores"], row["hit"], row["jitter"], f"{row['dataflow']:.2f}", f"{row['barrier']:.2f}"]
        + [f"{row['saved']:.1%}"]
        for row in sections["jitter"]
    ]
    return [
        "## Jitter: dataflow against barriers",
        "One device per core; evaluations of 1 s on average, evenly distributed in the range; *30 % s.d.*: ±52 %, "
        "whose standard deviation is 30 %. A barrier waits for all evaluations of a round before the next one begins.",
        "",
        *table(["steps", "cores", "hit", "jitter", "dataflow", "barrier", "saved"], rows),
    ]


def _failures(sections: Sections) -> list[str]:
    rows = [
        [f"{row['seconds']:g} s", row["fate"], f"{row['without']:.1f}", f"{row['with']:.1f}"]
        + [f"{row['added evaluations']:.1f}"]
        for row in sections["failures"]
    ]
    return [
        "## Lost devices",
        "50 steps, 8 cores on 8 devices, lost in the middle of the run; usual timeouts (at least 20 s, ten times the "
        "slowest evaluation so far).",
        "",
        *table(["an evaluation", "what", "seconds without", "with", "added, in evaluations"], rows),
    ]


def _reality(sections: Sections) -> list[str]:
    rows = [
        [row["steps"], row["cores"], row["jitter"], row["kind"], f"{row['simulated']:.3f}"]
        + [f"{row['ratio']:.3f}", f"{row['worst']:.3f}"]
        for row in sections["reality"]
    ]
    return [
        "## The simulator against real threads",
        "Threads that sleep as long as the simulated evaluations, 40 ms on average: real time over simulated time. "
        "What is above 1 is the driver and the sleeps themselves, each of which is a little too long.",
        "",
        *table(["steps", "cores", "jitter", "kind", "simulated, s", "real / simulated, median", "worst"], rows),
    ]


def _worth_using(row: Row) -> bool:
    """Whether the best plan with the slower device is faster than the best one without it."""
    return bool(row["best with"] < row["without"] - 1e-9)


# --- what the tables say


def findings(sections: Sections) -> list[str]:
    """The section "In short", from the figures of the tables."""
    devices, slow = sections["devices"], sections["slow"]
    stops = []
    for steps in STEPS:
        mine = [row for row in devices if row["steps"] == steps]
        last = next(row for row in mine if row["speedup"] >= mine[-1]["speedup"] - 1e-9)
        stops.append(f"{last['devices']} at {steps} steps ({last['speedup']:.2f}x)")
    pairs = "; ".join(
        f"{row['devices']} devices, {row['steps']} steps {row['pairs']:.2f}x against {row['speedup']:.2f}x"
        for row in devices
        if row["devices"] in (4, 8) and row["steps"] in (20, 50)
    )
    losses = {
        link.name: [1 - row["speedups"][8] / near["speedups"][8] for row, near in _beside(sections["links"], link)]
        for link in LINKS[1:]
    }
    lost_to_links = ", ".join(f"{max(0, min(each)):.1%} to {max(each):.1%} by {name}" for name, each in losses.items())
    used = [row["slowness"] for row in slow if _worth_using(row)]
    unused = [row["slowness"] for row in slow if not _worth_using(row)]
    saved = {
        name: [row["saved"] for row in sections["jitter"] if row["jitter"] == name and row["hit"] == "first"]
        for name in JITTERS
        if name != "none"
    }
    by_jitter = "; ".join(f"{min(each):.1%} to {max(each):.1%} under {name}" for name, each in saved.items())
    ratios = [row["ratio"] for row in sections["reality"]]
    lost = {row["fate"]: row["added evaluations"] for row in sections["failures"] if row["seconds"] == 0.5}
    return [
        "## In short",
        f"- The most devices that help: {', '.join(stops)}; with the guidance split over pairs, twice as many and "
        "twice the speed-up. A planner should leave more devices than that idle.",
        f"- The guidance split beats cores: {pairs}.",
        f"- More cores than devices {_more_cores(devices)}.",
        f"- Links hardly matter except for short evaluations: against NVLink, 8 devices lose {lost_to_links} (the "
        "three models).",
        f"- A slower device, one that takes {min(used + unused)} to {max(used + unused)} times as long, is better left "
        f"out in {len(unused)} of {len(unused) + len(used)} cases; the slowest one that is worth using takes "
        f"{max(used, default=1.0)} times as long. Using all devices takes up to "
        f"{max(row['all'] / row['without'] for row in slow):.2f} times as long as without it.",
        f"- Dataflow saves against barriers, first hit: {by_jitter.rstrip('.')}.",
        f"- A device that dies in the middle of a run costs {lost['dies']:.1f} evaluations; one that hangs costs the "
        f"timeout, {lost['hangs']:.0f} evaluations of 0.5 s.",
        f"- Real threads take {min(ratios):.3f} to {max(ratios):.3f} of the simulated time (medians).",
        in_short(sections["mixtures"]),
        "",
    ]


def _more_cores(devices: Section) -> str:
    gains = [
        (row["speedup"] / row["a core a device"], row["devices"], row["steps"])
        for row in devices
        if row["speedup"] > row["a core a device"]
    ]
    if not gains:
        return "are never faster"
    gain, count, steps = max(gains)
    devices_used = f"{count} device{'s' * (count != 1)}"
    return f"can be faster: up to {gain:.2f}x as fast as a core a device ({devices_used}, {steps} steps)"


def _beside(rows: Section, link: Link) -> list[tuple[Row, Row]]:
    """Each row of ``link`` with the row of NVLink that is the same otherwise."""
    fastest = [row for row in rows if row["link"] == NVLINK.name]
    return list(zip((row for row in rows if row["link"] == link.name), fastest, strict=True))


# --- the picture


def picture(sections: Sections, path: Path) -> None:
    """The six questions in one picture."""
    with figure(12.5, 12.9, 110, grid=True, layout="constrained") as drawn:
        (devices, links), (slow, waits), (exact, choices) = drawn.subplots(3, 2)
        _plot_devices(devices, sections["devices"])
        _plot_links(links, sections["seconds"])
        _plot_slow(slow, sections["slow"])
        _plot_jitter(waits, sections["jitter"])
        plot_exact(exact, sections["mixtures"])
        plot_choices(choices, sections["mixtures"])
        drawn.savefig(path)


def _plot_devices(axes: Axes, rows: Section) -> None:
    for colour, steps in zip(COLOURS, STEPS, strict=False):
        own = [row for row in rows if row["steps"] == steps]
        counts = [row["devices"] for row in own]
        axes.plot(counts, [row["speedup"] for row in own], "o-", ms=4, color=colour, label=f"{steps} steps")
        axes.plot(counts, [row["pairs"] for row in own], "--", lw=1.2, color=colour, alpha=0.75)
    axes.plot([], [], "--", color=INK, lw=1.2, label="guidance split first")
    axes.set(title="Devices: where they stop to help", xlabel="equal devices, free links", ylabel="speed-up")
    axes.set_xticks(range(1, MAX_DEVICES + 1))
    axes.legend()


def _plot_links(axes: Axes, rows: Section) -> None:
    for colour, link in zip(COLOURS, LINKS, strict=True):
        own = [row for row in rows if row["link"] == link.name]
        seconds, speedups = [row["seconds"] for row in own], [row["speedup"] for row in own]
        axes.plot(seconds, speedups, "-", lw=2, color=colour, label=link.name)
    axes.axhline(1, color=INK, lw=0.8)
    axes.set(title="Links: 8 devices, 50 steps, Flux latents in fp32", xscale="log", ylim=(0, 4))
    axes.set(xlabel="seconds of an evaluation", ylabel="best speed-up")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 0.02), fontsize=9)


def _plot_slow(axes: Axes, rows: Section) -> None:
    rows = [row for row in rows if row["steps"] == 50]
    for colour, count in zip(COLOURS, sorted({row["devices"] for row in rows}), strict=False):
        own = [row for row in rows if row["devices"] == count]
        shares = [100 * (row["all"] / row["without"] - 1) for row in own]
        axes.plot([row["slowness"] for row in own], shares, "o-", ms=4, color=colour, label=f"{count} devices")
    axes.axhline(0, color=INK, lw=0.8)
    axes.set(title="One slower device, 50 steps: using all against leaving it out")
    axes.set(xlabel="its evaluations take so many times as long", ylabel="time added by using it, %")
    axes.legend()


def _plot_jitter(axes: Axes, rows: Section) -> None:
    rows = [row for row in rows if row["hit"] == "first"]
    names = [name for name in JITTERS if name != "none"]
    plans = list(dict.fromkeys((row["steps"], row["cores"]) for row in rows))
    for place, (colour, (steps, cores)) in enumerate(zip(COLOURS, plans, strict=False)):
        values = [100 * row["saved"] for row in rows if row["steps"] == steps and row["jitter"] in names]
        places = [index + (place - 1) * 0.26 for index in range(len(values))]
        bars = axes.bar(places, values, 0.24, color=colour, label=f"{steps} steps, {cores} cores")
        axes.bar_label(bars, fmt="%.1f", fontsize=8.5, padding=2)
    axes.axhline(10, color=INK, lw=0.8, ls=":")
    axes.text(-0.38, 10.2, "goal", fontsize=8.5)
    axes.set_xticks(range(len(names)), [name.replace("s.d.", "standard deviation") for name in names])
    axes.set(ylim=(0, 16.5), ylabel="%", xlabel="jitter of an evaluation")
    axes.set_title("Jitter: time that dataflow saves against barriers")
    axes.grid(axis="x", visible=False)
    axes.legend()
