"""The README and the docs: links work in the published package, figures are measured ones, it stays short."""

from __future__ import annotations

import io
import json
import re
import statistics
from pathlib import Path

import pytest
import torch
from _screenshot_files import THUMBNAIL, animate, thumbnail
from PIL import Image

REPO = Path(__file__).resolve().parents[2]
README = REPO / "README.md"
PAGES = [README, REPO / "CHANGELOG.md", *sorted((REPO / "docs").glob("*.md"))]
RESULTS = REPO / "benchmarks" / "results"
MAX_WORDS = 800
MAX_ANIMATION_BYTES = 2_000_000
LINK = re.compile(r"\]\((?P<md>[^)\s]+)\)|(?:src|href)=\"(?P<html>[^\"]+)\"")


def links_of(page: str) -> list[str]:
    """The addresses of a page's links and pictures, without code blocks."""
    page = re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL)
    return [found["md"] or found["html"] for found in LINK.finditer(page)]


def anchors_of(page: str) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def words_of(page: str) -> int:
    """About how many words a reader sees: no pictures, addresses, code blocks, or signs of tables."""
    page = re.sub(r"!\[[^]]*\]\([^)]*\)|<img [^>]*>|^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL)
    page = re.sub(r"\]\([^)]*\)", "]", page)
    return sum(bool(re.search(r"\w", word)) for word in page.split())


def left_out() -> list[str]:
    """Folders and files of the root that the published package does not have."""
    lines = (REPO / ".comfyignore").read_text(encoding="utf-8").splitlines()
    return [line.strip("/") for line in lines if line and not line.startswith("#")]


def table(page: str, head: str) -> list[list[str]]:
    """The cells of a table below its head, row by row."""
    lines = page.split(f"{head}\n")[1].split("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_and_pictures_are_in_the_published_package(path: Path) -> None:
    missing = []
    for link in links_of(path.read_text(encoding="utf-8")):
        if link.startswith(("https://", "mailto:")):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        inside = target.is_relative_to(REPO) and target.relative_to(REPO).parts[0] not in left_out()
        if not inside or not target.is_file():
            missing.append(link)
        elif anchor and anchor not in anchors_of(target.read_text(encoding="utf-8")):
            missing.append(link)
    assert not missing, f"{path.name}: {missing}"


def test_a_link_out_of_the_package_is_found() -> None:
    text = '[a](benchmarks/results/peers.md) ![b](docs/b.png) <img src="c.png">\n```\n[d](e)\n```\n'
    assert links_of(text) == ["benchmarks/results/peers.md", "docs/b.png", "c.png"]
    assert "benchmarks" in left_out() and "tests" in left_out()


def test_nothing_has_to_be_filled_in() -> None:
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"REPOSITORY_URL|<(your|this)[- ]|example\.com|github\.com/(you|USER|OWNER)\b", text), path


def test_the_readme_is_short() -> None:
    text = README.read_text(encoding="utf-8")
    assert words_of(text) <= MAX_WORDS, words_of(text)
    pictures = [link for link in links_of(text) if link.endswith((".png", ".gif"))]
    assert len(pictures) > 10
    assert (REPO / pictures[1]).suffix == ".gif"
    assert (REPO / pictures[1]).stat().st_size < MAX_ANIMATION_BYTES
    with Image.open(REPO / pictures[1]) as animation:
        seconds = 0.0
        for frame in range(animation.n_frames):
            animation.seek(frame)
            seconds += animation.info["duration"] / 1000
    assert 8 < seconds < 12


def _png(colour: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(out, "PNG")
    return out.getvalue()


def test_an_animation_takes_ten_seconds_and_shows_each_picture_once(tmp_path: Path) -> None:
    frames = [(0.0, "red"), (5.0, "red"), (10.0, "blue"), (20.0, "blue"), (40.0, "green")]
    animate([(seconds, _png(colour)) for seconds, colour in frames], tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as animation:
        lengths = []
        for frame in range(animation.n_frames):
            animation.seek(frame)
            lengths.append(animation.info["duration"])
    assert len(lengths) == 3
    assert sum(lengths) == pytest.approx(10_000, abs=30)
    assert lengths[1] == pytest.approx(3 * lengths[0], abs=30)


def test_a_thumbnail_shows_the_top_of_a_node_or_all_of_it() -> None:
    picture = Image.new("RGB", (900, 900))
    assert thumbnail(picture, (100, 50, 400, 850), whole=False).size == (THUMBNAIL, THUMBNAIL * 3 // 4)
    assert thumbnail(picture, (100, 50, 400, 150), whole=False).size == (THUMBNAIL, THUMBNAIL // 3)
    assert thumbnail(picture, (100, 50, 400, 650), whole=True).size == (THUMBNAIL // 2, THUMBNAIL)


def test_the_commands_of_demo_and_tests_can_be_pasted() -> None:
    text = README.read_text(encoding="utf-8")
    for script in ("demo.py", "test.py"):
        assert f"\npython3 scripts/{script} " in text
        assert (REPO / "scripts" / script).is_file()


def _measured(results: str, cell: str, cores: int) -> tuple[float, float, float]:
    """Calls in a row (mean), and the errors' 90th percentile and worst in percent."""
    (found,) = [
        each
        for each in json.loads((RESULTS / results).read_text(encoding="utf-8"))
        if each["cell"] == cell and each["cores"] == cores
    ]
    errors = torch.tensor(found["errors"]) * 100
    return statistics.mean(found["calls"]), float(errors.quantile(0.9)), float(errors.max())


def test_the_table_of_distances_is_the_measured_one() -> None:
    rows = table(README.read_text(encoding="utf-8"), "| | calls in a row | nine of ten within | worst |")
    assert any(row[0].startswith("CFG 8") for row in rows)  # strong guidance, too
    numbers = {"one device": 1, "two cores": 2, "four cores": 4}
    for case, *cells in rows:
        cfg, devices = case.removeprefix("CFG ").split(", ")
        calls, ninetieth, worst = _measured(
            "tolerance_other_seed.json", f"flow simple, 20 steps, CFG {cfg}, euler", numbers[devices]
        )
        told = [float(cell.rstrip(" %")) for cell in cells]
        assert abs(told[0] - calls) <= 0.5
        assert told[1:] == [round(ninetieth, 1), round(worst, 1)], case


def test_other_figures_of_the_readme_are_measured_ones() -> None:
    text = " ".join(README.read_text(encoding="utf-8").split())
    for steps, cfg in ((20, "3.5"), (20, "8"), (50, "3.5")):
        cell = f"flow simple, {steps} steps, CFG {cfg}, euler"
        demo = [_measured(file, cell, 1)[0] for file in ("tolerance.json", "tolerance_other_seed.json")]
        emoji, *_ = _measured("tolerance_emoji.json", f"emoji {cell}", 1)
        (few, many) = re.findall(rf"(\d+) to (\d+) of {steps} (?:calls )?at CFG {re.escape(cfg)}", text)[0]
        assert abs(int(few) - min(demo)) <= 0.5 and abs(int(many) - emoji) <= 0.5, cell
    four, *_ = _measured("tolerance.json", "flow simple, 20 steps, CFG 1, euler", 4)
    pairs, *_ = _measured("tolerance.json", "flow simple, 20 steps, CFG 3.5, euler", 2)
    emoji, *_ = _measured("tolerance_emoji.json", "emoji flow simple, 20 steps, CFG 1, euler", 4)
    assert f"{four:.0f} to {emoji:.0f} of 20 calls in a row at CFG 1; {pairs:.0f} of 20 at CFG 3.5" in text
    _, ninetieth, worst = _measured("tolerance_emoji.json", "emoji flow simple, 20 steps, CFG 8, euler", 1)
    assert f"nine of ten within {ninetieth:.1f} %, worst {worst:.1f} %" in text


def test_the_comparison_quotes_the_measured_table() -> None:
    """Each cell of docs/comparison.md is in benchmarks/results/peers.md."""
    page = (REPO / "docs" / "comparison.md").read_text(encoding="utf-8")
    measured = (RESULTS / "peers.md").read_text(encoding="utf-8").replace("**", "")
    rows = table(page, "| Euler, flow model | ours, `near` | TeaCache | EasyCache | LazyCache | fewer steps |")
    first_tables = [line for line in measured.splitlines() if line.startswith("| flow simple")]
    lines = {line.strip("| ").split(" | ")[0]: line for line in reversed(first_tables)}
    for case, *cells in rows:
        line = lines[f"flow simple, {case}, euler"]
        for cell in cells:
            assert cell in line, (case, cell)


def test_every_result_is_in_the_list_of_results() -> None:
    rows = table((REPO / "docs" / "measured.md").read_text(encoding="utf-8"), "| NAME | what it shows |")
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row[0])}
    assert named == {path.stem for path in RESULTS.glob("*.md")}
