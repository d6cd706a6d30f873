"""What benchmarks/frontier.py measures: its cases, the most important first."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from benchmarks._plans import planned_starts
from chords_core import authors_starts, lattice_starts

STOCK_STEPS = (6, 8, 11, 15, 20, 28, 40, 60)
CORES = (1, 2, 3, 4, 6, 8)
LATER = 3  # ranks between what is needed and what only fills curves

STOCK_GRIDS = {  # of each sampler: how many of the problem's grids, the standard one first
    "euler": 2,
    "heun": 3,
    "dpmpp_2m": 4,
    "deis": 3,
    "ipndm": 3,
    "uni_pc": 3,
    "res_multistep": 3,
    "gradient_estimation": 3,
}

ALSO = " / "  # between the names of a method


@dataclass(frozen=True)
class Case:
    """One run of one method on a problem; some give several results.

    ``part``: "fidelity", where ``solver``, ``steps`` and ``grid`` say whose result is aimed at, or "stock" or
    "accuracy", where the ODE's solution is; ``kind``: of machine; ``method``: its name in the tables; ``calls``: M of a
    sparse solver, or steps of a shorter run; ``rank``: 0 is measured first.
    """

    problem: str
    part: str
    kind: str
    method: str
    solver: str
    steps: int
    grid: str = "standard"
    cores: int = 1
    starts: tuple[int, ...] = ()
    rounds: int = 0
    calls: int = 0
    hits: int = 1
    rank: int = 0

    @property
    def key(self) -> str:
        how = f"K{self.cores} s{'-'.join(map(str, self.starts))} R{self.rounds} M{self.calls} H{self.hits}"
        return f"{self.problem} | {self.part} | {self.kind} | {self.solver} {self.steps} {self.grid} | {how}"


def all_cases(small: bool) -> list[Case]:
    """In the order of measurement."""
    found: dict[str, Case] = {}
    for problem in PROBLEMS:
        demo = problem.startswith("demo")
        first = 0 if demo else 1
        standard = ("normal", "karras") if "eps" in problem else ("standard",)
        for grid in standard:
            for steps in (20, 50):
                add(found, fidelity_cases(problem, "euler", steps, grid, first, small))
        add(found, stock_cases(problem, first))
        add(found, accuracy_cases(problem, first))
        if demo:
            add(found, fidelity_cases(problem, "euler", 30, "standard", LATER, small))
            for solver in ("dpmpp_2m", "uni_pc", "res_multistep"):
                for steps in (20, 50, 30):
                    earlier = steps != 30 and problem == "demo cfg4"
                    add(found, fidelity_cases(problem, solver, steps, "standard", 2 if earlier else LATER + 1, small))
    # Stable: else as above. The demo's accuracy comes when its baselines with and without guidance are there.
    cases = sorted(found.values(), key=lambda case: (case.rank, case.part == "accuracy" and case.rank == 0))
    return list(few(cases)) if small else cases


def few_calls(steps: int) -> int:
    """About as many as give a result within 1 % where the prompt leaves nothing open: 11 of 20, 13 of 30, 15 of 50."""
    return round(4.5 + 1.5 * math.sqrt(steps))


def few_rounds(calls: int, cores: int) -> int:
    """About as many rounds of a window do, likewise."""
    ruled = math.ceil(5.8 + calls * (0.05 + 0.93 / (cores * math.sqrt(cores))))
    return max(ruled, 3 + math.ceil((calls - cores) / cores))


PROBLEMS = ("demo cfg4", "demo cfg1", "mixture-flow cfg4", "mixture-eps cfg4", "mixture-flow cfg1", "mixture-eps cfg1")


def add(found: dict[str, Case], cases: Iterable[Case]) -> None:
    """A run that goes by several names is made once."""
    for case in cases:
        known = found.setdefault(case.key, case)
        if case.method not in known.method.split(ALSO):
            found[case.key] = replace(known, method=f"{known.method}{ALSO}{case.method}")


def few(cases: Iterable[Case]) -> Iterator[Case]:
    """Some of each kind, for a look at whether everything works."""
    counts: Counter[tuple[Any, ...]] = Counter()
    for case in cases:
        demo = case.problem.startswith("demo")
        if case.problem == "demo cfg1" or case.steps == 50 or case.rank > 2 or case.cores not in (1, 4):
            continue
        if case.part == "stock" and case.steps not in ((6, 11) if demo else (6, 11, 20, 40)):
            continue
        counts[case.problem, case.part, case.kind, case.grid, case.cores] += 1
        if demo and counts[case.problem, case.part, case.kind, case.grid, case.cores] > (
            5 if case.kind == "stock" else 2
        ):
            continue
        yield case


def starts_to_try(steps: int, cores: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and starts for CHORDS on so many cores."""
    yield "CHORDS, planner", planned_starts(steps, cores, cores)
    yield "CHORDS, planner", planned_starts(steps, cores)
    for q in (2, 3):
        yield f"CHORDS, lattice q={q}", tuple(lattice_starts(steps, cores, q))
    if cores in (4, 8):
        yield "CHORDS, authors' starts", tuple(authors_starts(steps, cores))


