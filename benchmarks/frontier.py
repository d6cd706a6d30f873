"""What parallel sampling brings, by two measures, against every strict baseline: frontier.md, .json and .png.

    .venv/bin/python benchmarks/frontier.py --device cuda --processes 8   on 64 held-out seeds
    .venv/bin/python benchmarks/frontier.py --small                       a few seeds, in a minute on a CPU

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
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

BEGAN = time.perf_counter()
REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO), str(REPO / "scripts")]

import torch
import torch.multiprocessing
from torch import Tensor

from benchmarks._demo import differences
from benchmarks._frontier_cases import Case, all_cases
from benchmarks._frontier_picture import picture
from benchmarks._frontier_records import DIVERGED, Book
from benchmarks._frontier_report import report
from benchmarks._problems import Problem, make_problem, truth
from benchmarks._report import RESULTS, date, first_line, require_matplotlib, write
from chords_core import SOLVERS, Chords, Hit, Window, accuracy_window, solver_window
from chords_core.execution.driver import Method
from chords_core.solvers.interpolated import interpolated_solver

RESERVE = 10.0  # seconds of the limit kept for the tables and the picture
SAVE_EVERY = 20.0  # seconds


# --- running a case


@dataclass
class Outcome:
    """A result, and the calls it took."""

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
        slopes, solver = case.kind == "secant", SOLVERS[case.solver]
        run = Window(problem.start, solver_window(sigmas, case.cores, solver, slopes=slopes, rounds=case.rounds))
    elif case.kind == "sparse window":
        solver = SOLVERS[case.solver]
        run = Window(problem.start, solver_window(sigmas, case.cores, solver, calls=case.calls, rounds=case.rounds))
    elif case.kind == "cubic":
        run = Window(problem.start, accuracy_window(sigmas, case.cores, rounds=case.rounds))
    elif case.kind == "sparse":
        solver, schedule = interpolated_solver(SOLVERS[case.solver], sigmas, case.calls)
        run = Chords(problem.start, schedule, case.starts or (0,), solver, case.hits)
    else:
        run = Chords(problem.start, sigmas, case.starts, SOLVERS[case.solver], case.hits)
    hits, evaluations = run_machine(run, problem.denoise)
    return [Outcome(hit.x, hit.depth, evaluations) for hit in hits]


def run_machine(machine: Any, denoise: Callable[[Tensor, float], Tensor]) -> tuple[list[Hit], int]:
    """The hits that count (of CHORDS all except the draft, of a window the last one), and the evaluations made."""
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

    # What samplers read of a model besides calling it.
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

    assert sampling  # it changes settings of torch when it is imported

    return comfyui_version.__version__


# --- measuring


class Answers:
    """The problems, their solutions and the results of users' samplers; each is made when it is first needed."""

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
        """The result that the case aims at."""
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
    """Four digits: the file stays small."""
    return float(f"{float(value):.4g}")


def measure(case: Case, answers: Answers) -> list[list[float | None]]:
    """One row of COLUMNS for each result."""
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


@dataclass(frozen=True)
class Measurement:
    """The rows of COLUMNS of one case, or what failed."""

    case: Case
    rows: list[list[float | None]] | None = None
    failure: str = ""
    own_errors: dict[str, float] = field(default_factory=dict)


def measure_one(case: Case, answers: Answers) -> Measurement:
    try:
        rows = measure(case, answers)
    except Exception as error:
        traceback.print_exc()
        return Measurement(case, failure=first_line(error, 160), own_errors=dict(answers.own_errors))
    return Measurement(case, rows, own_errors=dict(answers.own_errors))


def measure_all(cases: Sequence[Case], book: Book, processes: int, *setting: Any) -> int:
    """Measure the cases that are not known yet, until the time is up; returns how many were left out.

    ``setting``: the arguments of `begin`.
    """
    todo = [case for case in cases if case.key not in book.known]
    at, saved, done = "", time.perf_counter(), 0
    for found in measurements(todo, processes, *setting):
        if found is None:
            continue
        case, done, now = found.case, done + 1, time.perf_counter()
        if found.rows is not None:
            book.known[case.key] = found.rows
        else:
            book.failures[f"{case.problem}, {case.part}, {case.method}"] = found.failure
        book.own_errors |= found.own_errors
        place = f"{case.problem}, {case.part}, {case.solver if case.part == 'fidelity' else ''} (rank {case.rank})"
        if place != at:
            at = place
            print(f"{now - BEGAN:6.1f} s  {place}: {done} of {len(todo)} cases done", flush=True)
        if now - saved > SAVE_EVERY:
            save(book, len(todo) - done, now - BEGAN)
            saved = now
    return len(todo) - done


