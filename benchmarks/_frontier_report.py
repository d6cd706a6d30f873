"""The tables of benchmarks/frontier.py: frontier.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from benchmarks._frontier_cases import CORES, PROBLEMS
from benchmarks._frontier_records import (
    ACCURACY_GOALS,
    ACCURATE_FROM,
    CLOSE,
    DEVICES,
    DIVERGED,
    FIDELITY_GOALS,
    MAX_STEPS,
    Book,
    Gain,
    Record,
    by_method,
    cfg_of,
    fastest,
    gains,
    select,
    splits,
    verdict,
)
from benchmarks._problems import SEED
from benchmarks._report import table

UNITS = "relative RMSE"

_SHARED_CALLS = "With two devices or more, pairs share each guided call: half as many cores, each call twice as fast."


def percent(value: float) -> str:
    return f"{100 * value:.2f} %" if value < DIVERGED else "diverged"


def how(record: Record) -> str:
    """The method of a record, with its numbers of cores, rounds and calls."""
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
        f"from {SEED}). Depth counts model calls in a row; errors are {UNITS} of the latent, the median over the seeds "
        "if nothing else is said. K cores means at most K: further devices may idle. Each best is the best of all "
        "variants that were tried on these seeds.",
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
        lines += [f"The solution of the ODE (Heun on a fine grid) against the one with half as many steps: {told}.", ""]
    for problem in PROBLEMS:
        own = select(records, problem=problem)
        if own:
            lines += [f"# {problem}", ""]
            lines += [*fidelity_report(problem, own), *accuracy_report(problem, own)]
    return lines


def fidelity_report(problem: str, records: Sequence[Record]) -> list[str]:
    """The speed-up within 1 % of each sampler's own result."""
    records = select(records, part="fidelity")
    aims = list(dict.fromkeys((r["solver"], r["steps"], r["grid"]) for r in records))
    if not aims:
        return []
    lines = [f"## Fidelity: within {percent(CLOSE)} of the user's own sampler", ""]
    if cfg_of(problem) != 1:
        lines += [_SHARED_CALLS, ""]
    rows = []
    for solver, steps, grid in aims:
        own = select(records, solver=solver, steps=steps, grid=grid)
        name = f"{solver} {steps}" + ("" if grid == "standard" else f", {grid}")
        rows += [(name, *_fidelity_row(problem, own, solver, steps, devices)) for devices in DEVICES]
    heads = ("sampler, steps", "devices", "speed-up", "goal", "depth", "by", "median", "90th percentile")
    lines += [*table(heads, rows), ""]
    for solver, steps, grid in aims:
        if solver == "euler":
            own = select(records, solver=solver, steps=steps, grid=grid)
            lines += [f"{solver} {steps}, {grid} grid: least depth within {percent(CLOSE)} by method and cores:", ""]
            lines += [*_by_method(own, partial(_least_depth, steps=steps)), ""]
    return lines


def _fidelity_row(
    problem: str, records: Sequence[Record], solver: str, steps: int, devices: int
) -> tuple[str, str, str, str, str, str, str]:
    """What is reached on so many devices."""
    cfg = cfg_of(problem)
    cores, split = splits(devices, cfg)
    best = fastest(records, cores)
    depth = best["depth"] if best else steps
    speedup, goal = split * steps / depth, ""
    if solver == "euler" and steps in (20, 50) and problem.startswith("demo"):
        wanted = FIDELITY_GOALS[cfg][devices][(20, 50).index(steps)]
        goal = f"{wanted:g}: {verdict(speedup, wanted)}"
    told = (how(best), percent(best["median"]), percent(best["p90"])) if best else ("one core", "0 %", "0 %")
    return (f"{devices}", f"{speedup:.2f}", goal, f"{depth}", *told)


def _least_depth(records: Sequence[Record], cores: int, steps: int) -> str:
    best = fastest(records, cores)
    return f"{best['depth']} ({steps / best['depth']:.2f}x)" if best else "-"


