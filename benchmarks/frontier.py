"""What parallel sampling brings, by two measures, against every strict baseline: frontier.md, .json and .png.

    .venv/bin/python benchmarks/frontier.py --device cuda     on 64 held-out seeds, in about three minutes
    .venv/bin/python benchmarks/frontier.py --small           the same code on a few seeds, in a minute on a CPU

- Fidelity: depth (model calls in a row) until the result is within 1 % of what the user's own sampler gives with the
  user's own steps.
- Equal accuracy: depth against that of the best stock sampler on its best grid, at the same error to the solution of
  the ODE.

Depth is counted, not timed. The cases measured so far are kept in frontier.json: a second run only does what is
missing. Needs `python scripts/test.py --setup-only` once, and matplotlib for the picture.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import shlex
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

BEGAN = time.perf_counter()
REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO), str(REPO / "scripts")]

import torch
from torch import Tensor

from benchmarks._problems import SEED, Problem, differences, make_problem, truth
from chords_core import Chords, Hit, Window, accuracy_plan, authors_starts, fidelity_plan, lattice_starts, plan
from chords_core.driver import Method
from chords_core.quadrature import solver_rows
from chords_core.sampling import PARALLEL_SOLVERS
from chords_core.sparse import Sparse, fewer_calls, sparse_nodes
from chords_core.window import sparse_plan, sparse_rounds

RESULTS = Path(__file__).parent / "results"
RESERVE = 10.0  # seconds of the limit kept for the tables and the picture
SAVE_EVERY = 20.0  # seconds
CLOSE = 0.01  # fidelity: the median relative RMSE
DIVERGED = 10.0  # a relative RMSE that is no result; what is larger is cut
STOCK_STEPS = (6, 8, 11, 15, 20, 28, 40, 60)
MOST_STEPS = STOCK_STEPS[-1]
ACCURATE_FROM = 15  # equal accuracy is judged where the best stock sampler needs as many calls, or more
CORES = (1, 2, 3, 4, 6, 8)
LATER = 3  # ranks between what is needed and what only fills curves
DEVICES = (1, 2, 4, 8)
UNITS = "relative RMSE"

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
FIDELITY_GOALS = {  # by CFG and devices: for euler with 20 and with 50 steps
    1: {1: (1.0, 1.0), 2: (1.5, 1.8), 4: (2.5, 3.3), 8: (3.0, 4.5)},
    4: {1: (1.0, 1.0), 2: (2.0, 2.0), 4: (2.6, 3.0), 8: (3.6, 5.0)},
}
ACCURACY_GOALS = {
    1: {1: 1.25, 2: 1.8, 4: 3.0, 8: 5.0},
    4: {1: 1.25, 2: 2.0, 4: 3.5, 8: 6.0},
}

ALSO = " / "  # between the names of a method
COLUMNS = ("depth", "evaluations", "median", "mean", "p90", "pixels")
Record = dict[str, Any]


# --- what is measured


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
                    sooner = steps != 30 and problem == "demo cfg4"
                    add(found, fidelity_cases(problem, solver, steps, "standard", 2 if sooner else LATER + 1, small))
    # Stable: else as above. The demo's accuracy comes when its baselines with and without guidance are there.
    cases = sorted(found.values(), key=lambda case: (case.rank, case.part == "accuracy" and case.rank == 0))
    return list(few(cases)) if small else cases


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
    yield "CHORDS, planner", plan(steps, cores, cores).starts
    yield "CHORDS, planner", plan(steps, cores).starts
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
    least = max(6, round(0.6 * fewer_calls(steps)))
    most = min(steps - 1, round(1.6 * fewer_calls(steps)))
    for calls in range(least, most + 1, 1 if main else 2):
        yield Case(**aim, kind="sparse", method="sparse", calls=calls, rank=rank)
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
            sooner = {**on, "rank": later + (LATER if number % 2 else 0)}
            yield Case(**sooner, kind="secant", method="secant window", rounds=rounds)
            if main and (number % 2 == 0 or small):
                yield Case(**sooner, kind="picard", method="ParaDiGMS (Picard)", rounds=rounds)
        usual = fewer_calls(steps)
        for more in (-2, 0, 3):
            ruled = sparse_rounds(usual + more, cores)
            for rounds in range(ruled - 2, ruled + 3):
                tried = {**on, "rank": later + (0 if more == 0 or cores == 2 else LATER)}
                yield Case(
                    **tried, kind="sparse window", method="sparse, secant window", rounds=rounds, calls=usual + more
                )
        for more in (-1, 0, 2, 4, 7) if main else (0, 3):
            tried = {**on, "rank": later + (0 if more in (0, 2) else LATER)}
            for _, starts in starts_to_try(usual + more, cores):
                if len(starts) > 1:
                    hits = min(len(starts), 2)
                    yield Case(
                        **tried, kind="sparse", method="sparse, CHORDS", starts=starts, calls=usual + more, hits=hits
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
            method = f"sparse, {solver} of {steps} on {fine}"
            whole = {**on, "kind": "sparse", "method": method, "solver": solver, "steps": steps, "grid": fine}
            for calls in (12, 17, 24) if cores > 1 and solver != "uni_pc" else ():
                ruled = sparse_rounds(calls, cores)
                for rounds in (ruled - 1, ruled, ruled + 2):
                    windowed = {**whole, "kind": "sparse window", "method": f"{method}, secant window"}
                    yield Case(**windowed, calls=calls, rounds=rounds)
            for calls in (8, 10, 12, 14, 17, 20, 24, 30):
                if cores == 1:
                    yield Case(**whole, calls=calls)
                elif calls >= 12 and solver == "euler":
                    sooner = {**whole, "rank": on["rank"] + (0 if calls in (12, 17, 24) else LATER)}
                    for starts in dict.fromkeys(starts for _, starts in starts_to_try(calls, cores)):
                        if len(starts) > 1:
                            yield Case(**sooner, starts=starts, calls=calls)
        for steps in (12, 16, 20, 28, 40) if cores > 1 else ():
            for solver, fine in good:
                for name, starts in starts_to_try(steps, cores):
                    if len(starts) > 1 and "authors" not in name:
                        named = {"method": f"CHORDS, {solver} on {fine}", "starts": starts, "hits": min(len(starts), 2)}
                        later = {**on, **named, "rank": on["rank"] + (0 if steps in (16, 28) else LATER)}
                        yield Case(**later, kind="chords", solver=solver, steps=steps, grid=fine)


# --- running a case


@dataclass
class Outcome:
    """A result, and what it took."""

    x: Tensor
    depth: int
    evaluations: int


def run_case(case: Case, problem: Problem) -> list[Outcome]:
    discard = case.solver == "uni_pc" and case.grid in ("standard", "normal")
    name = problem.grids[0] if case.grid == "standard" else case.grid
    if case.kind in ("stock", "fewer"):
        steps = case.calls or case.steps
        x, calls = run_stock(problem, case.solver, problem.grid(name, steps, discard))
        return [Outcome(x, calls, calls)]
    sigmas = problem.grid(name, case.steps, discard)
    run: Method
    if case.kind in ("secant", "picard"):
        slopes, solver = case.kind == "secant", PARALLEL_SOLVERS[case.solver]
        run = Window(problem.start, fidelity_plan(sigmas, case.cores, solver, slopes=slopes, rounds=case.rounds))
    elif case.kind == "sparse window":
        solver = PARALLEL_SOLVERS[case.solver]
        run = Window(problem.start, sparse_plan(sigmas, case.cores, solver, case.calls, rounds=case.rounds))
    elif case.kind == "cubic":
        run = Window(problem.start, accuracy_plan(sigmas, case.cores, rounds=case.rounds))
    elif case.kind == "sparse":
        nodes = sparse_nodes(case.steps, case.calls)
        sparse = Sparse(rows_of(case.solver, sigmas), nodes)
        levels = torch.cat([sigmas[list(nodes)], sigmas[-1:]])
        run = Chords(problem.start, levels, case.starts or (0,), sparse, case.hits)
    else:
        run = Chords(problem.start, sigmas, case.starts, PARALLEL_SOLVERS[case.solver], case.hits)
    hits, evaluations = run_machine(run, problem.denoise)
    return [Outcome(hit.x, hit.depth, evaluations) for hit in hits]


_rows: dict[tuple[str, tuple[float, ...]], Any] = {}


def rows_of(solver: str, sigmas: Tensor) -> Any:
    """`solver_rows`, made once."""
    key = solver, tuple(sigmas.tolist())
    if key not in _rows:
        _rows[key] = solver_rows(PARALLEL_SOLVERS[solver], sigmas)
    return _rows[key]


def run_machine(machine: Any, denoise: Callable[[Tensor, float], Tensor]) -> tuple[list[Hit], int]:
    """The hits that count, and the evaluations made: of CHORDS all but the draft, of a window the last."""
    evaluations = 0
    while machine.accepted is None:
        for task in machine.ready():
            if machine.accepted is None:
                machine.complete(task, denoise(task.x, task.sigma))
                evaluations += 1
    if isinstance(machine, Window):
        return [machine.accepted], evaluations
    return [hit for hit in machine.hits if hit.core > 0], evaluations


def run_stock(problem: Problem, sampler: str, sigmas: Tensor) -> tuple[Tensor, int]:
    """ComfyUI's own function, and the model calls it made."""
    from comfy.extra_samplers import uni_pc
    from comfy.k_diffusion import sampling

    calls = 0

    def model(x: Tensor, sigma: Tensor, **extra: Any) -> Tensor:
        nonlocal calls
        calls += 1
        return problem.model(x, sigma)

    # What samplers look up beyond calling the model.
    model_sampling = SimpleNamespace(noise_scale=1.0, sigma_min=sigmas[-2], sigma_max=sigmas[0])
    patcher = SimpleNamespace(get_model_object=lambda name: model_sampling, model_sampling=model_sampling)
    model.inner_model = SimpleNamespace(  # type: ignore[attr-defined]
        model_patcher=patcher, model_sampling=model_sampling, inner_model=SimpleNamespace(model_sampling=model_sampling)
    )
    function = uni_pc.sample_unipc if sampler == "uni_pc" else getattr(sampling, f"sample_{sampler}")
    x = function(model, problem.start.clone(), sigmas.clone(), extra_args={}, callback=None, disable=True)
    return x, calls


