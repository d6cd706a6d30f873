"""What came of a comparison as JSON, and as a table for the terminal."""

from __future__ import annotations

import datetime
import math
from dataclasses import asdict
from typing import Any

from comfy_client import Json

from .figures import Row, duration, percent, rule
from .session import Result
from .variants import STOCK, Variant

FORMAT = 1
"""Of the JSON file. A change of a field's meaning gets another number."""
_SETTINGS = frozenset(
    "seed noise_seed steps cfg guidance sampler_name scheduler denoise add_noise start_at_step end_at_step "
    "return_with_leftover_noise shift max_shift base_shift width height length batch_size".split()
)
"""Inputs of any node that say how pictures are sampled, and how large they are. None of them can be a prompt."""
_MODEL_FILES = (".safetensors", ".sft", ".gguf", ".ckpt", ".pt", ".pth", ".bin")


def conditions_of(stats: Json, stock: Variant, server: str, workflow: str, version: str) -> Json:
    """All that a reader has to know to repeat a comparison."""
    system = stats.get("system", {})
    settings = [
        {key: value for key, value in node["inputs"].items() if key in _SETTINGS and not isinstance(value, list)}
        for node in stock.prompt.values()
    ]
    texts = [value for node in stock.prompt.values() for value in node["inputs"].values() if isinstance(value, str)]
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "workflow": workflow,
        "models": sorted({text for text in texts if text.lower().endswith(_MODEL_FILES)}),
        "settings": [each for each in settings if each],
        "server": server,
        "comfyui": system.get("comfyui_version"),
        "python": str(system.get("python_version", "")).split(" ")[0],
        "torch": system.get("pytorch_version"),
        "chords": version,
        "os": system.get("os"),
        "arguments": system.get("argv", [])[1:],
        "devices": [
            {"name": device.get("name"), "type": device.get("type"), "bytes": device.get("vram_total")}
            for device in stats.get("devices", [])
        ],
        "ram_bytes": system.get("ram_total"),
    }


def as_json(result: Result) -> Json:
    """A result for the JSON file: figures that are not finite are null. docs/operations.md says what each is."""
    seeds = sorted(result.rounds[STOCK])
    return finite(
        {
            "format": FORMAT,
            "complete": result.complete,
            "recommended": result.rows[result.advice.place].name,
            "advice": result.advice.sentence,
            "cautions": list(result.advice.cautions),
            "rule": rule(),
            "conditions": result.conditions,
            "notes": list(result.notes),
            "failed": dict(result.failed),
            "rows": [
                {
                    **asdict(row),
                    "runs": [
                        {"round": number + 1, **asdict(result.rounds[row.name][number])}
                        for number in seeds
                        if number in result.rounds[row.name]
                    ],
                }
                for row in result.rows
            ],
        }
    )


def finite(value: Any) -> Any:
    """The same value with null for what JSON cannot hold."""
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(result: Result) -> str:
    """The rows for the terminal; the recommended one has an arrow."""
    head = ("", "seconds", "speed", "first picture", "difference: 90 %, worst")
    body = [
        (
            ("-> " if place == result.advice.place else "") + row.name,
            f"{row.seconds:.3g}",
            speed(row) if place else "",
            duration(row.first),
            f"{percent(row.difference_90)}, {percent(row.worst)}" if place else "",
        )
        for place, row in enumerate(result.rows)
    ]
    widths = [max(len(line[column]) for line in (head, *body)) for column in range(len(head))]
    lines = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in (head, *body)]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def speed(row: Row) -> str:
    """The speed beside KSampler's. Where runs overlap, it may be chance."""
    return f"{row.speed:.2f}x" + (" (runs overlap)" if row.overlaps else "")
