"""The measurements of benchmarks/gpu.py: each function returns its section of gpu.json."""

from __future__ import annotations

import contextlib
import math
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks._gpu_models import Inputs, Model, Shape, median_ms, seconds_of, wait
from chords_core import InlinePool, ThreadPool, sample

LANES = (1, 2, 4)
DRIVER_STEPS = 20

_RESERVE = 3.0  # seconds of the limit that are kept for the end


class Deadline:
    """The time until the results have to be written: ``limit`` seconds after ``began``."""

    def __init__(self, began: float, limit: float) -> None:
        self._began, self._limit = began, limit

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self._began

    @property
    def left(self) -> float:
        """Seconds until no further part may begin."""
        return self._limit - _RESERVE - self.elapsed


# --- rows in one call


@dataclass
class Batches:
    """A first call at each number of rows: its output, an estimate of its seconds, and the peak of the memory."""

    outputs: dict[int, Tensor] = field(default_factory=dict)
    estimate: dict[int, float] = field(default_factory=dict)
    memory_gib: dict[int, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def round_seconds(self) -> float:
        """Of one call at each number of rows."""
        return sum(self.estimate.values())


def measure_batches(
    model: Model, shape: Shape, latent: tuple[int, ...], seconds: float, deadline: Deadline
) -> dict[str, Any]:
    """Time, memory and bits of one model call at each number of rows."""
    device = model.device
    inputs = Inputs(model, latent, max(shape.rows))
    found = _first_calls(model, inputs, shape.rows, deadline)
    if 1 not in found.outputs:
        raise RuntimeError("; ".join(found.notes))
    rounds = min(15, max(3, int(seconds / found.round_seconds)))
    times: dict[int, list[float]] = {rows: [] for rows in found.outputs}
    two_calls: list[float] = []

    def two() -> None:
        model(inputs, slice(0, 1))
        model(inputs, slice(1, 2))

    for done in range(rounds):  # interleaved: a drift of the clock is the same for all
        if done and found.round_seconds > deadline.left:
            found.notes.append(f"{done} rounds instead of {rounds}: no time left")
            break
        for rows, own in times.items():
            own.append(seconds_of(device, lambda rows=rows: model(inputs, slice(0, rows))))  # type: ignore[misc]
        if 2 in times:
            two_calls.append(seconds_of(device, two))
    return {
        "rows": {
            str(rows): {
                "ms": median_ms(times[rows]),
                "ms_least": 1000 * min(times[rows]),
                "ms_most": 1000 * max(times[rows]),
                "ratio": median_ms(times[rows]) / median_ms(times[1]),
                "memory_gib": found.memory_gib[rows],
                "finite": bool(torch.isfinite(output).all()),
            }
            for rows, output in found.outputs.items()
        },
        "two_calls_ms": median_ms(two_calls) if two_calls else None,
        "rounds": len(times[1]),
        "notes": found.notes,
        "bits": measure_bits(model, inputs, found.outputs),
    }


def _first_calls(model: Model, inputs: Inputs, all_rows: tuple[int, ...], deadline: Deadline) -> Batches:
    """Up to the number of rows for which memory or time is too short."""
    device, found = model.device, Batches()
    for rows in all_rows:
        before = max(found.estimate, default=0)
        needed = 4 * (found.round_seconds + found.estimate.get(before, 0.0) * rows / max(before, 1))
        if needed > deadline.left:
            found.notes.append(f"{rows} rows and more left out: no time left for them")
            break
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        try:
            # The first call chooses algorithms; a short one is made again for a better estimate.
            calls = 0
            while calls < 1 or (calls < 3 and found.estimate[rows] < 0.4):
                began = time.perf_counter()
                found.outputs[rows] = model(inputs, slice(0, rows))
                wait(device)
                found.estimate[rows], calls = time.perf_counter() - began, calls + 1
        except torch.OutOfMemoryError:
            found.outputs.pop(rows, None)
            found.estimate.pop(rows, None)
            torch.cuda.empty_cache()
            found.notes.append(f"{rows} rows and more left out: out of memory")
            break
        peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
        found.memory_gib[rows] = peak / 2**30
    return found


def measure_bits(model: Model, inputs: Inputs, outputs: dict[int, Tensor]) -> dict[str, Any]:
    """Whether a row of a batch has the same bits as alone, or as in a pair; and what else its bits depend on."""

    def compare(found: Tensor, wanted: Tensor, rows: slice) -> float | None:
        """0 for the same bits, else the difference relative to what the model predicts (x - denoised)."""
        if torch.equal(found, wanted):
            return 0.0
        difference = float((found - wanted).double().norm() / (inputs.x[rows] - wanted).double().norm())
        return difference if math.isfinite(difference) else None

    def largest(differences: list[float | None]) -> float | None:
        known = [difference for difference in differences if difference is not None]
        return max(known) if len(known) == len(differences) else None

    chosen = sorted({0} | {rows - 1 for rows in outputs})
    single = {row: model(inputs, slice(row, row + 1)) for row in chosen}
    pairs = {row: model(inputs, slice(row, row + 2)) for row in sorted({0} | {r - 2 for r in outputs if r > 2})}
    result: dict[str, Any] = {"against_one": {}, "against_pair": {}}
    for rows, output in outputs.items():
        if rows > 1:
            found = [compare(output[row : row + 1], single[row], slice(row, row + 1)) for row in sorted({0, rows - 1})]
            result["against_one"][str(rows)] = largest(found)
        if rows > 2:
            found = [compare(output[row : row + 2], pairs[row], slice(row, row + 2)) for row in (0, rows - 2)]
            result["against_pair"][str(rows)] = largest(found)
    again = min(4, max(outputs))
    result["repeats"] = torch.equal(single[0], outputs[1]) and torch.equal(
        model(inputs, slice(0, again)), outputs[again]
    )
    if again > 1:  # row 0 with other neighbours, in a batch of the same size
        x = torch.cat([inputs.x[:1], inputs.x[1:again].flip(-1)])
        sigma = torch.cat([inputs.sigma[:1], inputs.sigma[1:again] * 0.5])
        result["whatever_the_others"] = torch.equal(
            model(inputs, slice(0, again), x=x, sigma=sigma)[:1], outputs[again][:1]
        )
    return result


# --- lanes


def measure_lanes(model: Model, latent: tuple[int, ...], call_seconds: float, deadline: Deadline) -> dict[str, Any]:
    """Evaluations per second of threads that share the weights, each with its own CUDA stream."""
    device = model.device
    inputs = Inputs(model, latent, max(LANES))
    alone = [model(inputs, slice(lane, lane + 1)) for lane in range(max(LANES))]
    wait(device)
    streams = [torch.cuda.Stream(device) if device.type == "cuda" else None for _ in range(max(LANES))]
    calls = max(3, round(0.2 / call_seconds))
    rates: dict[int, list[float]] = {lanes: [] for lanes in LANES}
    made, same = dict.fromkeys(LANES, 0), dict.fromkeys(LANES, 0)
    for attempt in range(4):  # the first one warms up
        if attempt > 1 and sum(LANES) * calls * call_seconds > deadline.left:
            break
        for lanes in LANES:
            seconds, found = _run_threads(model, inputs, streams[:lanes], calls)
            made[lanes] += lanes * calls
            same[lanes] += sum(torch.equal(output, alone[lane]) for lane, own in enumerate(found) for output in own)
            if attempt:
                rates[lanes].append(lanes * calls / seconds)
    medians = {lanes: statistics.median(found) for lanes, found in rates.items()}
    return {
        str(lanes): {
            "per_second": rate,
            "against_one": rate / medians[1],
            "evaluations": made[lanes],
            "same_bits": same[lanes],
        }
        for lanes, rate in medians.items()
    }


def _run_threads(model: Model, inputs: Inputs, streams: list[Any], calls: int) -> tuple[float, list[list[Tensor]]]:
    """One thread per stream makes ``calls`` evaluations and waits for each: the seconds, and the outputs by lane."""
    found: list[list[Tensor]] = [[] for _ in streams]
    failures: list[Exception] = []
    barrier = threading.Barrier(len(streams) + 1, timeout=60.0)

    def work(lane: int, stream: Any) -> None:
        try:
            with torch.inference_mode(), torch.cuda.stream(stream) if stream else contextlib.nullcontext():
                barrier.wait()
                for _ in range(calls):
                    found[lane].append(model(inputs, slice(lane, lane + 1)))
                    if stream:
                        stream.synchronize()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=item, daemon=True) for item in enumerate(streams)]
    for thread in threads:
        thread.start()
    barrier.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    if failures:
        raise failures[0]
    return seconds, found


