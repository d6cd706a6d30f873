"""The report of benchmarks/gpu.py: gpu.json with what was measured, and gpu.md with what it means."""

from __future__ import annotations

import contextlib
import json
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks._gpu_measurements import DRIVER_STEPS, LANES, Deadline
from benchmarks._gpu_rows import section as rows_section
from benchmarks._plans import planned_starts
from benchmarks._report import first_line, table, write
from chords_core import Evaluated, lattice_starts, sample

RUNS = ((20, 4), (20, 8), (50, 4), (50, 8))  # steps and cores for which batching is judged

Shapes = dict[str, dict[str, Any]]


@dataclass
class Report:
    """What is known so far; it is written after each measurement."""

    folder: Path
    facts: dict[str, Any]
    deadline: Deadline
    shapes: Shapes = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def section(self, what: str) -> Iterator[None]:
        """A part whose failure is reported and does not stop the others."""
        print(f"{self.deadline.elapsed:6.1f} s  {what}", flush=True)
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self.failures.append(f"{what}: {first_line(error)}")
        self.save()

    def save(self) -> None:
        """Write gpu.json and gpu.md."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.facts["seconds"] = round(self.deadline.elapsed, 1)
        content = {**self.facts, "shapes": self.shapes, "failures": self.failures}
        write(self.folder / "gpu.json", [json.dumps(content, indent=1)])
        write(self.folder / "gpu.md", self.lines())

    def lines(self) -> list[str]:
        """gpu.md."""
        facts = self.facts
        out = [
            "# On one GPU" if facts["cuda"] else "# On the CPU: a check of the code, no figures to quote",
            f"`{facts['command']}`, {facts['date']}: {facts['device']}; torch {facts['torch']}, CUDA {facts['cuda']}, "
            f"cuDNN {facts['cudnn']}, Python {facts['python']}, {facts['system']}, ComfyUI {facts['comfyui']} "
            f"(attention: {facts['attention']}); {facts['seconds']} s in all.",
            "",
            "The models have the real shapes and random weights, as ComfyUI's classes build them (only the demo model "
            "is trained). All weights are in the device's memory, and nothing is compiled. Calls go to ComfyUI's "
            "`BaseModel.apply_model`. Times are the wall time of a call with the wait for the device, medians of "
            "interleaved rounds.",
        ]
        if facts["small"]:
            out += ["", "**`--small`: tiny models. The figures say nothing about real ones.**"]
        if self.failures:
            out += ["", "**What failed:**", *(f"- {failure}" for failure in self.failures)]
        for part in (_summary, _batches, _gains, _lanes, _driver, _guidance):
            out += ["", *part(self.shapes)]
        if any(_have(self.shapes, "windows")):
            out += ["", *rows_section(self.shapes)]
        return out


def _have(shapes: Shapes, part: str) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((name, entry) for name, entry in shapes.items() if part in entry)


# --- what the measurements mean


def cores_at_work(steps: int, starts: tuple[int, ...]) -> list[int]:
    """How many cores evaluate in each round of a run to the first hit, if one batch has the calls of all cores."""
    rounds: Counter[int] = Counter()

    def count(event: object) -> None:
        if isinstance(event, Evaluated):
            rounds[event.depth] += 1

    sample(lambda x, sigma: x, torch.zeros(1), torch.linspace(1.0, 0.0, steps + 1), starts=starts, on_event=count)
    return [rounds[depth] for depth in sorted(rounds)]


def candidates() -> list[tuple[int, int, tuple[int, ...], str]]:
    """(steps, cores, starts, whose): the nodes' plan, and the lattice rule where it differs."""
    found = []
    for steps, cores in RUNS:
        nodes, lattice = planned_starts(steps, cores, cores), tuple(lattice_starts(steps, cores))
        found.append((steps, cores, tuple(nodes), "the nodes' plan"))
        if lattice != nodes:
            found.append((steps, cores, lattice, "lattice rule"))
    return found


def milliseconds_at(rows: dict[str, dict[str, Any]], wanted: int) -> float | None:
    """The time of a call with so many rows, linear between measured ones; None outside of them."""
    known = sorted((int(n), entry["ms"]) for n, entry in rows.items())
    for (low, at_low), (high, at_high) in zip(known, known[1:], strict=False):
        if low <= wanted <= high:
            return float(at_low + (at_high - at_low) * (wanted - low) / (high - low))
    return float(known[0][1]) if wanted == known[0][0] else None


