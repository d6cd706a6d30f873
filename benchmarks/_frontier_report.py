"""The tables of benchmarks/frontier.py: frontier.md."""

from __future__ import annotations

from collections.abc import Sequence

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
            best = fastest(own, cores)
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
        lines += [
            "With two devices or more, pairs share each guided call: half as many cores, each call twice as fast.",
            "",
        ]
    heads = ("sampler, steps", "devices", "speed-up", "goal", "depth", "by", "median", "90th percentile")
    lines += [*table(heads, rows), ""]
    for solver, steps, grid in aims:
        if solver != "euler":
            continue
        own = select(records, solver=solver, steps=steps, grid=grid)
        rows = []
        for method, named in by_method(own).items():
            cells = []
            for cores in CORES:
                best = fastest(named, cores)
                cells.append(f"{best['depth']} ({steps / best['depth']:.2f}x)" if best else "-")
            rows.append((method, *cells))
        lines += [f"{solver} {steps}, {grid} grid: least depth within {percent(CLOSE)} by method and cores:", ""]
        lines += [*table(("method", *(f"K={cores}" for cores in CORES)), rows), ""]
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
    lines += [*table(("sampler, grid", *map(str, depths)), rows), ""]
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
        f"At equal accuracy, where the best stock sampler needs {ACCURATE_FROM} calls or more. The last columns: the "
        f"best result of at most this depth. `>`: the stock sampler needs more than {MAX_STEPS} calls, so the figure "
        "is a lower bound.",
        "",
        *table((*heads, "depth ≤ 8", "≤ 12", "≤ 16"), rows),
        "",
    ]
    rows = []
    for method, named in by_method(ours).items():
        cells = []
        for cores in CORES:
            found = gains(named, stock, cores)
            cells.append(f"{'> ' if found[0].needed.beyond else ''}{found[0].ratio:.2f}" if found else "-")
        rows.append((method, *cells))
    lines += ["The same by method and cores (without the split):", ""]
    return [*lines, *table(("method", *(f"K={cores}" for cores in CORES)), rows), ""]


def at_depth(found: Sequence[Gain], depth: int, split: int) -> str:
    """The most accurate result of at most this depth."""
    near = [gain for gain in found if gain.record["depth"] <= depth]
    if not near:
        return "-"
    best = min(near, key=lambda gain: gain.record["median"])
    more = "> " if best.needed.beyond else ""
    return f"{more}{split * best.ratio:.2f} ({percent(best.record['median'])})"