# --- the driver


def measure_driver(
    model: Model, latent: tuple[int, ...], call_seconds: float, seconds: float, deadline: Deadline
) -> dict[str, Any]:
    """A run of one core through the driver, against a plain Euler loop of the same model as in k-diffusion."""
    device = model.device
    inputs = Inputs(model, latent, 1)
    descending = torch.linspace(model.sigma_max, model.sigma_max / DRIVER_STEPS, DRIVER_STEPS)
    sigmas = torch.cat([descending, torch.zeros(1)]).to(device)

    def denoise(x: Tensor, sigma: float) -> Tensor:
        return model(inputs, slice(0, 1), x=x, sigma=torch.full((1,), sigma, device=device))

    with ThreadPool([denoise]) as threads:
        runs: dict[str, Callable[[], Tensor]] = {
            "plain loop": lambda: _plain_loop(model, inputs, sigmas),
            "inline": lambda: sample(None, inputs.x, sigmas, pool=InlinePool(denoise)).x,
            "one lane, a thread": lambda: sample(None, inputs.x, sigmas, pool=threads).x,
        }
        once = len(runs) * DRIVER_STEPS * call_seconds
        if 2 * once > deadline.left:
            raise RuntimeError("left out, no time left")
        results = {name: run() for name, run in runs.items()}
        wait(device)
        rounds = min(15, max(3, int(seconds / once)))
        times: dict[str, list[float]] = {name: [] for name in runs}
        for done in range(rounds):
            if done and once > deadline.left:
                break
            for name in list(runs) if done % 2 else list(runs)[::-1]:
                times[name].append(seconds_of(device, runs[name]))
    base = times["plain loop"]
    return {
        name: {
            "ms": median_ms(values),
            "ratio": statistics.median(value / loop for value, loop in zip(values, base, strict=True)),
            "ms_more_an_evaluation": (median_ms(values) - median_ms(base)) / DRIVER_STEPS,
            "same_bits": torch.equal(results[name], results["plain loop"]),
            "rounds": len(values),
        }
        for name, values in times.items()
    }


def _plain_loop(model: Model, inputs: Inputs, sigmas: Tensor) -> Tensor:
    """Euler steps that never wait for the device."""
    x, ones = inputs.x, inputs.x.new_ones(1)
    for i in range(len(sigmas) - 1):
        denoised = model(inputs, slice(0, 1), x=x, sigma=sigmas[i] * ones)
        drift = (x - denoised) / sigmas[i]
        x = x + drift * (sigmas[i + 1] - sigmas[i])
    return x