def batch_gain(
    rows: dict[str, dict[str, Any]], each: int, steps: int, at_work: list[int]
) -> tuple[float, float] | None:
    """N t(1) over the time of the rounds: with the cores at work in each, and with all cores in every round.

    ``each``: rows a core, 2 with guidance.
    """
    one = milliseconds_at(rows, each)
    times = {active: milliseconds_at(rows, active * each) for active in set(at_work)}
    if one is None or None in times.values():
        return None
    sequential = steps * one
    exact = sum(times[active] or 0.0 for active in at_work)
    return sequential / exact, sequential / (len(at_work) * (times[max(at_work)] or 0.0))


def all_gains(shapes: Shapes) -> Iterator[tuple[str, int, int, int, tuple[float, float] | None]]:
    """(model, rows a core, steps, cores, gains) for each model and each candidate."""
    cases = [(steps, cores, cores_at_work(steps, starts)) for steps, cores, starts, _ in candidates()]
    for name, entry in _have(shapes, "batches"):
        for each in (2, 1) if entry["guided"] else (1,):
            for steps, cores, at_work in cases:
                yield name, each, steps, cores, batch_gain(entry["batches"]["rows"], each, steps, at_work)


# --- the sections


def _summary(shapes: Shapes) -> list[str]:
    out = ["## In short"]
    gains = [
        (gain[0], f"{name}, {_guided(each)}, N = {steps}, {cores} cores")
        for name, each, steps, cores, gain in all_gains(shapes)
        if gain
    ]
    if gains:
        wins = [item for item in gains if item[0] > 1]
        best = max(gains)
        out.append(
            f"- Batching cores on one GPU is faster than one core in {len(wins)} of {len(gains)} cases; the best: "
            f"{best[0]:.2f} times as fast ({best[1]})."
        )
    for key, than in (("against_one", "alone"), ("against_pair", "in a pair")):
        values = [value for _, entry in _have(shapes, "batches") for value in entry["batches"]["bits"][key].values()]
        if values:
            same = sum(value == 0 for value in values)
            out.append(f"- A row of a larger batch has the same bits as {than} in {same} of {len(values)} cases.")
    lanes = [entry["lanes"][str(max(LANES))]["against_one"] for _, entry in _have(shapes, "lanes")]
    if lanes:
        out.append(
            f"- {max(LANES)} lanes on streams of one GPU: {min(lanes):.2f} to {max(lanes):.2f} times the "
            "evaluations of one lane."
        )
    ratios = [entry["driver"]["inline"]["ratio"] for _, entry in _have(shapes, "driver")]
    if ratios:
        out.append(f"- One core through the driver: {min(ratios):.3f} to {max(ratios):.3f} times a plain loop.")
    measured = [entry["batches"]["rows"] for _, entry in _have(shapes, "batches")]
    splits = [rows["2"]["ratio"] for rows in measured if "2" in rows]
    if splits:
        out.append(
            f"- Guidance over two equal GPUs gains at most {min(splits):.2f} to {max(splits):.2f} times, depending on "
            "the model and its shape; 2 would be ideal."
        )
    return out if len(out) > 1 else []


def _batches(shapes: Shapes) -> list[str]:
    titles = ("model", "weights", "rows n", "ms", "least to most", "t(n)/t(1)", "GiB at most", "as alone", "as a pair")
    rows, notes = [], []
    for name, entry in _have(shapes, "batches"):
        found = entry["batches"]
        for n, row in found["rows"].items():
            rows.append(
                (
                    name,
                    f"{entry['parameters'] / 1e6:,.0f} M {entry['dtype']}",
                    n,
                    f"{row['ms']:.1f}",
                    f"{row['ms_least']:.1f} to {row['ms_most']:.1f}",
                    f"{row['ratio']:.2f}",
                    f"{row['memory_gib']:.1f}",
                    *(_bits(found["bits"][key], n) for key in ("against_one", "against_pair")),
                )
            )
            if not row["finite"]:
                notes.append(f"- {name}, {n} rows: NOT FINITE, so the bits say nothing.")
        bits = found["bits"]
        others = {True: "does not depend", False: "DEPENDS", None: "(not tried)"}[bits.get("whatever_the_others")]
        notes.append(
            f"- {name}: {found['rounds']} rounds; the same call again gives "
            f"{'the same' if bits['repeats'] else 'OTHER'} bits; a row of a batch {others} on the values of the other "
            "rows."
        )
        notes += [f"- {name}: {note}." for note in entry["notes"] + found["notes"]]
    return [
        "## 1. Rows in one call",
        "*t(n)/t(1)*: n where one more row costs as much as one more call, 1 where it costs nothing. *As alone*, *as a "
        "pair*: whether the first and the last row of the batch have the same bits as in a call of their own, or as in "
        "a call of two (which ComfyUI makes with guidance); if not, the difference relative to x - denoised.",
        "",
        *table(titles, rows),
        "",
        *notes,
    ]


