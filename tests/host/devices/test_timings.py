"""The file of measurements: what cannot be understood there counts as not measured, and nothing there gets lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from graphs import Graph, demo, empty_latent, lanes, settings

SCRIPT = Path(__file__).parents[1] / "timings_files.py"


def _content(**changes: Any) -> str:
    """A file of one entry, of which ``key__NAME`` and ``measured__NAME`` are changed."""
    entry: dict[str, dict[str, Any]] = {
        "key": {"model": "model", "dtype": "float32", "latent": [1, 4], "devices": ["cpu"], "guided": True},
        "measured": {
            "step": 1.0,
            "rounds": {"1": 1.0, "2": 1.2},
            "calls": {"cpu": 1},
            "splits": {},
            "rows": {},
            "when": "",
        },
    }
    for name, value in changes.items():
        part, field = name.split("__")
        entry[part][field] = value
    return json.dumps({"entries": [entry]})


GOOD = {
    "as it is written": _content(),
    "splits": _content(measured__splits={"off": 1.0, "tokens 4": 0.5, "guidance x tokens 2": 1}),
    "rows": _content(measured__rows={"1": 1.0, "8": 1.1}),
    "a whole number of seconds": _content(measured__rounds={"1": 1}),
    "of a later version": _content(measured__more=[1], key__more="x"),
    "another entry that cannot be understood": _content()[:-2] + ', 7, null, [], {"key": 1}]}',
}
INFINITE, NAN = float("inf"), float("nan")
BAD = {
    "empty": "",
    "cut off": _content()[:60],
    "no text": "\0\xff\xfe",
    "deep": "[" * 100_000,
    "deep in an entry": '{"entries": [' + "[" * 5000 + "]" * 5000 + "]}",
    "deep objects": '{"entries": ' + '{"a":' * 20_000,
    "a number": "7",
    "a list": "[]",
    "entries a number": '{"entries": 5}',
    "entries an object": '{"entries": {"a": 1}}',
    "no entries": "{}",
    "a long number": _content().replace("1.2", "1" * 5000),
    "a large number": _content().replace("1.2", "1" + "0" * 400),
    "infinite latent": _content(key__latent=[INFINITE]),
    "latent a text": _content(key__latent="14"),
    "negative latent": _content(key__latent=[1, -4]),
    "devices a text": _content(key__devices="cpu"),
    "guided a number": _content(key__guided=1),
    "model a list": _content(key__model=["model"]),
    "NaN step": _content(measured__step=NAN),
    "infinite step": _content(measured__step=INFINITE),
    "zero step": _content(measured__step=0.0),
    "negative step": _content(measured__step=-1.0),
    "step a text": _content(measured__step="1.0"),
    "step a truth": _content(measured__step=True),
    "step missing": _content().replace('"step"', '"steps"'),
    "NaN rounds": _content(measured__rounds={"1": NAN, "2": NAN}),
    "negative rounds": _content(measured__rounds={"1": -1.0, "2": -5}),
    "zero rounds": _content(measured__rounds={"1": 0.0}),
    "endless rounds": _content(measured__rounds={"1": 1e308, "2": 1e308}),
    "rounds on many cores": _content(measured__rounds={"10000000": 1.0}),
    "rounds on no core": _content(measured__rounds={"0": 1.0}),
    "rounds on less than none": _content(measured__rounds={"-5": 1.0}),
    "rounds on 1e5": _content(measured__rounds={"1e5": 1.0}),
    "rounds on digits without end": _content(measured__rounds={"1" * 5000: 1.0}),
    "rounds a list": _content(measured__rounds=[1.0]),
    "NaN calls": _content(measured__calls={"cpu": NAN}),
    "calls a list": _content(measured__calls=["cpu"]),
    "calls of lists": _content(measured__calls={"cpu": [1.0]}),
    "rows a list": _content(measured__rows=[1.0]),
    "rows with NaN": _content(measured__rows={"1": NAN}),
    "rows without one row": _content(measured__rows={"2": 1.0, "8": 1.1}),
    "no rows": _content(measured__rows={"0": 1.0}),
    "thousands of rows": _content(measured__rows={"5000": 1.0}),
    "splits a list": _content(measured__splits=[1]),
    "splits with NaN": _content(measured__splits={"off": NAN}),
    "splits of an unknown name": _content(measured__splits={"on": 1.0}),
    "splits of no device": _content(measured__splits={"tokens 0": 1.0}),
    "when a number": _content(measured__when=7),
    "another guidance": _content(key__guided=False),
}


def _process(host: Path, user: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPT), str(host), str(user), *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def _keep(host: Path, user: Path, *names: str, count: int = 1) -> list[tuple[list[bool], str]]:
    """What a process each answers that keeps measurements of that name, all at the same time, and its log."""
    running = [_process(host, user, "keep", name, str(count)) for name in names]
    for process in running:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    ended = [process.communicate() for process in running]
    assert [process.returncode for process in running] == [0] * len(names), ended
    return [(json.loads(answer), log) for answer, log in ended]


def _file(user: Path) -> Path:
    return user / "chords" / "measured.json"


def _models(user: Path) -> set[str]:
    return {entry["key"]["model"] for entry in json.loads(_file(user).read_text(encoding="utf-8"))["entries"]}


def test_what_cannot_be_understood_counts_as_not_measured(comfy_host: Path, tmp_path: Path) -> None:
    process = _process(comfy_host, tmp_path, "read")
    answer, log = process.communicate(json.dumps([*GOOD.values(), *BAD.values()]))
    assert process.returncode == 0, log
    steps = dict(zip([*GOOD, *BAD], json.loads(answer), strict=True))
    assert steps == {**dict.fromkeys(GOOD, 1.0), **dict.fromkeys(BAD)}


@pytest.mark.parametrize("name", ["deep", "NaN rounds", "infinite latent", "rounds on many cores"])
def test_a_prompt_runs_whatever_is_in_the_file(server, client, name: str) -> None:
    path = _file(server.folder / "user")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(BAD[name], encoding="utf-8")
    try:
        graph = Graph()
        inputs = demo(graph) | settings(seed=9100 + list(BAD).index(name))
        graph.save(
            "latent", graph.add("ChordsKSampler", **inputs, latent_image=empty_latent(graph), devices=lanes(graph, 2))
        )
        assert client.run(graph.nodes).outputs
    finally:
        path.unlink()


def test_servers_lose_nothing_of_each_others(comfy_host: Path, tmp_path: Path) -> None:
    answers = _keep(comfy_host, tmp_path, "a", "b", "c", count=20)
    assert [answer for answer, _ in answers] == [[True, True]] * 3
    assert _models(tmp_path) == {f"{name} {number}" for name in "abc" for number in range(20)}
    assert {path.name for path in _file(tmp_path).parent.iterdir()} == {"measured.json", "measured.json.lock"}


@pytest.mark.parametrize("bad", ["deep", "cut off", "empty"])
def test_a_file_that_is_none_is_kept_aside(comfy_host: Path, tmp_path: Path, bad: str) -> None:
    _file(tmp_path).parent.mkdir()
    _file(tmp_path).write_text(BAD[bad], encoding="utf-8")
    assert _keep(comfy_host, tmp_path, "new")[0][0] == [True, True]
    assert _models(tmp_path) == {"new 0"}
    assert _file(tmp_path).with_name("measured.json.bad").read_text(encoding="utf-8") == BAD[bad]


@pytest.mark.parametrize("where", ["the file", "the folder", "the lock"])
def test_what_cannot_be_written_costs_a_line_in_the_log(comfy_host: Path, tmp_path: Path, where: str) -> None:
    """A folder in the place of the file or the lock, a file in the place of the folder."""
    folder = _file(tmp_path).parent
    if where == "the folder":
        folder.touch()
    else:
        (folder / ("measured.json" if where == "the file" else "measured.json.lock")).mkdir(parents=True)
    ((_, kept), log) = _keep(comfy_host, tmp_path, "new")[0]
    assert not kept and "could not be kept" in log


def test_what_is_no_measurement_is_not_kept(comfy_host: Path, tmp_path: Path) -> None:
    ((exists, kept), log) = _keep(comfy_host, tmp_path, "no times")[0]
    assert not exists and not kept and "could not be kept" in log
