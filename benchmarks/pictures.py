"""The README's pictures, from a live ComfyUI: stock and CHORDS side by side, and the timeline of a run.

    .venv/bin/python benchmarks/pictures.py

Needs `python scripts/test.py --setup-only` once. Writes docs/images/demo.png and docs/images/report.png; the timeline
is that of a model that sleeps for 40 ms a call: for the host this is like a model on other devices.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO), str(REPO / "scripts"), str(REPO / "tests" / "host")]

from client import ComfyClient
from graphs import Graph, demo, empty_latent, lanes, settings

from benchmarks._live import picture_of, server_with_test_nodes
from benchmarks._report import INK, PAPER

IMAGES = REPO / "docs" / "images"
STEPS = 20
PROMPTS = (
    "a big yellow star on the left, black background",
    "a big blue ring at the top and a small white circle at the bottom, green background",
    "a red circle, blue background",
)
COLUMNS: tuple[tuple[str, dict[str, Any]], ...] = (  # caption, CHORDS inputs (none: the stock sampler)
    (f"KSampler,\n{STEPS} steps", {}),
    ("one device,\nfidelity near", {"cores": 1, "fidelity": "near"}),
    ("4 devices,\nwindow", {"cores": 4}),
    ("8 devices,\nwindow", {"cores": 8}),
    ("4 devices, CHORDS,\nfirst result", {"cores": 4, "accept": "first", "method": "CHORDS"}),
)
TILE, GAP, CAPTION, LABEL = 168, 12, 46, 190


def main() -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    with server_with_test_nodes() as server:
        client = server.client()
        rows = [[_sample(client, prompt, seed, chords) for _, chords in COLUMNS] for seed, prompt in enumerate(PROMPTS)]
        report = _report(client)
    _sheet(rows).save(IMAGES / "demo.png", optimize=True)
    report.save(IMAGES / "report.png", optimize=True)


def _report(client: ComfyClient) -> Image.Image:
    """The timeline of a run on eight lanes: the second run, since the first one prepares the lanes."""
    for seed in range(2):
        graph = Graph()
        inputs = demo(graph) | settings(seed=seed, steps=50) | {"latent_image": empty_latent(graph)}
        inputs["model"] = graph.add("TestSleepingModel", model=inputs["model"], milliseconds=40.0)
        chosen = {"cores": 8, "accept": "second", "method": "CHORDS"}
        sampler = graph.add("ChordsKSampler", **inputs, **chosen, devices=lanes(graph, 8))
        report = graph.add("ChordsReport", run=sampler[1])
        run = client.run(graph.nodes)
    picture = picture_of(client, run, report.name)
    return picture.resize((picture.width * 2 // 3, picture.height * 2 // 3), Image.Resampling.LANCZOS)


def _sample(client: ComfyClient, prompt: str, seed: int, chords: dict[str, Any]) -> tuple[Image.Image, int]:
    """The picture, and the number of model calls in a row for it."""
    graph = Graph()
    inputs = demo(graph, prompt)
    shared = inputs | settings(seed=seed, steps=STEPS) | {"latent_image": empty_latent(graph)}
    devices = {"devices": lanes(graph, 2)} if chords else {}
    sampler = graph.add("ChordsKSampler" if chords else "KSampler", **shared, **chords, **devices)
    decoded = graph.add("VAEDecode", samples=sampler, vae=[inputs["model"][0], 1])
    shown = graph.add("PreviewImage", images=decoded)
    run = client.run(graph.nodes)
    depth = run.outputs[sampler.name]["chords"][0]["depth"] if chords else shared["steps"]
    return picture_of(client, run, shown.name), depth


def _sheet(rows: list[list[tuple[Image.Image, int]]]) -> Image.Image:
    width = LABEL + len(COLUMNS) * (TILE + GAP)
    sheet = Image.new("RGB", (width, CAPTION + len(rows) * (TILE + GAP)), PAPER)
    draw = ImageDraw.Draw(sheet)
    bold, plain = ImageFont.load_default(15), ImageFont.load_default(13)
    for number, (caption, _) in enumerate(COLUMNS):
        draw.multiline_text((LABEL + number * (TILE + GAP), 6), caption, INK, bold)
    for number, (prompt, row) in enumerate(zip(PROMPTS, rows, strict=True)):
        top = CAPTION + number * (TILE + GAP)
        draw.multiline_text((GAP, top + 6), _wrapped(prompt, plain, LABEL - 2 * GAP), INK, plain)
        for position, (picture, depth) in enumerate(row):
            left = LABEL + position * (TILE + GAP)
            sheet.paste(picture.resize((TILE, TILE), Image.Resampling.LANCZOS), (left, top))
            calls = f"{depth} calls in a row"
            box = draw.textbbox((left + 8, top + TILE - 24), calls, plain)
            draw.rectangle((box[0] - 5, box[1] - 3, box[2] + 5, box[3] + 3), PAPER)
            draw.text((left + 8, top + TILE - 24), calls, INK, plain)
    return sheet


def _wrapped(text: str, font: Any, width: int) -> str:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)


if __name__ == "__main__":
    main()
