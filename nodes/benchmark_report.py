"""A benchmark as JSON, and as what its picture shows."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any

from .host.benchmark.results import BenchmarkResult, BenchmarkRow, TimedResult
from .host.phrases import Phrase, counted_phrase
from .host.sampling.ksampler import KSamplerInputs
from .plots.comparison import Comparison, Shown, decibels, percent
from .plots.drawing import duration
from .plots.language import joined, translated
from .recommendation import RULE, Entry, Verdict, verdict_of


def report_of(result: BenchmarkResult, inputs: KSamplerInputs) -> dict[str, Any]:
    """A benchmark as JSON. docs/benchmark.md says what each field means."""
    verdict = verdict_of_result(result)
    place = verdict.place
    best = result.rows[place]
    return {
        "headline": verdict.headline,
        "advice": verdict.advice,
        "rule": RULE,
        "recommended": {"row": place, "name": best.name, **_node(best)},
        "task": {
            "model": result.key.model,
            "dtype": result.key.dtype,
            "latent": list(result.key.latent),
            "devices": list(result.key.devices),
            "sampler_name": inputs.sampler_name,
            "scheduler": inputs.scheduler,
            "steps": inputs.steps,
            "cfg": inputs.cfg,
            "denoise": inputs.denoise,
            "seed": inputs.seed,
        },
        "runs": result.runs,
        "seconds": result.seconds,
        "rows": [_row(row, result.rows[0]) for row in result.rows],
    }


def verdict_of_result(result: BenchmarkResult) -> Verdict:
    """What the benchmark recommends, and why."""
    return verdict_of(_entries(result))


def _row(row: BenchmarkRow, stock: BenchmarkRow) -> dict[str, Any]:
    summary = row.run.summary() if row.run else {}
    return {
        "name": row.name,
        **_node(row),
        "seconds": row.accepted.seconds,
        "all_seconds": list(row.seconds),
        "speedup": stock.accepted.seconds / row.accepted.seconds,
        "first": _result(row.first),
        "accepted": _result(row.accepted),
        "hits": _hits(row),
        **{key: summary.get(key) for key in _OF_THE_RUN},
        "lost_lanes": summary.get("lost_lanes", []),
    }


_OF_THE_RUN = ("method", "cores", "starts", "evaluations", "estimate", "devices", "message")


def _node(row: BenchmarkRow) -> dict[str, Any]:
    """The node that does the same, and its inputs beyond KSampler's."""
    if row.options is None:
        return {"node": "KSampler", "inputs": {}}
    return {"node": "ChordsKSampler", "inputs": row.options.inputs()}


def _result(timed: TimedResult) -> dict[str, Any]:
    fidelity = {name: _number(value) for name, value in asdict(timed.fidelity).items()}
    return {"core": timed.core, "depth": timed.depth, "seconds": timed.seconds, **fidelity}


def _hits(row: BenchmarkRow) -> list[dict[str, Any]]:
    if row.run is None or row.run.timeline is None:
        return []
    return [
        {"core": mark.core, "depth": mark.depth, "seconds": mark.seconds, "rmse": _number(rmse)}
        for mark, rmse in zip(row.run.timeline.hits, row.hits, strict=True)
    ]


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _entries(result: BenchmarkResult) -> list[Entry]:
    return [
        Entry(
            row.name,
            row.seconds,
            row.first.seconds,
            row.accepted.fidelity.rmse,
            row.accepted.fidelity.psnr,
            row.saves(result.rows[0].accepted.depth),
            row.run.message if row.run else "",
        )
        for row in result.rows
    ]


def comparison_of(result: BenchmarkResult, inputs: KSamplerInputs) -> Comparison:
    """A benchmark as what its picture shows."""
    entries, key = _entries(result), result.key
    verdict = verdict_of(entries)
    size = "x".join(map(str, key.latent))
    devices = ", ".join(key.devices)
    repeats = len(result.rows[0].seconds)
    timed = counted_phrase(repeats, "one timed run each", "medians of {count} runs each")
    about = Phrase(
        "{model} ({dtype}), latent {size}, {sampler}, {steps} steps, cfg {cfg}, on {devices}; {timed}",
        model=key.model,
        dtype=key.dtype,
        size=size,
        sampler=inputs.sampler_name,
        steps=inputs.steps,
        cfg=f"{inputs.cfg:g}",
        devices=devices,
        timed=timed,
    )
    pictures = _pictures(result, verdict.place)
    return Comparison(about, tuple(entries), verdict.place, verdict.headline, joined(verdict.reasons), pictures)


def _pictures(result: BenchmarkResult, best: int) -> tuple[Shown, ...]:
    """Every picture once, with the names of all settings that gave it."""
    shown: dict[bytes, Shown] = {}
    for place, row in enumerate(result.rows):
        for timed in [row.accepted] if row.first is row.accepted else [row.first, row.accepted]:
            accepted = timed is row.accepted
            label = row.name if accepted else Phrase("{name}: its first", name=row.name)
            known = shown.get(pixels := timed.picture.tobytes())
            if known is None:
                detail = _detail(timed) if place else duration(timed.seconds)
                shown[pixels] = Shown(label, detail, timed.picture, accepted and place == best)
            elif accepted:
                shown[pixels] = replace(known, also=(*known.also, label), best=known.best or place == best)
    return tuple(shown.values())


def _detail(timed: TimedResult) -> str:
    fidelity = timed.fidelity
    figures = (duration(timed.seconds), percent(fidelity.rmse), decibels(fidelity.psnr))
    return "  ·  ".join(map(translated, figures))