def start_comfy(cpu: bool) -> str:
    """Makes ``comfy`` importable; returns its version."""
    import host

    sys.path.insert(1, str(host.prepare()))
    from comfy.cli_args import args

    args.cpu = cpu
    import comfyui_version
    from comfy.k_diffusion import sampling

    assert sampling  # imported now, for what it sets in torch

    return comfyui_version.__version__


# --- measuring


class Answers:
    """The problems, their solutions and what users' samplers give, made when asked for."""

    def __init__(self, seeds: int, device: torch.device, fine_steps: int) -> None:
        self._seeds, self._device, self._fine_steps = seeds, device, fine_steps
        self._problems: dict[str, Problem] = {}
        self._answers: dict[tuple[str, ...], Tensor] = {}
        self.own_errors: dict[str, float] = {}

    def problem(self, name: str) -> Problem:
        if name not in self._problems:
            self._problems[name] = make_problem(name, self._seeds, self._device)
        return self._problems[name]

    def of(self, case: Case) -> Tensor:
        """What the case aims at."""
        if case.part == "fidelity":
            key = (case.problem, case.solver, str(case.steps), case.grid)
            if key not in self._answers:
                whole = Case(case.problem, "stock", "stock", "", case.solver, case.steps, case.grid)
                self._answers[key] = run_case(whole, self.problem(case.problem))[0].x
            return self._answers[key]
        key = (case.problem,)
        if key not in self._answers:
            problem = self.problem(case.problem)
            self._answers[key], own = truth(problem, self._fine_steps)
            self.own_errors[case.problem] = own
            print(f"  {case.problem}: the solution's own error, by half the steps: {own:.1e}", flush=True)
        return self._answers[key]

    def pictures_of(self, case: Case) -> Tensor:
        key = (case.problem, "pictures")
        if key not in self._answers:
            decode = self.problem(case.problem).decode
            assert decode is not None
            self._answers[key] = decode(self.of(case))
        return self._answers[key]


