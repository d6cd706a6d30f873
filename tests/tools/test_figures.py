"""The figures of docs/how-it-works.md show what chords_core does, and can be drawn.

The counts of calls in this page and in docs/tuning.md are those of the planner, those in docs/measured.md are measured.

The runs need torch only. Drawing needs matplotlib, and is skipped without it.
"""

from __future__ import annotations

import importlib.util
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

import _figures_animation as animation
import _figures_runs as runs
import figures
import pytest
import torch
from _figures_style import WIDTH
from PIL import Image

from chords_core import hit_depth, plan, sample

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
PAGE = IMAGES.parent / "how-it-works.md"
TUNING = IMAGES.parent / "tuning.md"
MEASURED_PAGE = IMAGES.parent / "measured.md"
MEASURED = IMAGES.parents[1] / "benchmarks" / "results" / "tolerance.json"
NEAR, FAST = 0.01, 0.03  # the tolerances of these fidelities
STEPS = 12
DRAWS = importlib.util.find_spec("matplotlib") is not None


@pytest.fixture(scope="module")
def plane() -> runs.Subject:
    return runs.plane_subject(runs.paper_start(STEPS), STEPS)


def test_the_planes_model_is_the_mean_of_what_was_before_noise() -> None:
    """Against the average over many points of the three groups, weighted by how likely each leads there."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor(runs.CENTRES, dtype=torch.float64)
    data = centres.repeat_interleave(60_000, 0)
    data = data + runs.SPREAD * torch.randn(data.shape, generator=generator, dtype=torch.float64)
    for sigma in (0.3, 0.7):
        at = torch.tensor([[0.4, -0.3]], dtype=torch.float64)
        odds = torch.softmax(-(at - (1 - sigma) * data).square().sum(-1) / (2 * sigma**2), 0)
        assert torch.allclose(runs.plane_denoise(at, sigma), (odds @ data)[None], atol=0.02)


def test_the_cores_are_a_chords_run(plane: runs.Subject) -> None:
    starts = runs.start_indices(STEPS)
    run = runs.run_chords(plane, starts)
    assert len(starts) == runs.CORES
    assert [hit.depth for hit in run.result.hits[1:]] == [hit_depth(STEPS, starts, core) for core in (4, 3, 2, 1)]
    chain = runs.run_chain(plane)
    assert all(map(torch.equal, run.path(1), chain.states))
    for core, start in enumerate(starts, start=1):
        assert len(run.path(core)) == STEPS + 1 - start


def test_corrections_are_drawn_where_a_core_would_have_been_without(plane: runs.Subject) -> None:
    """On a path that bends, and with a good first hit, a correction brings a core nearer to the chain."""
    run, chain = runs.run_chords(plane, runs.start_indices(STEPS)), runs.run_chain(plane)
    assert {core for core, _ in run.corrected} == {2, 3, 4}
    for (core, index), (alone, got) in run.corrected.items():
        assert not torch.equal(alone, got)
        assert torch.equal(run.path(core)[index - run.starts[core - 1]], got)
    first = min(index for core, index in run.corrected if core == 2)
    alone, got = run.corrected[2, first]
    assert runs.difference(got, chain.states[first]) < runs.difference(alone, chain.states[first])


def test_a_window_shows_the_line_after_each_round(plane: runs.Subject) -> None:
    rounds, chain = runs.run_window(plane, runs.CORES), runs.run_chain(plane)
    assert len(rounds.lines) == len(rounds.windows) == rounds.result.depth < STEPS
    assert all(len(line) == STEPS + 1 for line in rounds.lines)
    assert all(len(nodes) <= runs.CORES for nodes in rounds.windows)
    assert {0, STEPS - 1} <= set().union(*rounds.windows) <= set(range(STEPS))
    assert torch.equal(rounds.lines[-1][-1], rounds.result.x)
    off = [runs.difference(line[-1], chain.states[-1]) for line in rounds.lines]
    assert off[-1] < 2 < 20 < off[0]
    same = sample(plane.denoise, plane.start, plane.sigmas, method="secant", cores=runs.CORES, tolerance=NEAR)
    assert torch.equal(same.x, rounds.result.x)


def test_frames_are_drawn_around_neighbours_only() -> None:
    assert runs.ranges((3, 4, 5)) == [(3, 6)]
    assert runs.ranges((0, 1, 5, 7, 8)) == [(0, 2), (5, 6), (7, 9)]


def test_a_range_is_told_where_runs_differ() -> None:
    assert (runs.in_words([11, 11]), runs.in_words([11, 10, 12])) == ("11", "10 to 12")


def test_calls_are_made_where_the_dots_are() -> None:
    steps = 30
    plane = runs.plane_subject(runs.paper_start(steps), steps)
    fewer, chain = runs.run_chain(plane, NEAR), runs.run_chain(plane)
    assert chain.nodes == list(range(steps))
    assert len(fewer.answers) == len(fewer.nodes) < steps and fewer.nodes[0] == 0 and fewer.nodes[-1] == steps - 1
    for node, state, answer in zip(fewer.nodes, fewer.states, fewer.answers, strict=False):
        assert torch.equal(plane.denoise(state, float(plane.sigmas[node])), answer)
    assert runs.difference(fewer.states[-1], chain.states[-1]) < 3


def test_attention_weights_are_what_attention_gives_for_unit_values() -> None:
    """With the values 1 for one token and 0 for all others, the output of an attention is the weights themselves."""
    generator = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(2, 1, 3, 7, 4, generator=generator).unbind()
    with runs.RecordedAttention() as recorded:
        given = torch.nn.functional.scaled_dot_product_attention(queries, keys, torch.eye(7).expand(1, 3, 7, 7))
    assert len(recorded.weights) == 1
    assert torch.allclose(recorded.weights[0], given[0].mean(0), atol=1e-6)


def test_tokens_attend_to_those_of_the_other_share() -> None:
    """So the exchange that the picture shows is needed: without it, these weights would be missing."""
    subject = runs.demo_subject(runs.CROSS, 1, STEPS, cfg=1.0)
    weights = runs.attention_weights(subject, subject.start, 0)
    assert weights.shape == (64, 64) and weights.sum(-1).max() < 1.001  # less what words take
    for own in (slice(0, 32), slice(32, 64)):
        assert weights[own].sum() > 1.05 * weights[own, own].sum()


def test_the_search_moves_towards_the_objective() -> None:
    done, found = runs.run_search(iterations=3, steps=4)
    assert [event.iteration for event in done] == [0, 1, 2]
    assert float(found.objective) < float(done[0].objective)


def test_the_animation_shows_every_round_once_and_corrections_twice(plane: runs.Subject) -> None:
    run = runs.run_chords(plane, runs.start_indices(STEPS))
    frames = animation.frames_of(run, STEPS)
    assert [frame.after for frame in frames if not frame.before_correction] == list(range(STEPS + 1))
    gaps = {core: run.starts[core - 1] - run.starts[core - 2] for core in (2, 3, 4)}
    due = {core - 1 + gaps[core] * count for core in gaps for count in range(1, STEPS)}
    shown = {frame.after for frame in frames if frame.before_correction}
    assert shown and shown <= due


def test_every_picture_of_the_page_is_one_of_the_scripts_and_small_enough() -> None:
    files = {file for file, _ in figures.DRAWN.values()}
    page = PAGE.read_text(encoding="utf-8")
    assert files == {file.name for file in IMAGES.glob("how-*")}
    for file in files:
        assert f"](images/{file})" in page
        assert (IMAGES / file).stat().st_size < 1.5e6
        with Image.open(IMAGES / file) as image:
            assert image.width in (800, 1600)
            assert image.convert("RGBA").getextrema()[3] == (255, 255)  # no see-through ground: GitHub may be dark
            assert getattr(image, "n_frames", 1) > 1 or file.endswith(".png")


def test_the_page_tells_the_counts_that_are_in_its_pictures() -> None:
    """For windows: the counts of the runs in the figures, since no plan knows them before."""
    page = " ".join(PAGE.read_text(encoding="utf-8").split())
    scale = runs.Scale()
    in_the_plane = runs.plane_subject(runs.paper_start(scale.steps), scale.steps)
    demo = runs.demo_subject(runs.STARS, runs.LUCKY, scale.steps)
    in_plane, rounds = (runs.run_window(subject, runs.CORES).result.depth for subject in (in_the_plane, demo))
    many = runs.demo_subject(runs.STAR, runs.FEW_STEPS_SEED, scale.many_steps)
    calls = len(runs.run_chain(many, runs.TOLERANCE).nodes)
    first_result = plan(scale.steps, runs.CORES, runs.CORES, accept=1, method="chords").depth
    assert f"the line after some of {in_plane} rounds in the plane" in page
    assert f"After {rounds} rounds of four calls" in page
    assert f"with the {calls} calls as dots; the pictures of both, and of {calls} steps" in page
    assert f"the first result comes after {first_result} calls in a row, the exact result after {scale.steps}" in page
    fewest, most = map(
        int, re.findall(rf"first result takes {first_result} calls in a row, the window (\d+) to (\d+)", page)[0]
    )
    assert fewest <= rounds <= most  # its ten starts include this one
    two, three, four, eight = (plan(20, lanes, tolerance=NEAR).depth for lanes in (2, 3, 4, 8))
    usual = f"about {two} calls in a row on two devices, {three} on three, {four} on four and {eight} on eight"
    assert usual in page


def _table(page: Path, head: str) -> list[list[float]]:
    """The numbers of a table, row by row."""
    rows = page.read_text(encoding="utf-8").split(f"{head}\n")[1].split("\n\n")[0].splitlines()[1:]
    return [[float(cell) for cell in re.findall(r"[\d.]+", row)] for row in rows]


def test_the_table_of_calls_in_a_row_is_the_planners() -> None:
    rows = _table(TUNING, "| lanes | `near`: 20 steps | 30 | 50 | `fast`: 20 steps | 30 | 50 |")
    assert [row[0] for row in rows] == [1, 2, 3, 4, 8]
    for lanes, *depths in rows:
        expected = [plan(steps, int(lanes), tolerance=off).depth for off in (NEAR, FAST) for steps in (20, 30, 50)]
        assert depths == expected


def test_the_table_of_measured_calls_in_a_row_is_the_measured_one() -> None:
    """To the nearest call."""
    rows = _table(MEASURED_PAGE, "| CFG | steps | 1 device | 2 | 4 | 8 |")
    assert [(cfg, steps) for cfg, steps, *_ in rows] == [(cfg, steps) for cfg in (1, 3.5, 8) for steps in (20, 50)]
    found = json.loads(MEASURED.read_text(encoding="utf-8"))
    mean_calls = {(each["cell"], each["cores"]): statistics.mean(each["calls"]) for each in found}
    for cfg, steps, *depths in rows:
        for cores, depth in zip((1, 2, 4, 8), depths, strict=True):
            mean = mean_calls[f"flow simple, {steps:g} steps, CFG {cfg:g}, euler", cores]
            assert abs(depth - mean) <= 0.51, (cfg, steps, cores, mean)


def test_without_matplotlib_it_says_what_to_install(repo: Path) -> None:
    hidden = "import sys; sys.modules['matplotlib'] = None; sys.argv = ['figures.py', '--check']; "
    program = f"{hidden}sys.path.insert(0, {str(repo / 'scripts')!r}); import figures; figures.main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=repo, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "the figures need matplotlib: pip install matplotlib\n"


@pytest.mark.skipif(not DRAWS, reason="NOT TESTED: the drawing of docs/images/how-*, for want of matplotlib")
@pytest.mark.parametrize("name", figures.DRAWN)
def test_each_picture_is_drawn(name: str, tmp_path: Path) -> None:
    (file,) = figures.draw([name], runs.SMALL, tmp_path)
    with Image.open(file) as image:
        assert image.width == WIDTH * runs.SMALL.dpi / (2 if file.suffix == ".gif" else 1)
        assert len(image.convert("RGB").getcolors(1 << 20)) > 20  # something is on the paper