def _gains(shapes: Shapes) -> list[str]:
    cases = candidates()
    titles = [f"N={steps}, K={cores}, depth {len(cores_at_work(steps, s))}" for steps, cores, s, _ in cases]
    limits = "; ".join(
        f"N={steps}, K={cores}, {whose}: {steps / len(cores_at_work(steps, starts)):.2f}"
        for steps, cores, starts, whose in cases
    )
    rows: dict[str, list[str]] = {}
    for name, each, _, _, gain in all_gains(shapes):
        text = "not measured" if gain is None else f"{gain[0]:.2f} ({gain[1]:.2f})"
        cells = rows.setdefault(f"{name}, {_guided(each)}", [])
        cells.append(f"**{text}**" if gain and gain[0] > 1 else text)
    return [
        "## 2. All cores in one batch on one GPU, against one core",
        "How many times as fast the first hit comes as N calls one after the other. First figure: each round is a "
        "batch of the cores that are at work in it (times between measured ones are interpolated); in brackets: each "
        "round is a batch of all K. Batching wins above 1, which needs t(K)/t(1) below N/depth (with guidance "
        f"t(2K)/t(2)): {limits}. The solver's own work and the wait for the slowest core are not included, and the "
        "first hit differs from the result of N steps.",
        "",
        *table(("model", *titles), [(name, *cells) for name, cells in rows.items()]),
    ]


def _lanes(shapes: Shapes) -> list[str]:
    rows = []
    for name, entry in _have(shapes, "lanes"):
        batches = entry.get("batches", {}).get("rows", {})
        for lanes, found in entry["lanes"].items():
            rows.append(
                (
                    name,
                    lanes,
                    f"{found['per_second']:.1f}",
                    f"{found['against_one']:.2f}",
                    _all(found["same_bits"], found["evaluations"]),
                    f"{1000 * int(lanes) / batches[lanes]['ms']:.1f}" if lanes in batches else "not measured",
                )
            )
    return [
        "## 3. Lanes on one GPU",
        "Threads of one process that share the weights; each has its own CUDA stream and waits for each of its "
        "evaluations. The last column: the same evaluations as one batch (section 1). Processes were not tried.",
        "",
        *table(
            ("model", "lanes", "evaluations a second", "against one lane", "same bits as alone", "as one batch"), rows
        ),
    ]


def _driver(shapes: Shapes) -> list[str]:
    rows = [
        (
            name,
            run,
            f"{found['ms']:.1f}",
            f"{found['ratio']:.3f}",
            f"{found['ms_more_an_evaluation']:.3f}",
            "yes" if found["same_bits"] else "NO",
            found["rounds"],
        )
        for name, entry in _have(shapes, "driver")
        for run, found in entry["driver"].items()
    ]
    return [
        "## 4. The driver",
        f"{DRIVER_STEPS} Euler steps on one core, against a plain loop of the same model that never waits for the "
        "device (the driver looks for NaN in each evaluation, and so waits). Ratio: the median over pairs of runs.",
        "",
        *table(("model", "run", "ms", "ratio", "ms more an evaluation", "same bits as the loop", "rounds"), rows),
    ]


def _guidance(shapes: Shapes) -> list[str]:
    rows = []
    for name, entry in _have(shapes, "batches"):
        times, two = entry["batches"]["rows"], entry["batches"]["two_calls_ms"]
        if "2" in times and two is not None:
            usual = "" if entry["guided"] else " (usually at cfg 1, where there is nothing to split)"
            one, both = times["1"]["ms"], times["2"]["ms"]
            rows.append(
                (
                    f"{name}{usual}",
                    f"{one:.1f}",
                    f"{both:.1f}",
                    f"**{times['2']['ratio']:.2f}**",
                    f"{two:.1f}",
                    f"{two / both:.2f}",
                    f"{entry['latent_kib']:.0f}",
                )
            )
    titles = ("model", "t(1), ms", "t(2), ms", "gain", "two calls, ms", "two calls / t(2)", "latent, KiB")
    return [
        "## 5. Guidance split over two GPUs",
        "With guidance one GPU makes a call of two rows, t(2); each of two equal GPUs makes a call of one row, t(1). "
        "*Gain* is t(2)/t(1), the most that a guidance split can bring: the transfer of a latent in each direction and "
        "the wait for the slower half are not included. *Two calls*: both sides in turn on one GPU, against t(2).",
        "",
        *table(titles, rows),
    ]


def _guided(rows_a_core: int) -> str:
    return "guided" if rows_a_core == 2 else "unguided"


def _all(count: int, of: int) -> str:
    return f"all {of}" if count == of else f"{count} of {of}"


def _bits(found: dict[str, float | None], rows: str) -> str:
    if rows not in found:
        return ""
    value = found[rows]
    return "no figure" if value is None else "same bits" if value == 0 else f"{value:.1e}"
