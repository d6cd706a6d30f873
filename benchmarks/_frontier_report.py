"""What the records of benchmarks/frontier.py mean: tables and a picture."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks._frontier_cases import ALSO, CORES, PROBLEMS, STOCK_STEPS, Case
from benchmarks._problems import SEED

CLOSE = 0.01  # fidelity: the median relative RMSE
DIVERGED = 10.0  # a relative RMSE that is no result; what is larger is cut
MOST_STEPS = STOCK_STEPS[-1]
ACCURATE_FROM = 15  # equal accuracy is judged where the best stock sampler needs as many calls, or more
DEVICES = (1, 2, 4, 8)
UNITS = "relative RMSE"

FIDELITY_GOALS = {  # by CFG and devices: for euler with 20 and with 50 steps
    1: {1: (1.0, 1.0), 2: (1.5, 1.8), 4: (2.5, 3.3), 8: (3.0, 4.5)},
    4: {1: (1.0, 1.0), 2: (2.0, 2.0), 4: (2.6, 3.0), 8: (3.6, 5.0)},
}
ACCURACY_GOALS = {
    1: {1: 1.25, 2: 1.8, 4: 3.0, 8: 5.0},
    4: {1: 1.25, 2: 2.0, 4: 3.5, 8: 6.0},
}

COLUMNS = ("depth", "evaluations", "median", "mean", "p90", "pixels")
Record = dict[str, Any]


@dataclass
class Book:
    """The records so far, by case, in a file."""

    folder: Path
    facts: dict[str, Any]
    cases: dict[str, Case]
    known: dict[str, list[list[float | None]]] = field(default_factory=dict)  # rows of COLUMNS
    own_errors: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    seconds_before: float = 0.0

    def load(self) -> None:
        """What an earlier run with the same seeds has measured."""
        path = self.folder / "frontier.json"
        if path.exists():
            earlier = json.loads(path.read_text(encoding="utf-8"))
            same = ("seeds", "device", "small")
            if all(earlier["facts"].get(name) == self.facts[name] for name in same):
                self.known, self.own_errors = earlier["known"], earlier["own_errors"]
                self.seconds_before = earlier["facts"]["seconds"]

    def save(self, left_out: int, seconds: float) -> None:
        """Write the records and their tables, ``seconds`` after this run began."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.facts["left_out"] = left_out
        self.facts["seconds"] = round(self.seconds_before + seconds)
        content = {
            "facts": self.facts,
            "own_errors": self.own_errors,
            "failures": self.failures,
            "columns": COLUMNS,
            "known": self.known,
        }
        text = json.dumps(content, separators=(",", ":")).replace(']],"', ']],\n"')
        (self.folder / "frontier.json").write_text(text + "\n", encoding="utf-8")
        (self.folder / "frontier.md").write_text("\n".join(report(self)) + "\n", encoding="utf-8")

    @property
    def records(self) -> list[Record]:
        """A result each: what was run, and what came out."""
        return [
            {**as_record(self.cases[key]), **dict(zip(COLUMNS, row, strict=True))}
            for key, rows in self.known.items()
            if key in self.cases
            for row in rows
        ]


def as_record(case: Case) -> Record:
    always = {name: getattr(case, name) for name in ("problem", "part", "method", "solver", "steps", "grid", "cores")}
    return always | {name: getattr(case, name) for name in ("starts", "rounds", "calls") if getattr(case, name)}


# --- what it means: pure functions of records


def select(records: Iterable[Record], **wanted: Any) -> list[Record]:
    return [record for record in records if all(record[name] == value for name, value in wanted.items())]