def _by_method(records: Sequence[Record], cell: Callable[[Sequence[Record], int], str]) -> list[str]:
    """A table with a row for each method and a column for each number of cores."""
    rows = [(method, *(cell(named, cores) for cores in CORES)) for method, named in by_method(records).items()]
    return table(("method", *(f"K={cores}" for cores in CORES)), rows)


def accuracy_report(problem: str, records: Sequence[Record]) -> list[str]:
    """The errors of stock samplers, and the speed-up at equal error."""
    stock, ours = select(records, part="stock"), select(records, part="accuracy")
    if not stock:
        return []
    lines = ["## Accuracy: error to the solution of the ODE", "", "Stock samplers, one device, by model calls:", ""]
    lines += [*_stock_table(stock), ""]
    if not ours:
        return lines
    heads = ("devices", "speed-up", "goal", "by", "depth", "error: median; 90th percentile; pixels", "stock needs")
    rows = [_accuracy_row(cfg_of(problem), ours, stock, devices) for devices in DEVICES]
    return [
        *lines,
        f"At equal accuracy, where the best stock sampler needs {ACCURATE_FROM} calls or more. The last columns: the "
        f"best result of at most this depth. `>`: the stock sampler needs more than {MAX_STEPS} calls, so the figure "
        "is a lower bound.",
        "",
        *table((*heads, "depth ≤ 8", "≤ 12", "≤ 16"), rows),
        "",
        "The same by method and cores (without the split):",
        "",
        *_by_method(ours, lambda named, cores: _best_ratio(named, stock, cores)),
        "",
    ]


def _stock_table(stock: Sequence[Record]) -> list[str]:
    depths = sorted({record["depth"] for record in stock if not record["method"].startswith("heun")})
    rows: list[Sequence[str]] = []
    for method in dict.fromkeys(record["method"] for record in stock):
        known = {record["depth"]: record for record in select(stock, method=method)}
        cells = [known.get(depth) or known.get(depth - 1) for depth in depths]  # heun's depths are odd
        rows.append((method, *(percent(cell["median"]) if cell else "" for cell in cells)))
    best = [min(select(stock, depth=depth), key=lambda record: record["median"]) for depth in depths]
    rows.append(("**best**", *(f"**{percent(record['median'])}** {record['method']}" for record in best)))
    if all(record["pixels"] is not None for record in best):
        rows.append(("best, in pixels", *(percent(record["pixels"]) for record in best)))
    rows.append(("best, 90th percentile", *(percent(record["p90"]) for record in best)))
    return table(("sampler, grid", *map(str, depths)), rows)


def _accuracy_row(cfg: int, ours: Sequence[Record], stock: Sequence[Record], devices: int) -> Sequence[str]:
    """The best gain on so many devices."""
    cores, split = splits(devices, cfg)
    found, goal = gains(ours, stock, cores), ACCURACY_GOALS[cfg][devices]
    if not found:
        return (f"{devices}", "-", f"{goal:g}: **missed**", *[""] * 7)
    first = found[0]
    record, value = first.record, split * first.ratio
    errors = [record["median"], record["p90"], *([record["pixels"]] if record["pixels"] is not None else [])]
    return (
        f"{devices}",
        f"{'> ' if first.needed.beyond else ''}{value:.2f}",
        f"{goal:g}: {verdict(value, goal, first.needed.beyond)}",
        how(record),
        f"{record['depth']}",
        "; ".join(map(percent, errors)),
        f"{first.needed} {first.needed.sampler}",
        *(at_depth(found, depth, split) for depth in (8, 12, 16)),
    )


def _best_ratio(records: Sequence[Record], stock: Sequence[Record], cores: int) -> str:
    found = gains(records, stock, cores)
    return f"{'> ' if found[0].needed.beyond else ''}{found[0].ratio:.2f}" if found else "-"


def at_depth(found: Sequence[Gain], depth: int, split: int) -> str:
    """The most accurate result of at most this depth."""
    near = [gain for gain in found if gain.record["depth"] <= depth]
    if not near:
        return "-"
    best = min(near, key=lambda gain: gain.record["median"])
    more = "> " if best.needed.beyond else ""
    return f"{more}{split * best.ratio:.2f} ({percent(best.record['median'])})"
