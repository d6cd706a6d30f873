"""The interactive page of docs/how-it-works.md: its JavaScript computes what `chords_core` computes.

It runs in Node.js where there is one, and else in Chromium. tests/web/test_interactive.py opens the page itself.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from _browser import NoBrowser, ensure_chromium
from _env import say
from playwright.sync_api import sync_playwright
from torch import Tensor

from benchmarks._token_split_costs import Exchange, Way, load_costs
from chords_core import Agreement, Chords, Evaluation, Event, Window, lattice_starts, simulate, tolerance_window
from chords_core.methods.events import Hit
from chords_core.methods.stepping_rule import SteppingRule
from chords_core.methods.window_rule import Measured, MovingRule, Progress
from chords_core.simulated_devices import ETHERNET_1, ETHERNET_10, ETHERNET_100, LOCAL, NVLINK, PCIE, Device
from chords_core.solvers import EULER

Json = dict[str, Any]
Compute = Callable[[str, object], Any]
"""Calls a JavaScript function, given as its text, with one argument."""

LINKS = {
    "local": LOCAL,
    "nvlink": NVLINK,
    "pcie": PCIE,
    "ethernet100": ETHERNET_100,
    "ethernet10": ETHERNET_10,
    "ethernet1": ETHERNET_1,
}
MODELS = {"picture": "Flux dev 12B, 1024x1024", "video": "Wan 2.1 14B, 832x480, 81 frames"}
AGREEMENT = 0.05
TOLERANCE = 1e-6
NODE = """
const fs = require("fs"), vm = require("vm");
const [files, text, argument] = JSON.parse(fs.readFileSync(0, "utf8"));
for (const file of files) vm.runInThisContext(fs.readFileSync(file, "utf8"), file);
console.log(JSON.stringify(vm.runInThisContext(`(${text})`)(argument)));
"""
RUN = """(cases) => cases.map((each) => {
  const x = CHORDS.initialNoise(each.seed);
  const found = CHORDS.run({ ...each, x });
  return { ...found, start: [...x], x: [...found.x], hits: found.hits.map((hit) => ({ ...hit, x: [...hit.x] })) };
})"""


@pytest.fixture(scope="module")
def compute(repo: Path) -> Iterator[Compute]:
    """The page's scripts without the page, in Node.js or else in Chromium."""
    page = repo / "docs" / "interactive" / "index.html"
    names = re.findall(r'<script src="([^"]+)"', page.read_text(encoding="utf-8"))
    files = [str(page.parent / name) for name in names if name not in {"figures.js", "page.js"}]
    assert len(files) > 5
    node = shutil.which("node")
    if node is not None:
        yield partial(_in_node, node, files)
        return
    with _in_chromium(files) as evaluate:
        yield evaluate


def _in_node(node: str, files: Sequence[str], text: str, argument: object) -> Any:
    given = json.dumps([files, text, argument])
    done = subprocess.run([node, "-e", NODE], input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@contextlib.contextmanager
def _in_chromium(files: Sequence[str]) -> Iterator[Compute]:
    try:
        program = ensure_chromium()
    except NoBrowser as error:
        say(f"THE METHODS OF THE INTERACTIVE PAGE ARE NOT COMPARED: there is no Node.js, and {error}")
        pytest.skip(f"there is no Node.js, and {error}")
    arguments = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(program), args=arguments)
        tab = browser.new_page()
        for file in files:
            tab.add_script_tag(path=file)
        yield tab.evaluate
        browser.close()


def _denoise(guidance: float) -> Callable[[Tensor, float], Tensor]:
    """The guided flow of the page: points of the plane near eight centres, of which the prompt names every second."""
    angles = torch.arange(8, dtype=torch.float64) * math.pi / 4
    circle = torch.stack([angles.cos(), angles.sin()], 1)
    centres, spread = circle.new_tensor([0.3, -0.2]) + 1.9 * circle, 0.3

    def mean(x: Tensor, t: float, centres: Tensor) -> Tensor:
        variance = ((1 - t) * spread) ** 2 + t**2
        offsets = x[:, None] - (1 - t) * centres
        odds = torch.softmax(-offsets.square().sum(-1) / (2 * variance), -1)
        return (odds[..., None] * (centres + (1 - t) * spread**2 / variance * offsets)).sum(1)

    def denoise(x: Tensor, t: float) -> Tensor:
        points = x.reshape(-1, 2)
        prompted, whole = mean(points, t, centres[::2]), mean(points, t, centres)
        return (whole + guidance * (prompted - whole)).reshape(x.shape)

    return denoise


