"""`calls` on a live ComfyUI with the demo model, on one device: time and distance from KSampler, and pictures.

    .venv/bin/python benchmarks/fewer_calls.py

Needs `python scripts/test.py --setup-only` once. Writes benchmarks/results/fewer_calls.md and docs/images/calls.png.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO), str(REPO / "scripts"), str(REPO / "tests" / "host"), str(REPO / "benchmarks")]

import host
from _server import ComfyServer
from client import ComfyClient
from graphs import Graph, demo, empty_latent, settings
from live_host import CFG, PROMPTS

from benchmarks._live import latent_of, picture_of
from benchmarks._report import INK, PAPER, RESULTS, Table, command, machine, write

PICTURE = REPO / "docs" / "images" / "calls.png"
OPEN = (  # the model chooses places and sizes, which makes pictures more sensitive
    "a yellow star, blue background",
    "a red circle",
    "a green square and a blue ring, white background",
    "a purple cross on a yellow background",
)
SAMPLERS = ("euler", "dpmpp_2m", "res_multistep", "uni_pc")
STEPS = (20, 30, 50)
SHOWN = 50  # steps, in the picture
TILE, GAP, CAPTION = 150, 10, 28


@dataclass(frozen=True)
class Compared:
    """One picture by both nodes.

    ``calls``: model calls of ours. ``difference``: relative RMSE of the latents. ``time``: ours over KSampler's.
    """

    calls: int
    difference: float
    time: float
    stock: Image.Image
    ours: Image.Image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=4, help="how many of each kind of prompts, 1 to 4 (default 4)")
    count = parser.parse_args().prompts
    prompts = (*PROMPTS[:count], *OPEN[:count])
    table = Table(
        "sampler", "steps", "model calls", "difference, places named", "open", "largest", "time of KSampler's"
    )
    with ComfyServer(host.prepare(), threads=1) as server:
        client = server.client()
        _compared(server, client, PROMPTS[0], "euler", 4, 99)  # warms up
        for sampler in SAMPLERS:
            for steps in STEPS:
                runs = [_compared(server, client, text, sampler, steps, seed) for seed, text in enumerate(prompts)]
                differences = [run.difference for run in runs]
                named, left_open = (statistics.median(part) for part in (differences[:count], differences[count:]))
                time = statistics.median(run.time for run in runs)
                told = f"{named:.4f}", f"{left_open:.4f}", f"{max(differences):.4f}", f"{time:.2f}"
                table.add(sampler, steps, runs[0].calls, *told)
                if (sampler, steps) == ("euler", SHOWN):
                    _sheet([*runs[:3], *runs[count : count + 3]]).save(PICTURE, optimize=True)
    report = [
        "# Fewer model calls than steps, on one device",
        "",
        f"{command()}, {machine(threads=1)}.",
        "",
        f"KSampler (CHORDS) with `calls` at auto against KSampler with the same steps and seed: relative RMSE of the "
        f"latent, and wall time of the node, one after the other in one server; demo model, CFG {CFG}, scheduler "
        f"simple, shift 3. Medians over {count} prompts that name sizes and places, and over {count} that leave them "
        "open; the largest of all.",
        "",
        *table.lines,
    ]
    write(RESULTS / "fewer_calls.md", report)


def _compared(server: ComfyServer, client: ComfyClient, text: str, sampler: str, steps: int, seed: int) -> Compared:
    graph = Graph()
    shared = demo(graph, text) | settings(sampler, seed=seed, steps=steps, cfg=CFG)
    shared["latent_image"] = empty_latent(graph)
    nodes = {"stock": graph.add("KSampler", **shared), "ours": graph.add("ChordsKSampler", **shared, calls="auto")}
    shown = {}
    for key, node in nodes.items():
        graph.save(key, node)
        decoded = graph.add("VAEDecode", samples=node, vae=[shared["model"][0], 1])
        shown[key] = graph.add("PreviewImage", images=decoded).name
    run = client.run(graph.nodes)
    latents = {key: latent_of(server, run, graph.saved[key]) for key in nodes}
    pictures = {key: picture_of(client, run, name) for key, name in shown.items()}
    seconds = {key: run.node_seconds(node.name) for key, node in nodes.items()}
    return Compared(
        run.outputs[nodes["ours"].name]["chords"][0]["evaluations"],
        float((latents["ours"] - latents["stock"]).norm() / latents["stock"].norm()),
        seconds["ours"] / seconds["stock"],
        pictures["stock"],
        pictures["ours"],
    )


def _sheet(runs: list[Compared]) -> Image.Image:
    """Two rows of pictures, KSampler's above ours."""
    height = 2 * (CAPTION + TILE + GAP)
    sheet = Image.new("RGB", (GAP + len(runs) * (TILE + GAP), height), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    captions = (f"KSampler, {SHOWN} steps: {SHOWN} model calls", f"calls at auto: {runs[0].calls} model calls")
    for row, caption in enumerate(captions):
        top = row * (CAPTION + TILE + GAP)
        draw.text((GAP, top + 6), caption, INK, font)
        for column, run in enumerate(runs):
            picture = (run.ours if row else run.stock).resize((TILE, TILE), Image.Resampling.LANCZOS)
            sheet.paste(picture, (GAP + column * (TILE + GAP), top + CAPTION))
    return sheet


if __name__ == "__main__":
    main()