def by_method(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Those of each name."""
    found: dict[str, list[Record]] = {}
    for record in records:
        for name in record["method"].split(ALSO):
            found.setdefault(name, []).append(record)
    return found


def soonest(records: Iterable[Record], cores: int, within: float = CLOSE) -> Record | None:
    """The least depth on at most so many cores with a median of at most ``within``; of equals the nearest."""
    close = [record for record in records if record["cores"] <= cores and record["median"] <= within]
    return min(close, key=lambda record: (record["depth"], record["median"]), default=None)


@dataclass(frozen=True)
class Needed:
    """The calls a stock sampler needs; ``beyond``: it needs more than it was tried with; ``fewer``: not even all of
    the fewest."""

    calls: float
    sampler: str = ""
    beyond: bool = False
    fewer: bool = False

    def __str__(self) -> str:
        return f"{'> ' if self.beyond else '≤ ' if self.fewer else ''}{self.calls:.1f}"


def calls_needed(stock: Iterable[Record], error: float) -> Needed:
    """Of the best stock sampler and grid for a median error of at most ``error``: log-log between measured steps."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for record in stock:
        curves.setdefault(record["method"], []).append((record["depth"], record["median"]))
    best = Needed(max(points[-1][0] for points in map(sorted, curves.values())), beyond=True)
    for sampler, points in curves.items():
        calls = crossing(sorted(points), error)
        if calls is not None and (best.beyond or calls < best.calls):
            best = Needed(calls, sampler, fewer=calls <= min(points)[0])
    return best


def crossing(points: Sequence[tuple[int, float]], error: float) -> float | None:
    """Where a curve of (calls, error) first comes down to ``error``; None if nowhere."""
    before: tuple[int, float] | None = None
    for calls, value in points:
        if value <= error:
            if before is None or before[1] >= DIVERGED:
                return float(calls)
            share = math.log(before[1] / error) / math.log(before[1] / value) if value < before[1] else 1.0
            return math.exp(math.log(before[0]) + share * math.log(calls / before[0]))
        before = (calls, value)
    return None


@dataclass(frozen=True)
class Gain:
    """Of a record against the best stock sampler at its error."""

    record: Record
    needed: Needed

    @property
    def ratio(self) -> float:
        return self.needed.calls / self.record["depth"]


def gains(records: Iterable[Record], stock: Sequence[Record], cores: int) -> list[Gain]:
    """All on at most so many cores that are accurate enough to count, the best first."""
    found = [Gain(r, calls_needed(stock, r["median"])) for r in records if r["cores"] <= cores]
    enough = [gain for gain in found if gain.needed.calls >= ACCURATE_FROM]
    return sorted(enough, key=lambda gain: (-gain.ratio, gain.record["median"]))


def splits(devices: int, cfg: int) -> tuple[int, int]:
    """Cores, and how much sooner a call is there: with guidance two devices share each call first."""
    return (devices // 2, 2) if cfg != 1 and devices > 1 else (devices, 1)


def verdict(value: float | None, goal: float, lower_bound: bool = False) -> str:
    if value is not None and round(value, 2) >= goal:
        return "met"
    return "unknown (a lower bound)" if lower_bound and value is not None else "**missed**"


def cfg_of(problem: str) -> int:
    return int(problem.rpartition("cfg")[2])


# --- the report


def percent(value: float) -> str:
    return f"{100 * value:.2f} %" if value < DIVERGED else "diverged"


def table(*rows: Sequence[str]) -> list[str]:
    head, *rest = (f"| {' | '.join(row)} |" for row in rows)
    return [head, "|---" * len(rows[0]) + "|", *rest, ""]


def how(record: Record) -> str:
    """A record's method with its numbers."""
    parts = [f"K={record['cores']}"]
    if record.get("starts"):
        parts.append(f"starts {list(record['starts'])}")
    if record.get("rounds"):
        parts.append(f"R={record['rounds']}")
    if record.get("calls"):
        parts.append(f"M={record['calls']}")
    return f"{record['method']} ({', '.join(parts)})"


def report(book: Book) -> list[str]:
    facts, records = book.facts, book.records
    lines = [
        "# The frontier: depth against fidelity and accuracy",
        "",
        f"`{facts['command']}`, {facts['date']}: {facts['name']}; torch {facts['torch']}, Python {facts['python']}, "
        f"ComfyUI {facts['comfyui']}; {facts['seconds']} s. {facts['seeds']} held-out seeds (prompts and noise "
        f"from {SEED}). Depth counts model calls in a row; errors are {UNITS} of the latent, a median over the seeds "
        "where nothing else is said. K cores stand for at most K: a device more may idle. Each best is the best of all "
        "the variants that were tried on these seeds.",
        "",
    ]
    if facts["small"]:
        lines += ["**`--small`: a check of the code, no figures to quote.**", ""]
    if facts.get("left_out"):
        lines += [f"**{facts['left_out']} of the cases are left out: the time was up.** Run it again to do them.", ""]
    if book.failures:
        lines += ["**What failed:**", *(f"- {what}: {why}" for what, why in book.failures.items()), ""]
    if book.own_errors:
        told = ", ".join(f"{name} {error:.1e}" for name, error in book.own_errors.items())
        lines += [f"The ODE's solution (Heun on a fine grid) against half as many steps: {told}.", ""]
    for problem in PROBLEMS:
        own = select(records, problem=problem)
        if own:
            lines += [f"# {problem}", ""]
            lines += [*fidelity_report(problem, own), *accuracy_report(problem, own)]
    return lines


def fidelity_report(problem: str, records: Sequence[Record]) -> list[str]:
    records = select(records, part="fidelity")
    aims = list(dict.fromkeys((r["solver"], r["steps"], r["grid"]) for r in records))
    if not aims:
        return []
    cfg = cfg_of(problem)
    rows = []
    for solver, steps, grid in aims:
        own = select(records, solver=solver, steps=steps, grid=grid)
        for devices in DEVICES:
            cores, split = splits(devices, cfg)
            best = soonest(own, cores)
            depth = best["depth"] if best else steps
            speedup = split * steps / depth
            goal = ""
            if solver == "euler" and steps in (20, 50) and problem.startswith("demo"):
                wanted = FIDELITY_GOALS[cfg][devices][(20, 50).index(steps)]
                goal = f"{wanted:g}: {verdict(speedup, wanted)}"
            name = f"{solver} {steps}" + ("" if grid == "standard" else f", {grid}")
            said = (how(best), percent(best["median"]), percent(best["p90"])) if best else ("one core", "0 %", "0 %")
            rows.append((name, f"{devices}", f"{speedup:.2f}", goal, f"{depth}", *said))
    lines = [f"## Fidelity: within {percent(CLOSE)} of the user's own sampler", ""]
    if cfg != 1:
        lines += ["From two devices on, pairs share each guided call: half as many cores, each call twice as fast.", ""]
    heads = ("sampler, steps", "devices", "speed-up", "goal", "depth", "by", "median", "90th percentile")
    lines += table(heads, *rows)
    for solver, steps, grid in aims:
        if solver != "euler":
            continue
        own = select(records, solver=solver, steps=steps, grid=grid)
        rows = []
        for method, named in by_method(own).items():
            cells = []
            for cores in CORES:
                best = soonest(named, cores)
                cells.append(f"{best['depth']} ({steps / best['depth']:.2f}x)" if best else "-")
            rows.append((method, *cells))
        lines += [f"{solver} {steps}, {grid} grid: least depth within {percent(CLOSE)} by method and cores:", ""]
        lines += table(("method", *(f"K={cores}" for cores in CORES)), *rows)
    return lines


def accuracy_report(problem: str, records: Sequence[Record]) -> list[str]:
    stock, ours = select(records, part="stock"), select(records, part="accuracy")
    if not stock:
        return []
    cfg = cfg_of(problem)
    lines = ["## Accuracy: error to the solution of the ODE", "", "Stock samplers, one device, by model calls:", ""]
    depths = sorted({record["depth"] for record in stock if not record["method"].startswith("heun")})
    rows = []
    for method in dict.fromkeys(record["method"] for record in stock):
        known = {record["depth"]: record for record in select(stock, method=method)}
        cells = [known.get(depth) or known.get(depth - 1) for depth in depths]  # heun's are odd
        rows.append((method, *(percent(cell["median"]) if cell else "" for cell in cells)))
    best = [min(select(stock, depth=depth), key=lambda record: record["median"]) for depth in depths]
    rows.append(("**best**", *(f"**{percent(record['median'])}** {record['method']}" for record in best)))
    if all(record["pixels"] is not None for record in best):
        rows.append(("best, in pixels", *(percent(record["pixels"]) for record in best)))
    rows.append(("best, 90th percentile", *(percent(record["p90"]) for record in best)))
    lines += table(("sampler, grid", *map(str, depths)), *rows)
    if not ours:
        return lines
    rows = []
    for devices in DEVICES:
        cores, split = splits(devices, cfg)
        found = gains(ours, stock, cores)
        goal = ACCURACY_GOALS[cfg][devices]
        if not found:
            rows.append((f"{devices}", "-", f"{goal:g}: **missed**", *[""] * 6))
            continue
        first = found[0]
        value, more = split * first.ratio, "> " if first.needed.beyond else ""
        told = verdict(value, goal, first.needed.beyond)
        record = first.record
        rows.append(
            (
                f"{devices}",
                f"{more}{value:.2f}",
                f"{goal:g}: {told}",
                how(record),
                f"{record['depth']}",
                f"{percent(record['median'])}; {percent(record['p90'])}"
                + (f"; {percent(record['pixels'])}" if record["pixels"] is not None else ""),
                f"{first.needed} {first.needed.sampler}",
                *(at_depth(found, depth, split) for depth in (8, 12, 16)),
            )
        )
    heads = ("devices", "speed-up", "goal", "by", "depth", "error: median; 90th percentile; pixels", "stock needs")
    lines += [
        f"At equal accuracy, where the best stock sampler needs {ACCURATE_FROM} calls or more; the last columns: the "
        "best of the results of at most such a depth. `>`: stock would need more than "
        f"{MOST_STEPS} calls, so it is a lower bound.",
        "",
        *table((*heads, "depth ≤ 8", "≤ 12", "≤ 16"), *rows),
    ]
    rows = []
    for method, named in by_method(ours).items():
        cells = []
        for cores in CORES:
            found = gains(named, stock, cores)
            cells.append(f"{'> ' if found[0].needed.beyond else ''}{found[0].ratio:.2f}" if found else "-")
        rows.append((method, *cells))
    lines += ["The same by method and cores (without the split):", ""]
    return lines + table(("method", *(f"K={cores}" for cores in CORES)), *rows)


def at_depth(found: Sequence[Gain], depth: int, split: int) -> str:
    """The most accurate result of at most this depth."""
    near = [gain for gain in found if gain.record["depth"] <= depth]
    if not near:
        return "-"
    best = min(near, key=lambda gain: gain.record["median"])
    more = "> " if best.needed.beyond else ""
    return f"{more}{split * best.ratio:.2f} ({percent(best.record['median'])})"


# --- the picture


INK, FAINT = "#1f2430", "#dfe3ea"
BLUE, ORANGE, GREEN, PURPLE, GREY, RED = "#3b6fd4", "#e07a3f", "#2f9e77", "#8a4fbf", "#8a8f9c", "#c8364b"
FIDELITY_CURVES = (  # method, cores, colour, line
    ("fewer steps", 1, GREY, ":"),
    ("ParaDiGMS (Picard)", 8, GREY, "--"),
    ("SRDS", 8, GREEN, "--"),
    ("CHORDS, authors' starts", 8, ORANGE, "--"),
    ("CHORDS, planner", 8, ORANGE, "-"),
    ("secant window", 8, PURPLE, "-"),
    ("sparse", 1, BLUE, "--"),
    ("sparse, secant window", 8, BLUE, "-"),
)


def front(records: Iterable[Record], cores: int) -> list[tuple[int, float]]:
    """(depth, median), each better than all of less depth."""
    least: dict[int, float] = {}
    for record in records:
        if record["cores"] <= cores:
            depth = record["depth"]
            least[depth] = min(least.get(depth, math.inf), record["median"])
    points: list[tuple[int, float]] = []
    for depth, value in sorted(least.items()):
        if value < DIVERGED and (not points or value < points[-1][1]):
            points.append((depth, max(value, 1e-5)))
    return points


def picture(book: Book, path: Path) -> None:
    """Fidelity above, accuracy below, with guidance left, without right."""
    try:
        import matplotlib
    except ImportError as error:
        raise SystemExit("the picture needs matplotlib: pip install matplotlib, or use --no-picture") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    pyplot.rcParams.update(
        {"font.size": 10, "axes.edgecolor": FAINT, "text.color": INK, "axes.labelcolor": INK}
        | {"xtick.color": INK, "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False}
        | {"axes.grid": True, "grid.color": FAINT, "grid.linewidth": 0.6, "axes.axisbelow": True}
        | {"axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left", "legend.frameon": False}
    )
    figure, axes = pyplot.subplots(2, 2, figsize=(13, 9.4), facecolor="white", layout="constrained")
    for axis in axes.flat:
        axis.set_yscale("log")
    for column, problem in enumerate(("demo cfg4", "demo cfg1")):
        title = f"CFG {cfg_of(problem)}"
        records = select(book.records, problem=problem)
        upper, lower = axes[0][column], axes[1][column]
        if not records:
            upper.set_axis_off()
            lower.set_axis_off()
            continue
        aimed = {steps: select(records, part="fidelity", solver="euler", steps=steps) for steps in (50, 20)}
        steps = 50 if aimed[50] else 20
        for method, cores, colour, line in FIDELITY_CURVES:
            points = front(by_method(aimed[steps]).get(method, []), cores)
            label = f"{method}, {cores} cores" if cores > 1 else f"{method}, one core"
            plot(upper, points, line, colour, label)
        upper.axhline(CLOSE, color=INK, lw=0.8)
        upper.annotate("1 %", (1, CLOSE), xycoords=("axes fraction", "data"), ha="right", va="bottom")
        upper.set(title=f"Fidelity to Euler's {steps} steps, {title}", xlim=(5, steps + 1), ylim=(3e-4, 0.5))
        upper.set(xlabel="model calls in a row", ylabel="relative difference to its result")
        stock, ours = select(records, part="stock"), select(records, part="accuracy")
        plot(lower, front(select(stock, method="euler, standard"), 1), ":", GREY, "Euler, standard grid")
        plot(lower, front(select(stock, method="dpmpp_2m, standard"), 1), "--", GREY, "DPM++ 2M, standard grid")
        plot(lower, front(stock, 1), "-", INK, "best stock sampler and grid")
        for cores, colour in zip(DEVICES, (RED, ORANGE, PURPLE, BLUE), strict=True):
            plot(lower, front(ours, cores), "-", colour, f"ours, {cores} cores" if cores > 1 else "ours, one core")
        lower.set(title=f"Accuracy, {title}", xscale="log", xlabel="model calls in a row")
        lower.set(ylabel="relative error to the solution of the ODE")
        lower.set_xticks([6, 8, 11, 15, 20, 28, 40, 60], labels=["6", "8", "11", "15", "20", "28", "40", "60"])
        lower.xaxis.set_minor_formatter(NullFormatter())
        lower.set_xlim(5.6, 64)
        lower.set_ylim(top=0.3)
    for axis in axes.flat:
        axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
        if axis.get_legend_handles_labels()[0]:
            place = "upper right" if axis in axes[0] else "best"
            axis.legend(fontsize=8.5, loc=place, frameon=True, framealpha=0.85, edgecolor="none")
    seeds = book.facts["seeds"]
    figure.suptitle(f"Parallel sampling of the demo model, medians over {seeds} held-out seeds", fontweight="bold")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def plot(axis: Any, points: Sequence[tuple[int, float]], line: str, colour: str, label: str) -> None:
    if points:
        axis.plot(*zip(*points, strict=True), line, marker="o", ms=3, lw=1.7, color=colour, label=label)
