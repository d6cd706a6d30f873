"""The page of a comparison: one HTML file that needs no other."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

from .figures import Round, Row, duration, percent, rule
from .session import Result
from .variants import STOCK

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2126; --faint: #5b6670; --paper: #fbfbf9; --card: #fff; --line: #d9dcd8;
  --best: #0b7a5b; --best-paper: #e9f5f0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaec; --faint: #a3adb5; --paper: #16191c; --card: #1f2428;
  --line: #363d43; --best: #5fd1ac; --best-paper: #1b3029; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1240px; padding: 24px 16px 64px; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 4px; } h2 { font-size: 1.15rem; margin: 40px 0 8px; }
p { margin: 6px 0; max-width: 92ch; } .faint { color: var(--faint); font-size: 0.9rem; }
.advice { background: var(--best-paper); border-left: 5px solid var(--best); padding: 12px 18px; margin: 20px 0;
  border-radius: 4px; } .advice p:first-child { font-size: 1.2rem; font-weight: 600; }
.wide { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; background: var(--card); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 0.92rem; }
th, td { text-align: right; padding: 8px 12px; border-top: 1px solid var(--line); white-space: nowrap; }
thead th { border-top: 0; vertical-align: bottom; font-weight: 600; white-space: normal; min-width: 86px; }
th:first-child { text-align: left; min-width: 190px; font-weight: 600; white-space: normal; }
td small, th small { display: block; color: var(--faint); font-weight: 400; font-size: 0.82rem; }
tr.best { background: var(--best-paper); }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); gap: 14px; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 6px; overflow: hidden; }
figure.best { border-color: var(--best); box-shadow: 0 0 0 1px var(--best); }
figure button { display: block; width: 100%; padding: 0; border: 0; background: none; cursor: pointer; }
figure img { display: block; width: 100%; height: auto; }
figcaption { padding: 8px 10px; font-size: 0.9rem; } figcaption small { display: block; color: var(--faint); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 18px; margin: 0; font-size: 0.92rem; }
dt { color: var(--faint); } dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 520px) { dl { grid-template-columns: 1fr; } dd { margin-bottom: 6px; }
  .pictures { grid-template-columns: 1fr 1fr; gap: 8px; } }
"""

_SCRIPT = """
for (const button of document.querySelectorAll("button[data-other]")) {
  const picture = button.querySelector("img"), own = picture.src;
  const show = (other) => { picture.src = other ? document.getElementById(button.dataset.other).src : own; };
  button.addEventListener("pointerdown", () => show(true));
  for (const end of ["pointerup", "pointerleave", "blur", "keyup"]) button.addEventListener(end, () => show(false));
  button.addEventListener("keydown", (event) => { if (event.key === " " || event.key === "Enter") show(true); });
}
"""


def page(result: Result) -> str:
    """The whole page."""
    parts = [
        "<h1>KSampler, CHORDS and peers on your workflow</h1>",
        f'<p class="faint">{escape(str(result.conditions.get("workflow")))}, {escape(_date(result))}</p>',
        ""
        if result.complete
        else "<p><strong>Stopped before the end:</strong> this is what was measured until then.</p>",
        _advice(result),
        "<h2>Figures</h2>",
        _table(result),
        *_pictures(result),
        "<h2>How to read it</h2>",
        _legend(result),
        _failed(result),
        "<h2>Conditions</h2>",
        _conditions(result),
    ]
    body = "\n".join(filter(None, parts))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Comparison: {escape(str(result.conditions.get('workflow')))}</title>\n"
        f"<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n<script>{_SCRIPT}</script>\n</body>\n</html>\n"
    )


def _date(result: Result) -> str:
    return str(result.conditions.get("date", "")).replace("T", " ").replace("+00:00", " UTC")


def _advice(result: Result) -> str:
    lines = [result.advice.sentence, *result.advice.cautions]
    said = result.rows[result.advice.place].message
    if said:
        lines.append(f"How it works here: {said}")
    return f'<section class="advice">{"".join(f"<p>{escape(line)}</p>" for line in lines)}</section>'


def _table(result: Result) -> str:
    memory = list(dict.fromkeys(device for row in result.rows for device in row.memory))
    heads = [
        "variant",
        "sampling<small>seconds: median (9 of 10)</small>",
        "speed<small>median (9 of 10)</small>",
        "first picture<small>seconds</small>",
        "whole prompt<small>seconds</small>",
        "difference of the picture<small>90 % / worst</small>",
        "PSNR<small>lowest, dB</small>",
        "calls in a row",
        *(f"memory<small>{escape(device)}, GB</small>" for device in memory),
    ]
    rows = [_row(row, place, result.advice.place, memory) for place, row in enumerate(result.rows)]
    head = "".join(f"<th>{each}</th>" for each in heads)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _row(row: Row, place: int, best: int, memory: Iterable[str]) -> str:
    rounds = "1 run" if row.rounds == 1 else f"{row.rounds} runs"
    overlap = "<small>runs overlap,<br>may be chance</small>" if place and row.overlaps else ""
    cells = [
        f"{_number(row.seconds)} <small>({_number(row.seconds_90)})</small>",
        f"{row.speed:.2f}x <small>({row.speed_90:.2f}x)</small>{overlap}" if place else "1",
        _number(row.first),
        _number(row.whole),
        f"{percent(row.difference_90)} / {percent(row.worst)}" if place else "",
        _decibels(row.psnr) if place else "",
        "" if row.calls is None else f"{row.calls:g}",
        *(f"{row.memory[device] / 1e9:.1f}" if device in row.memory else "" for device in memory),
    ]
    marked = ' class="best"' if place == best else ""
    name = f"{escape(row.name)}<small>{rounds}{', recommended' if place == best else ''}</small>"
    return f"<tr{marked}><th>{name}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _decibels(value: float) -> str:
    if value == float("inf"):
        return "equal"
    return "" if value == -float("inf") else f"{value:.1f}"