class _WithModel:
    """A method whose calls are answered by a model, whatever the imagined pool returns."""

    def __init__(self, method: Chords | Window, denoise: Callable[[Tensor, float], Tensor]) -> None:
        self._method, self._denoise = method, denoise

    @property
    def accepted(self) -> Hit | None:
        return self._method.accepted

    def ready(self) -> list[Evaluation]:
        return self._method.ready()

    def complete(self, evaluation: Evaluation, denoised: Tensor) -> list[Event]:
        return self._method.complete(evaluation, self._denoise(evaluation.x, evaluation.sigma))

    def accept_hit(self, index: int | None = None) -> list[Event]:
        return self._method.accept_hit(index)


def _method(case: Json, x: Tensor, sigmas: Tensor) -> Chords | Window:
    steps, accept = case["steps"], case["accept"]
    if case["method"] in ("window", "fewer"):
        cores = case["cores"] if case["method"] == "window" else 1
        return Window(x, tolerance_window(sigmas, cores, EULER, case["tolerance"]))
    starts = lattice_starts(steps, case["cores"]) if case["method"] == "chords" else [0]
    rule = min(accept, len(starts)) if isinstance(accept, int) else Agreement(accept["agreement"])
    return Chords(x, sigmas, starts, EULER, rule if case["method"] == "chords" else 1)


def _case(method: str, steps: int, cores: int, guidance: float, **others: object) -> Json:
    devices = [{"seconds": 1.0, "link": "local"}] * cores
    usual = {"tolerance": 0.01, "accept": 1, "seed": steps + cores, "devices": devices, "payload": 0}
    return {"method": method, "steps": steps, "cores": cores, "guidance": guidance, **usual, **others}


def _cases() -> Iterator[Json]:
    for steps, guidance in product((1, 2, 3, 7, 12, 20, 33, 50), (1.0, 3.5, 8.0)):
        yield _case("sequential", steps, 1, guidance)
        for tolerance in (0.01, 0.03):
            yield _case("fewer", steps, 1, guidance, tolerance=tolerance)
        for cores in (2, 3, 4, 8):
            yield _case("chords", steps, cores, guidance)
            yield _case("chords", steps, cores, guidance, accept={"agreement": AGREEMENT})
            for tolerance in (0.01, 0.03):
                yield _case("window", steps, cores, guidance, tolerance=tolerance)


def _timed_cases() -> Iterator[Json]:
    """Devices of different speed behind each link, also fewer or more of them than cores."""
    for link, count in product(LINKS, (1, 3, 5)):
        speeds = (0.2, 0.2, 0.5, 0.2, 0.31)[:count]
        devices = [{"seconds": speed, "link": link if number else "local"} for number, speed in enumerate(speeds)]
        for method in ("sequential", "chords", "window", "fewer"):
            accept = {"agreement": AGREEMENT} if method == "chords" else 1
            yield _case(method, 20, 4, 3.5, accept=accept, devices=devices, payload=8_386_560)


def _check(case: Json, found: Mapping[str, Any]) -> None:
    """What the page computed is what `chords_core` computes on the same devices."""
    start = torch.tensor([found["start"]], dtype=torch.float64)
    sigmas = torch.tensor([(case["steps"] - i) / case["steps"] for i in range(case["steps"] + 1)], dtype=torch.float64)
    method = _method(case, start, sigmas)
    devices = [Device(each["seconds"], LINKS[each["link"]]) for each in case["devices"]]
    simulated = simulate(_WithModel(method, _denoise(case["guidance"])), devices, payload=case["payload"])

    assert method.accepted is not None
    calls = [(mark.core, mark.index, mark.depth, mark.lane) for mark in simulated.timeline.evaluations]
    assert [(each["core"], each["index"], each["depth"], each["lane"]) for each in found["evaluations"]] == calls
    for mark, each in zip(simulated.timeline.evaluations, found["evaluations"], strict=True):
        assert (each["began"], each["seconds"]) == pytest.approx((mark.began, mark.seconds), abs=1e-9)
    rectified = [(mark.core, mark.index, mark.depth) for mark in simulated.timeline.rectified]
    assert [(each["core"], each["index"], each["depth"]) for each in found["rectified"]] == rectified
    assert found["depth"] == method.accepted.depth
    assert found["seconds"] == pytest.approx(simulated.timeline.seconds, abs=1e-9)
    assert [(hit["core"], hit["depth"]) for hit in found["hits"]] == [(hit.core, hit.depth) for hit in method.hits]
    for hit, mark, each in zip(method.hits, simulated.hits, found["hits"], strict=True):
        assert each["seconds"] == pytest.approx(mark.seconds, abs=1e-9)
        assert (hit.x[0] - torch.tensor(each["x"], dtype=torch.float64)).abs().max() <= TOLERANCE
    estimate = method.estimate() if isinstance(method, Window) else None
    assert found["estimate"] == (None if estimate is None else pytest.approx(estimate, abs=TOLERANCE))