def measurements(todo: Sequence[Case], processes: int, *setting: Any) -> Iterator[Measurement | None]:
    """The measurement of each case in turn; None for a case that would begin too late."""
    if processes == 1:
        begin(*setting)
        yield from map(measure_here, todo)
        return
    context = torch.multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, begin, setting) as pool:
        yield from pool.map(measure_here, todo)


_answers: Answers | None = None  # of this process
_until = math.inf  # no case begins later; by the clock that all processes share


def begin(seeds: int, device: str, fine_steps: int, until: float) -> None:
    """Prepare a process for `measure_here`."""
    global _answers, _until
    if device == "cpu":
        torch.set_num_threads(1)
    start_comfy(device == "cpu")
    torch.set_grad_enabled(False)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # whatever ComfyUI set
    _answers, _until = Answers(seeds, torch.device(device), fine_steps), until


def measure_here(case: Case) -> Measurement | None:
    assert _answers is not None
    return measure_one(case, _answers) if time.time() < _until else None


def save(book: Book, left_out: int, seconds: float) -> None:
    """Write frontier.json and frontier.md."""
    book.save(left_out, seconds)
    write(book.folder / "frontier.md", report(book))


def write_report(folder: Path) -> None:
    """Write the tables and the picture from the folder's frontier.json."""
    facts = json.loads((folder / "frontier.json").read_text(encoding="utf-8"))["facts"]
    book = Book(folder, facts, {case.key: case for case in all_cases(facts["small"])})
    book.load()
    save(book, facts["left_out"], 0.0)
    picture(book, folder / "frontier.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--small", action="store_true", help="two seeds, few cases: under a minute")
    parser.add_argument("--seeds", type=int, help="default 64, with --small 2")
    parser.add_argument("--processes", type=int, default=1, help="that measure side by side")
    parser.add_argument("--limit", type=float, help="seconds after which no case begins (default 190, --small 50)")
    parser.add_argument("--out", type=Path, help="folder (default benchmarks/results, with --small output/frontier)")
    parser.add_argument("--report", action="store_true", help="measure nothing, write tables and picture anew")
    parser.add_argument("--no-picture", action="store_true", help="without matplotlib")
    arguments = parser.parse_args()
    if arguments.report:
        write_report(arguments.out or RESULTS)
        return
    if not arguments.no_picture:
        require_matplotlib()
    device = torch.device(arguments.device)
    small = arguments.small
    folder = arguments.out or (REPO / "output" / "frontier" if small else RESULTS)
    seeds = arguments.seeds or (2 if small else 64)
    limit = arguments.limit or (50.0 if small else 190.0)
    told = [word for word in sys.argv[1:] if word != f"{arguments.out}" and not word.startswith("--out")]
    facts = {
        "command": shlex.join([".venv/bin/python", "benchmarks/frontier.py", *told]),
        "date": date(),
        "name": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "device": device.type,
        "small": small,
        "seeds": seeds,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "comfyui": start_comfy(device.type == "cpu"),
    }
    cases = all_cases(small)
    book = Book(folder, facts, {case.key: case for case in cases})
    book.load()
    until = time.time() + limit - RESERVE - (time.perf_counter() - BEGAN)
    left_out = measure_all(cases, book, arguments.processes, seeds, arguments.device, 24 if small else 400, until)
    save(book, left_out, time.perf_counter() - BEGAN)
    print("\n".join(line for line in report(book) if line.startswith("#") or ": met" in line or "missed" in line))
    print(*(f"failed: {what}: {why}" for what, why in book.failures.items()), sep="\n")
    if not arguments.no_picture:
        picture(book, folder / "frontier.png")
    print(f"{time.perf_counter() - BEGAN:.1f} s; written to {folder}; {left_out} cases left out")


if __name__ == "__main__":
    main()
