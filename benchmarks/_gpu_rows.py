"""Near KSampler on one GPU, with the rounds of a window as rows of one call: a section of benchmarks/gpu.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks._gpu_measurements import Deadline
from benchmarks._gpu_models import Inputs, Model, median_ms, seconds_of, wait
from benchmarks._report import table
from chords_core import ROW_COUNTS, BatchPool, plan, sample

STEPS = 20
TOLERANCE = 0.01
GOAL = 1.8
"""Times as fast as KSampler, where 8 rows are nearly free."""

_GUIDANCE = 4.0
_REPEATS = 3


def measure_windows(
    model: Model, latent: tuple[int, ...], guided: bool, trained: bool, call_seconds: float, deadline: Deadline
) -> dict[str, Any]:
    """Seconds of `STEPS` Euler steps: one call after another, adaptive steps, and windows in rows.

    The picture decides how many rounds there are, and a model with random weights has no picture. So only a ``trained``
    one runs within the tolerance; the others make as many rounds as are expected.
    """
    device = model.device
    inputs = Inputs(model, latent, max(ROW_COUNTS))
    denoise_rows = _rows_of(model, inputs, guided)
    descending = torch.linspace(model.sigma_max, model.sigma_max / STEPS, STEPS)
    sigmas = torch.cat([descending, torch.zeros(1)]).to(device)
    x = inputs.x[:1]

    def stock() -> Tensor:
        state = x
        for i in range(STEPS):
            denoised = denoise_rows([state], [float(sigmas[i])])[0]
            state = state + (state - denoised) / sigmas[i] * (sigmas[i + 1] - sigmas[i])
        return state

    expected = stock()
    wait(device)
    found: dict[str, Any] = {"ksampler_ms": median_ms(_timed(device, stock))}
    for rows in ROW_COUNTS:
        planned = plan(STEPS, rows, rows, tolerance=TOLERANCE)
        if _REPEATS * planned.depth * rows * call_seconds > deadline.left:
            continue
        found[str(rows)] = _window(denoise_rows, x, sigmas, rows, planned.depth, trained, expected)
    return found


def _window(
    denoise_rows: Any, x: Tensor, sigmas: Tensor, rows: int, rounds: int, trained: bool, expected: Tensor
) -> dict[str, Any]:
    """What one number of rows takes; with a trained model also how far it is from KSampler's result."""

    def run() -> Any:
        pool = BatchPool(denoise_rows, rows)
        if trained:
            return sample(None, x, sigmas, method="secant", cores=rows, tolerance=TOLERANCE, pool=pool)
        if rows == 1:
            return sample(None, x, sigmas, calls=rounds, pool=pool)
        return sample(None, x, sigmas, method="secant", cores=rows, rounds=rounds, pool=pool)

    result = run()
    wait(x.device)
    difference = float((result.x - expected).norm() / expected.norm()) if trained else None
    return {"ms": median_ms(_timed(x.device, run)), "rounds": result.depth, "difference": difference}


def _timed(device: torch.device, run: Any) -> list[float]:
    return [seconds_of(device, run) for _ in range(_REPEATS)]


def _rows_of(model: Model, inputs: Inputs, guided: bool) -> Any:
    """The model's calls with the conditioning of one prompt for all rows, or with guidance of two."""

    def denoise_rows(xs: Sequence[Tensor], sigmas: Sequence[float]) -> Sequence[Tensor]:
        x, sigma = torch.cat(list(xs)), xs[0].new_tensor(list(sigmas))
        if not guided:
            return model(inputs, [0] * len(xs), x=x, sigma=sigma).chunk(len(xs))
        both = model(inputs, [0] * len(xs) + [1] * len(xs), x=torch.cat([x, x]), sigma=torch.cat([sigma, sigma]))
        positive, negative = both.chunk(2)
        return (negative + _GUIDANCE * (positive - negative)).chunk(len(xs))

    return denoise_rows


def section(shapes: dict[str, dict[str, Any]]) -> list[str]:
    """The section of gpu.md."""
    return [
        "## 6. Near KSampler on one GPU, rounds of a window as rows of one call",
        f"{STEPS} Euler steps, tolerance {TOLERANCE}: how many times as fast as one call after another (1 row: one "
        "core), in brackets the calls in a row. Models with random weights have no picture that could decide how many "
        f"calls it takes, so that they make as many as are expected. The goal is {GOAL} where 8 rows are nearly free. "
        "*Difference*: of the fastest, relative RMS from the result of every step.",
        "",
        *table(("model", "KSampler, ms", *map(_titled, ROW_COUNTS), "difference"), list(_lines(shapes))),
    ]


def _lines(shapes: dict[str, dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    for name, entry in shapes.items():
        found = entry.get("windows")
        if found is None:
            continue
        measured = {rows: found[str(rows)] for rows in ROW_COUNTS if str(rows) in found}
        cells = {rows: f"{found['ksampler_ms'] / each['ms']:.2f} ({each['rounds']})" for rows, each in measured.items()}
        best = min(measured, key=lambda rows: measured[rows]["ms"], default=None)
        if best is not None:
            cells[best] = f"**{cells[best]}**"
        difference = None if best is None else measured[best]["difference"]
        usual = "guided" if entry["guided"] else "unguided"
        yield (
            f"{name}, {usual}",
            f"{found['ksampler_ms']:.0f}",
            *(cells.get(rows, "not measured") for rows in ROW_COUNTS),
            "" if difference is None else f"{difference:.4f}",
        )


def _titled(rows: int) -> str:
    return f"{rows} row" if rows == 1 else f"{rows} rows"
