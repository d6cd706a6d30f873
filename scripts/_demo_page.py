"""What scripts/demo.py tells: a summary for the terminal, and a page with the pictures."""

from __future__ import annotations

import html
import shutil
import textwrap
from pathlib import Path
from typing import Any

Json = dict[str, Any]

MAX_WIDTH, INDENT = 100, "   "
CONTRAST = 10  # how many times stronger the picture of a difference is
STYLE = """
:root { color-scheme: light dark; }
body { margin: 0 auto; max-width: 920px; padding: 24px 16px 64px; font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5em; } h2 { margin-top: 2em; font-size: 1.15em; }
.lead { font-size: 1.15em; font-weight: 600; }
.row { display: grid; grid-template-columns: repeat(3, minmax(100px, 1fr)); gap: 12px; }
.small { grid-template-columns: repeat(auto-fill, minmax(108px, 1fr)); }
figure { margin: 0; }
img { width: 100%; border-radius: 6px; display: block; }
figcaption { font-size: .88em; margin-top: 4px; }
code { font-size: .95em; }
.note { opacity: .75; font-size: .9em; }
"""


def percent(value: float) -> str:
    """How far a picture is from KSampler's; what is not zero never reads as zero."""
    if value == 0:
        return "KSampler's picture, bit for bit"
    return f"{value:.1%} from KSampler's picture" if value >= 0.001 else "less than 0.1% from KSampler's picture"


def fewer(found: Json, name: str) -> str:
    """How many times fewer calls in a row a run takes than KSampler."""
    return f"{found['ksampler']['depth'] / found[name]['depth']:.1f}x fewer"


def headlines(found: Json) -> list[tuple[str, str]]:
    """For each part: what it is, and in one sentence what was gained."""
    stock, near, window, stream = (found[name] for name in ("ksampler", "one_gpu_near", "four_gpus", "stream"))
    first = next(result for result in stream["results"] if result["depth"] < stream["depth"])
    before, after = found["search"]["objective"]
    return [
        (
            "One GPU, fewer model calls",
            f"{near['depth']} model calls instead of {stock['depth']}, {fewer(found, 'one_gpu_near')}: "
            f"{near['seconds']:.2f} s instead of {stock['seconds']:.2f} s, {percent(near['difference'])}.",
        ),
        (
            "Watch the picture arrive",
            f"Four devices: a draft is there after {first['depth']} of {stream['depth']} calls in a row, and you can"
            f" take any result. The last one: {percent(stream['difference'])}.",
        ),
        (
            "Several GPUs, one picture",
            f"Four devices: {window['depth']} calls in a row instead of {stock['depth']}, "
            f"{fewer(found, 'four_gpus')}, {percent(window['difference'])}.",
        ),
        (
            "Change the picture by its initial noise",
            f"The same prompt and model, another noise: {found['search']['iterations']} iterations "
            f"({found['search']['seconds']:.0f} s) took the objective, blue edges, from {before:.2g} to"
            f" {after:.2g} (0: met).",
        ),
    ]


SETTINGS = (
    "KSampler (CHORDS) in place of KSampler, fidelity: near. All other inputs keep their defaults.",
    "cores: 4, fidelity: exact, CHORDS Devices, and CHORDS Stream Preview at the second output of the sampler.",
    "cores: 4, fidelity: near, and CHORDS Devices.",
    "SDO Latent Optimizer with SDO Objective: Colour.",
)


def notes(found: Json) -> list[str]:
    """What one has to know to judge the figures."""
    runs = f"median of {found['repeats']} runs" if found["repeats"] > 1 else "one run"
    return [
        f"Measured now, with a tiny demo model on the CPU ({found['processors']} processor cores). Seconds: the sampler"
        f" node alone, {runs}. A distance is the relative RMS difference of the latents;"
        " below 2% few people can tell two pictures apart.",
        "The four devices are lanes of this CPU. They show the calls, not the speed: for that, each needs a GPU.",
        "How many calls a picture takes depends on the picture and the model. CHORDS Benchmark measures it for yours.",
    ]


def summary(found: Json) -> str:
    """For the terminal, whose width it keeps."""
    parts = zip(headlines(found), SETTINGS, strict=True)
    width = min(MAX_WIDTH, shutil.get_terminal_size().columns)

    def filled(text: str, indent: str = "") -> str:
        return textwrap.fill(text, width, initial_indent=indent, subsequent_indent=indent)

    lines = [
        "\n".join([f"{number}. {title}", filled(gained, INDENT), filled(f"Set: {setting}", INDENT)])
        for number, ((title, gained), setting) in enumerate(parts, start=1)
    ]
    return "\n\n".join([*lines, *(filled(note) for note in notes(found))])


def page(found: Json) -> str:
    """A page of its own, beside the pictures that it shows."""
    stock, near, window = (found[name] for name in ("ksampler", "one_gpu_near", "four_gpus"))
    search, results = found["search"], found["stream"]["results"]
    rows = [
        _row(
            (stock["picture"], f"KSampler: {stock['depth']} calls, {stock['seconds']:.2f} s"),
            (near["picture"], f"KSampler (CHORDS), near: {near['depth']} calls, {near['seconds']:.2f} s"),
            ("difference.png", f"Their difference, made {CONTRAST} times as strong"),
        ),
        _row(*((each["picture"], f"after {each['depth']} calls in a row") for each in results), small=True),
        _row(
            (stock["picture"], f"KSampler, one device: {stock['depth']} calls"),
            (window["picture"], f"four devices: {window['depth']} calls in a row, {window['evaluations']} in all"),
        ),
        _row((search["before"], "the noise of the seed"), (search["after"], "the noise that was found")),
    ]
    body = []
    for number, ((title, gained), setting, row) in enumerate(zip(headlines(found), SETTINGS, rows, strict=True), 1):
        lead = ' class="lead"' if number == 1 else ""
        body.append(
            f"<h2>{number}. {html.escape(title)}</h2>\n<p{lead}>{html.escape(gained)}</p>\n{row}\n"
            f'<p class="note">Set: {html.escape(setting)}</p>'
        )
    told = "\n".join(f'<p class="note">{html.escape(note)}</p>' for note in notes(found))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>What ComfyUI-CHORDS does</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        "<h1>What ComfyUI-CHORDS does, measured on this machine with a tiny demo model</h1>\n"
        + "\n".join(body)
        + f"\n<hr>\n{told}\n"
        "</body>\n</html>\n"
    )


def _row(*pictures: tuple[str, str], small: bool = False) -> str:
    """Pictures with their captions, side by side."""
    figures = "\n".join(
        f'<figure><img src="{html.escape(file)}" alt="{html.escape(caption)}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        for file, caption in pictures
    )
    return f'<div class="row{" small" if small else ""}">\n{figures}\n</div>'


def magnified(first: Path, second: Path, file: Path) -> None:
    """Save the difference of two pictures, stronger, so that it can be seen."""
    from PIL import Image, ImageChops

    pictures = [Image.open(path).convert("RGB") for path in (first, second)]
    ImageChops.difference(*pictures).point(lambda value: min(255, CONTRAST * value)).save(file)