def cut(found: Tensor) -> Tensor:
    return found.double().nan_to_num(DIVERGED).clamp(max=DIVERGED)


def short(value: Tensor) -> float:
    """Four digits, for a file of bearable size."""
    return float(f"{float(value):.4g}")


def as_record(case: Case) -> Record:
    always = {name: getattr(case, name) for name in ("problem", "part", "method", "solver", "steps", "grid", "cores")}
    return always | {name: getattr(case, name) for name in ("starts", "rounds", "calls") if getattr(case, name)}


def measure(case: Case, answers: Answers) -> list[list[float | None]]:
    """A row of COLUMNS for each result."""
    problem, exact = answers.problem(case.problem), answers.of(case)
    rows: list[list[float | None]] = []
    for outcome in run_case(case, problem):
        found = cut(differences(outcome.x, exact))
        pixels = None
        if problem.decode is not None and case.part != "fidelity":
            pixels = short(cut(differences(problem.decode(outcome.x), answers.pictures_of(case))).median())
        errors = (short(value) for value in (found.median(), found.mean(), found.quantile(0.9)))
        rows.append([outcome.depth, outcome.evaluations, *errors, pixels])
    return rows


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

    def save(self, left_out: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.facts["left_out"] = left_out
        self.facts["seconds"] = round(self.seconds_before + time.perf_counter() - BEGAN)
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


def measure_all(cases: Sequence[Case], book: Book, answers: Answers, limit: float) -> int:
    """Those not known yet, until the time is up; returns how many were left out."""
    todo = [case for case in cases if case.key not in book.known]
    at, saved = "", time.perf_counter()
    for number, case in enumerate(todo):
        now = time.perf_counter()
        if now - BEGAN > limit - RESERVE:
            return len(todo) - number
        place = f"{case.problem}, {case.part}, {case.solver if case.part == 'fidelity' else ''} (rank {case.rank})"
        if place != at:
            at = place
            print(f"{now - BEGAN:6.1f} s  {place}: {number} of {len(todo)} cases done", flush=True)
        if now - saved > SAVE_EVERY:
            book.save(len(todo) - number)
            saved = now
        try:
            book.known[case.key] = measure(case, answers)
        except Exception as error:
            if len(book.failures) < 5:
                traceback.print_exc()
            said = (str(error).strip().splitlines() or [""])[0].replace(str(REPO), ".")[:160]
            book.failures[f"{case.problem}, {case.part}, {case.method}"] = f"{type(error).__name__}: {said}"
        book.own_errors |= answers.own_errors
    return 0


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--small", action="store_true", help="two seeds, few cases: under a minute")
    parser.add_argument("--seeds", type=int, help="default 64, with --small 2")
    parser.add_argument("--limit", type=float, help="seconds after which no case begins (default 190, --small 50)")
    parser.add_argument("--out", type=Path, help="folder (default benchmarks/results, with --small output/frontier)")
    parser.add_argument("--no-picture", action="store_true", help="without matplotlib")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    small = arguments.small
    folder = arguments.out or (REPO / "output" / "frontier" if small else RESULTS)
    seeds = arguments.seeds or (2 if small else 64)
    limit = arguments.limit or (50.0 if small else 190.0)
    told = [word for word in sys.argv[1:] if word != f"{arguments.out}" and not word.startswith("--out")]
    facts = {
        "command": shlex.join([".venv/bin/python", "benchmarks/frontier.py", *told]),
        "date": time.strftime("%Y-%m-%d"),
        "name": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "device": device.type,
        "small": small,
        "seeds": seeds,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "comfyui": start_comfy(device.type == "cpu"),
    }
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # whatever ComfyUI set
    cases = all_cases(small)
    book = Book(folder, facts, {case.key: case for case in cases})
    book.load()
    with torch.no_grad():
        left_out = measure_all(cases, book, Answers(seeds, device, 24 if small else 400), limit)
    book.save(left_out)
    print("\n".join(line for line in report(book) if line.startswith("#") or ": met" in line or "missed" in line))
    print(*(f"failed: {what}: {why}" for what, why in book.failures.items()), sep="\n")
    if not arguments.no_picture:
        picture(book, folder / "frontier.png")
    print(f"{time.perf_counter() - BEGAN:.1f} s; written to {folder}; {left_out} cases left out")


if __name__ == "__main__":
    main()