@pytest.mark.parametrize("cases", [_cases, _timed_cases], ids=["steps-cores-guidance", "devices-links"])
def test_schedules_times_and_states_are_those_of_chords_core(
    compute: Compute, cases: Callable[[], Iterator[Json]]
) -> None:
    asked: Sequence[Json] = list(cases())
    for case, found in zip(asked, compute(RUN, asked), strict=True):
        try:
            _check(case, found)
        except AssertionError as error:
            raise AssertionError(f"{case}: {error}") from error


def _told(rule: MovingRule | SteppingRule, cores: int, chance: random.Random) -> list[Json]:
    """What a rule answers, round by round, to measurements of a path that is smooth here and jumps there."""
    progress, asked, known, told = Progress(), rule.first(cores), [], list[Json]()
    for rounds in range(1, rule.steps):
        new = [node for node in asked if node not in known]
        known = sorted({*known, *asked})
        moves = [0.01 * 10 ** chance.uniform(-4, 1.5) for _ in known]
        surprises = {node: 0.05 * 10 ** chance.uniform(-3, 2) for node in new if node > 0}
        effects = [0.01 * 10 ** chance.uniform(-3, 1) for _ in known] if known[-1] == rule.steps - 1 else []
        measured = Measured(
            known=tuple(known),
            moves=tuple((move,) for move in moves),
            changed=(True,) * len(known),
            surprises={node: (found,) for node, found in surprises.items()},
            effects=tuple((effect,) for effect in effects),
        )
        left = rule.steps - rounds
        progress, following = rule.following(progress, measured, cores, rounds, left)
        given = {"known": tuple(known), "moves": moves, "surprises": list(surprises.items())}
        told.append({**given, "effects": effects or None, "left": left, "answer": following})
        if following is None:
            break
        asked = following
    return told


def test_the_rules_answer_as_those_of_chords_core_also_where_the_model_jumps(compute: Compute) -> None:
    cases = []
    for seed, steps, cores in product(range(8), (5, 12, 20, 50), (1, 2, 4, 8)):
        chance = random.Random(f"{seed} {steps} {cores}")
        rule = tolerance_window(torch.linspace(1, 0, steps + 1, dtype=torch.float64), cores, EULER, 0.01).rule
        assert isinstance(rule, MovingRule | SteppingRule)
        told = _told(rule, min(cores, steps), chance)
        cases.append({"steps": steps, "cores": min(cores, steps), "told": told})
    text = """(cases) => cases.map(({ steps, cores, told }) => {
      const times = CHORDS.evenSigmas(steps);
      const rule = cores === 1 ? new CHORDS.SteppingRule(times, 0.01) : new CHORDS.MovingRule(times, cores, 0.01);
      return told.map((each, k) => rule.following({ ...each, surprises: new Map(each.surprises) }, k + 1, each.left));
    })"""
    for case, found in zip(cases, compute(text, cases), strict=True):
        expected = [each["answer"] if each["answer"] is None else list(each["answer"]) for each in case["told"]]
        assert found == expected, case


def test_links_are_those_of_chords_core(compute: Compute) -> None:
    text = (
        "() => Object.entries(CHORDS.LINKS).map(([key, link]) => [key, link.latency, 1 / link.bandwidth, link.shared])"
    )
    found = {key: (latency, each, shared) for key, latency, each, shared in compute(text, None)}
    assert found == {key: (link.latency, 1 / link.bandwidth, link.shared) for key, link in LINKS.items()}


def test_shared_calls_take_what_the_benchmark_computes(compute: Compute, repo: Path) -> None:
    results = repo / "benchmarks" / "results" / "token_split_gpu.json"
    costs = {model.name: model for model in load_costs(results)}
    text = """(cases) => cases.map(([model, sides, members, link]) =>
      CHORDS.sharedCallSeconds(CHORDS.MODELS[model], sides, members, 1, CHORDS.LINKS[link]))"""
    cases = list(product(MODELS, (1, 2), (1, 2, 4, 8), LINKS))
    for (model, sides, members, link), found in zip(cases, compute(text, cases), strict=True):
        exchange = Exchange(LINKS[link].bandwidth / 1e9, overlapped=False)
        expected = costs[MODELS[model]].round_seconds(Way(shares=members), sides == 2, exchange)
        assert found == pytest.approx(expected, rel=1e-4), (model, sides, members, link)