def parareal_starts(steps: int, cores: int) -> tuple[int, ...]:
    """SRDS: blocks of equal length, one a core."""
    gap = -(-steps // cores)
    return tuple(range(0, steps, gap))


def rounds_to_try(steps: int, cores: int) -> tuple[int, ...]:
    """From a few up to where little is gained; the window has to get to the end."""
    least = math.ceil(steps / cores) + 1
    tried = {
        20: (6, 7, 8, 9, 10, 11, 12, 14),
        28: (8, 10, 12, 15, 18),
        30: (8, 10, 12, 14, 17),
        40: (9, 11, 13, 16, 20),
        50: (8, 10, 12, 14, 16, 18, 21, 25),
    }[steps]
    return tuple(rounds for rounds in tried if rounds >= min(least, tried[-1]))


def fidelity_cases(problem: str, solver: str, steps: int, grid: str, rank: int, small: bool) -> Iterator[Case]:
    aim: dict[str, Any] = {"problem": problem, "part": "fidelity", "solver": solver, "steps": steps, "grid": grid}
    main = solver == "euler"
    least = max(6, round(0.6 * few_calls(steps)))
    most = min(steps - 1, round(1.6 * few_calls(steps)))
    for calls in range(least, most + 1, 1 if main else 2):
        yield Case(**aim, kind="sparse", method="fewer calls", calls=calls, rank=rank)
    for calls in sorted({least, (least + steps) // 2, most, round(0.8 * steps), steps - 1}):
        yield Case(**aim, kind="fewer", method="fewer steps", calls=calls, rank=rank)
    for cores in CORES[1:] if main else (2, 4, 8):
        later = rank if cores in (2, 4, 8) else rank + LATER
        on = {**aim, "cores": cores, "rank": later}
        for method, starts in starts_to_try(steps, cores):
            if len(starts) > 1:
                yield Case(**on, kind="chords", method=method, starts=starts, hits=min(len(starts), 3 if main else 2))
        starts = parareal_starts(steps, cores)
        if main and len(starts) > 1:
            yield Case(**on, kind="chords", method="SRDS", starts=starts, hits=min(len(starts), 4))
        for number, rounds in enumerate(rounds_to_try(steps, cores)):
            earlier = {**on, "rank": later + (LATER if number % 2 else 0)}
            yield Case(**earlier, kind="secant", method="secant window", rounds=rounds)
            if main and (number % 2 == 0 or small):
                yield Case(**earlier, kind="picard", method="ParaDiGMS (Picard)", rounds=rounds)
        usual = few_calls(steps)
        for more in (-2, 0, 3):
            ruled = few_rounds(usual + more, cores)
            for rounds in range(ruled - 2, ruled + 3):
                tried = {**on, "rank": later + (0 if more == 0 or cores == 2 else LATER)}
                yield Case(
                    **tried,
                    kind="sparse window",
                    method="fewer calls, secant window",
                    rounds=rounds,
                    calls=usual + more,
                )
        for more in (-1, 0, 2, 4, 7) if main else (0, 3):
            tried = {**on, "rank": later + (0 if more in (0, 2) else LATER)}
            for _, starts in starts_to_try(usual + more, cores):
                if len(starts) > 1:
                    hits = min(len(starts), 2)
                    yield Case(
                        **tried,
                        kind="sparse",
                        method="fewer calls, CHORDS",
                        starts=starts,
                        calls=usual + more,
                        hits=hits,
                    )


def stock_cases(problem: str, rank: int) -> Iterator[Case]:
    grids = EPS if "eps" in problem else FLOW
    for number in range(max(STOCK_GRIDS.values())):
        for sampler, count in STOCK_GRIDS.items():
            if number >= min(count, len(grids)):
                continue
            for calls in STOCK_STEPS:
                steps = (calls + 1) // 2 if sampler == "heun" else calls
                name = f"{sampler}, {grids[number]}"
                yield Case(problem, "stock", "stock", name, sampler, steps, grids[number], rank=rank)


FLOW = ("standard", "p=2", "p=1.5", "p=2.5")
EPS = ("normal", "karras", "exponential")


def accuracy_cases(problem: str, rank: int) -> Iterator[Case]:
    eps = "eps" in problem
    aim: dict[str, Any] = {"problem": problem, "part": "accuracy", "rank": rank}
    standard, better, between = ("karras", "karras", "exponential") if eps else ("standard", "p=2", "p=1.5")
    good = (("dpmpp_2m", better), ("uni_pc", between))
    for cores in CORES:
        on = {**aim, "cores": cores, "rank": rank if cores in (1, 2, 4, 8) else rank + LATER}
        for curve in ("normal", "exponential") if eps else ("standard",):
            for rounds in (6, 8, 11, 14, 18, 24):
                name = "secant window, cubic" + (f" on {curve}" if eps else "")
                yield Case(**on, kind="cubic", method=name, solver="cubic", steps=20, grid=curve, rounds=rounds)
        for steps in (20, 28, 40) if cores > 1 else ():
            for solver, fine in good:
                for rounds in rounds_to_try(steps, cores):
                    method = f"secant window, {solver} on {fine}"
                    later = {**on, "rank": on["rank"] + (0 if steps == 28 and cores > 2 else LATER)}
                    yield Case(
                        **later, kind="secant", method=method, solver=solver, steps=steps, grid=fine, rounds=rounds
                    )
        for solver, steps, fine in (("euler", 400, standard), ("uni_pc", 100, between), ("dpmpp_2m", 100, better)):
            method = f"fewer calls, {solver} of {steps} on {fine}"
            whole = {**on, "kind": "sparse", "method": method, "solver": solver, "steps": steps, "grid": fine}
            for calls in (12, 17, 24) if cores > 1 and solver != "uni_pc" else ():
                ruled = few_rounds(calls, cores)
                for rounds in (ruled - 1, ruled, ruled + 2):
                    windowed = {**whole, "kind": "sparse window", "method": f"{method}, secant window"}
                    yield Case(**windowed, calls=calls, rounds=rounds)
            for calls in (8, 10, 12, 14, 17, 20, 24, 30):
                if cores == 1:
                    yield Case(**whole, calls=calls)
                elif calls >= 12 and solver == "euler":
                    earlier = {**whole, "rank": on["rank"] + (0 if calls in (12, 17, 24) else LATER)}
                    for starts in dict.fromkeys(starts for _, starts in starts_to_try(calls, cores)):
                        if len(starts) > 1:
                            yield Case(**earlier, starts=starts, calls=calls)
        for steps in (12, 16, 20, 28, 40) if cores > 1 else ():
            for solver, fine in good:
                for name, starts in starts_to_try(steps, cores):
                    if len(starts) > 1 and "authors" not in name:
                        named = {"method": f"CHORDS, {solver} on {fine}", "starts": starts, "hits": min(len(starts), 2)}
                        later = {**on, **named, "rank": on["rank"] + (0 if steps in (16, 28) else LATER)}
                        yield Case(**later, kind="chords", solver=solver, steps=steps, grid=fine)
