"""What the mixtures of benchmarks/scale.py mean for a user, in sentences with their figures."""

from __future__ import annotations

from benchmarks._scale_mixtures import Row
from benchmarks._scale_mixtures_figures import (
    AUTO,
    BENCHMARK,
    CLOSE,
    EXACT,
    FIRST_RUN,
    LATER_RUNS,
    LONG_CALL,
    Rows,
    behind,
    is_long,
    span,
    spread,
    values_of,
    where,
)


def in_short(rows: Rows) -> str:
    """The line of the mixtures in the list of what the whole report says."""
    count = max(values_of(rows, "devices"))
    exact = [row["fastest"][EXACT][1] for row in where(rows, devices=count)]
    late = _late(rows, LATER_RUNS)
    return (
        f"- By the costs of real models, {count} devices that share each call make KSampler's picture {span(exact)} "
        f"times as fast as one device. What the pack chooses without a benchmark takes over {CLOSE:g} times as long as "
        f"the fastest way in {len(late)} of {len(rows)} cases (the last section)."
    )


def reading(rows: Rows) -> list[str]:
    """What a user does."""
    return ["### What a user does", *_sharing(rows), *_steps(rows), *_planner(rows)]


def _sharing(rows: Rows) -> list[str]:
    """About calls that devices share: the picture stays KSampler's."""
    counts = values_of(rows, "devices")
    rows = where(rows, steps=values_of(rows, "steps")[0])  # their number makes no difference
    few, many = where(rows, devices=counts[0]), where(rows, devices=counts[-1])
    guided = [row["fastest"][EXACT][1] for row in where(few, guided=True)]
    short = [row for row in where(many, guided=False) if not is_long(row)]
    whole = [row for row in where(rows, guided=False) if row["fastest"][EXACT][0] == "one device"]
    lines = [
        f"- **Keep `split` at auto.** With CFG above 1 the guidance split makes a run {span(guided)} times as fast "
        f"on {counts[0]} devices, with every link.",
        f"- **Calls of {LONG_CALL:g} s or more** (on the GPU that was measured: {_names(rows, True)}): use all "
        "devices, or as many of them as auto keeps. With links of 25 GB/s or more a run is "
        f"{_by_count(rows, False)} times as fast as on one device, with CFG above 1 {_by_count(rows, True)} times.",
        f"- **Shorter calls** ({_names(rows, False)}), CFG 1: two devices share a call, and more bring nothing, "
        "because threads of one process launch kernels no faster together. A run is "
        f"{span([row['fastest'][EXACT][1] for row in short])} times as fast on {counts[-1]} devices.",
    ]
    if whole:
        lines[-1] += f" With slow links that are not overlapped one device is best ({len(whole)} cases)."
    return lines


def _names(rows: Rows, long: bool) -> str:
    return "; ".join(dict.fromkeys(row["model"] for row in rows if is_long(row) == long))


def _by_count(rows: Rows, guided: bool) -> str:
    """How many times as fast runs of long calls are, by the number of devices."""
    found = [row for row in where(rows, guided=guided) if is_long(row) and row["link"] >= 25]
    said = (
        f"{span([row['fastest'][EXACT][1] for row in where(found, devices=count)])} ({count} devices)"
        for count in values_of(rows, "devices")
    )
    return ", ".join(said)


def _steps(rows: Rows) -> list[str]:
    """About leaving calls out and cores, by the number of steps."""
    lines, enough = [], []
    for steps in values_of(rows, "steps"):
        found = where(rows, steps=steps)
        gains = [row["fastest"][AUTO][1] / row["fastest"][EXACT][1] for row in found]
        if max(gains) <= 1:
            enough.append(str(steps))
            continue
        cores = sum("cores" in row["fastest"][AUTO][0] for row in found)
        lines.append(
            f"- **{steps} steps**: what `near` allows makes the fastest way {spread(gains)} times as fast as the "
            f"fastest exact one. In {cores} of {len(found)} cases several cores are the fastest way, in the "
            "others shared calls."
        )
    if enough:
        lines.insert(0, f"- **{' or '.join(enough)} steps**: every step is called, and devices share the calls.")
    return lines


def _planner(rows: Rows) -> list[str]:
    """About what the pack chooses by itself."""
    without, after = _late(rows, LATER_RUNS), _late(rows, BENCHMARK)
    worst = max(rows, key=lambda row: behind(row, AUTO, LATER_RUNS))
    kept = [row for row in where(without, guided=False) if "cores" in row["picks"][AUTO][LATER_RUNS][0]]
    few = min(values_of(rows, "steps"))
    first = [row["picks"][AUTO][FIRST_RUN][1] for row in where(rows, steps=few)]
    return [
        "- **Run CHORDS Benchmark once for a model and size, if a run has 8 steps or more.** Without it the choice of "
        f"`auto` takes over {CLOSE:g} times as long as "
        f"the fastest way in {len(without)} of {len(rows)} cases, and is slower than one device in "
        f"{_slower(rows, LATER_RUNS)}; {_as_example(worst, LATER_RUNS)}. In {len(kept)} of "
        "these cases, with CFG 1, it takes several cores, and never tries to share a call.",
        f"- **After a benchmark** the choice takes that long in {len(after)} cases, and is slower than one device in "
        f"{_slower(rows, BENCHMARK)}: {_reasons(after)}. The tables below have the worst ones. If the fastest way has "
        "fewer devices, name only so many in CHORDS Devices.",
        f"- **The first run** of a model and size tries the ways to share a call. With {few} steps it is "
        f"{spread(first)} times as fast as one device: the gain begins with the second run.",
    ]


def _slower(rows: Rows, state: str) -> int:
    """The number of choices that are slower than one device."""
    return sum(row["picks"][AUTO][state][1] < 1 for row in rows)


def _as_example(row: Row, state: str) -> str:
    name, value = row["picks"][AUTO][state]
    fastest, most = row["fastest"][AUTO]
    return (
        f"the worst is {row['model']}, {row['steps']} steps, {row['devices']} devices: {name} {value:.2f} times as "
        f"fast as one device, {fastest} {most:.2f} times"
    )


def _reasons(late: Rows) -> str:
    """What a choice after a benchmark lacks."""
    counts = {
        "another mixture of cores and shared calls is faster": 0,
        "fewer than half of the devices share a call faster, which it does not try": 0,
        "another number of cores or of devices is faster": 0,
    }
    mixed, fewer, other = counts
    for row in late:
        name, _ = row["fastest"][AUTO]
        shares = int(name.rpartition(" ")[2]) if "tokens" in name else 0
        tried = row["devices"] // (2 if "guidance" in name else 1)
        if "cores x" in name:
            counts[mixed] += 1
        elif shares and shares not in (tried, row["devices"] // 2):
            counts[fewer] += 1
        else:
            counts[other] += 1
    return "; ".join(f"{count} times {reason}" for reason, count in counts.items() if count) or "none"


def _late(rows: Rows, state: str) -> list[Row]:
    """The cases in which the choice of `auto` is notably slower than the fastest way."""
    return [row for row in rows if behind(row, AUTO, state) > CLOSE]