def _legend(result: Result) -> str:
    lines = [
        f"Recommended is {rule()}.",
        "Speed: KSampler's seconds over this variant's of the same round, which has the same seed. In brackets: what "
        "nine of ten rounds reach, of seconds and of speed. Runs overlap: the slowest of one took longer than the "
        "fastest of the other.",
        "First picture: from the beginning of the sampling to the first result that is shown (drafts and KSampler's "
        "noisy previews do not count), or to the end of the prompt.",
        "Difference: root mean square over all values of the picture, relative to KSampler's picture of the same seed. "
        "Above 40 dB PSNR pictures look alike, below 30 dB different, though not worse.",
        "Memory: the most in use at any time, as the server tells every half a second. It is that of all programs of "
        "the machine, and ComfyUI keeps models there between runs.",
    ]
    return "".join(f'<p class="faint">{escape(line)}</p>' for line in [*result.notes, *lines])


def _pictures(result: Result) -> Iterable[str]:
    if not result.pictures:
        return
    yield "<h2>Pictures</h2>"
    yield '<p class="faint">Hold a picture to see KSampler\'s in its place.</p>'
    for number, shown in sorted(result.pictures.items()):
        yield f"<h3>Seed {result.conditions['first_seed'] + number}</h3>"
        figures: list[str] = []
        for name, pictures in shown.items():
            done = result.rounds[name].get(number)
            if done is not None:
                figures += _figures(result, name, number, done, pictures)
        yield f'<div class="pictures">{"".join(figures)}</div>'


def _figures(result: Result, name: str, number: int, done: Round, pictures: list[str]) -> Iterable[str]:
    best = ' class="best"' if name == result.rows[result.advice.place].name else ""
    for place, address in enumerate(pictures):
        other = f"p{number}-{place}"
        apart = "" if name == STOCK else f", difference {percent(done.difference.rms)}"
        which = f" ({place + 1} of {len(pictures)})" if len(pictures) > 1 else ""
        caption = f"{escape(name + which)}<small>{duration(done.seconds)}{apart}</small>"
        mark = f' id="{other}"' if name == STOCK else ""
        image = f'<img src="{address}" alt="{escape(name)}"{mark}>'
        if name != STOCK:
            label = f"Hold to see KSampler's picture in place of that of {name}"
            image = f'<button data-other="{other}" aria-label="{escape(label)}">{image}</button>'
        yield f"<figure{best}>{image}<figcaption>{caption}</figcaption></figure>"


def _failed(result: Result) -> str:
    if not result.failed:
        return ""
    lines = "".join(f"<dt>{escape(name)}</dt><dd>{escape(why)}</dd>" for name, why in result.failed.items())
    return f"<h2>Left out, because they failed</h2><dl>{lines}</dl>"


def _conditions(result: Result) -> str:
    told: dict[str, Any] = dict(result.conditions)
    devices = [
        f"{device['name']}, {device['bytes'] / 1e9:.0f} GB" if device.get("bytes") else device["name"]
        for device in told["devices"]
    ]
    settings = [", ".join(f"{key} {value}" for key, value in each.items()) for each in told["settings"]]
    lines = {
        "date": _date(result),
        "workflow": told["workflow"],
        "models": ", ".join(told["models"]) or "none in a file",
        "settings": "; ".join(settings),
        "seeds": f"{told['rounds']} of {told['rounds_wanted']}, from {told['first_seed']}",
        "order": "one warm-up run of each variant with another seed; then they take turns, and each round begins with "
        "another one",
        "devices": "; ".join(devices),
        "memory": f"{told['ram_bytes'] / 1e9:.0f} GB of RAM" if told.get("ram_bytes") else "not known",
        "versions": f"ComfyUI {told['comfyui']}, Python {told['python']}, torch {told['torch']}, pack {told['chords']}",
        "system": told["os"],
        "arguments of ComfyUI": " ".join(told["arguments"]) or "none",
        "server": told["server"],
        "command": told["command"],
    }
    return f"<dl>{''.join(f'<dt>{escape(key)}</dt><dd>{escape(str(value))}</dd>' for key, value in lines.items())}</dl>"
