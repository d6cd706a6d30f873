"""The swap command on files and folders: forms, bad files, full disks, links."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from swap import BadWorkflow, NotAWorkflow, is_api, main, swap, swap_text

from tests.tools.workflow_samples import Json, api_workflow, sampler_select, saved_node, saved_workflow


@pytest.mark.parametrize("text", ['{"1": {"class_type": "KSampler", "inputs": {}}}', '{\n    "1": 2\n}\n'])
def test_a_file_keeps_its_form(text: str) -> None:
    value = json.loads(text)
    text = text if is_api(value) else text.replace("2", '{\n        "class_type": "é",\n        "inputs": {}\n    }')
    assert swap_text(text)[0] == text.replace("KSampler", "ChordsKSampler")


def test_the_command_needs_python_only(repo: Path, tmp_path: Path) -> None:
    (tmp_path / "in.json").write_text(json.dumps(api_workflow()), encoding="utf-8")
    script = str(repo / "scripts" / "swap.py")
    command = [sys.executable, "-I", "-S", script, str(tmp_path / "in.json"), str(tmp_path / "new" / "out.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads((tmp_path / "new" / "out.json").read_text(encoding="utf-8")) == swap(api_workflow()).workflow
    assert "1 KSampler -> ChordsKSampler" in done.stdout and "left as they are: 6 KSamplerSelect" in done.stdout


def test_all_workflows_of_a_folder_are_swapped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "deep").mkdir(parents=True)
    workflow = json.dumps(api_workflow())
    for name, text in {"a.json": workflow, "deep/b.json": workflow, "c.json": "[]"}.items():
        (source / name).write_text(text, encoding="utf-8")
    assert main([str(source), str(target)]) == 0
    written = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    assert written == {"a.json", "deep/b.json"}
    assert "c.json: skipped" in capsys.readouterr().err
    assert main([str(target), str(target), "--back"]) == 0  # in place
    assert json.loads((target / "a.json").read_text(encoding="utf-8")) == api_workflow()


@pytest.mark.parametrize("content", [b"{", b"[]", b"\x89PNG\xff\xfe"])
def test_a_bad_file_is_an_error_in_one_line(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.json").write_bytes(content)
    assert main([str(tmp_path / "in.json"), str(tmp_path / "out.json")]) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'in.json'}: ")
    assert not (tmp_path / "out.json").exists()


def test_a_missing_file_is_an_error_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.json"), str(tmp_path / "out.json")]) == 1
    assert "none.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        '{"1": {"class_type": "KSampler", "inputs": {"x": "\\ud83d half, \\u00e9 and \\ud83d\\ude00"}}}',
        '{"1": {"class_type": "KSampler", "inputs": {"x": "é \\ud83d", "y": "\\\\ud83d"}}}\r\n',
        '{\r\n\t"1": {\r\n\t\t"class_type": "KSampler",\r\n\t\t"inputs": {}\r\n\t}\r\n}\r\n',
        '{"1":{"class_type":"KSampler","inputs":{"x":NaN,"y":-Infinity,"z":123456789012345678901234567890}}}',
    ],
    ids=["escapes", "a lone surrogate among whole characters", "tabs and Windows", "what the host writes in pictures"],
)
def test_the_rest_of_a_file_stays_byte_for_byte(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text.encode())
    assert main([str(path), str(path)]) == 0
    assert path.read_bytes().decode() == text.replace('"KSampler"', '"ChordsKSampler"')


def test_a_file_without_samplers_stays_byte_for_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{ "1" : {"class_type":"Other",\n "inputs": {"x": 1E2}}}', encoding="utf-8")
    before = path.read_bytes()
    assert main([str(path), str(path)]) == 0
    assert path.read_bytes() == before


def _one_node(**changes: Any) -> Json:
    """A saved workflow of one KSampler, with changes."""
    return saved_workflow([saved_node(1, "KSampler") | changes], [])


def _deep(opening: str, closing: str, levels: int) -> str:
    return '{"1": {"class_type": "KSampler", "inputs": {"x": ' + opening * levels + "1" + closing * levels + "}}}"


BAD: dict[str, str | bytes] = {
    "empty": "",
    "not JSON": "{",
    "cut off": json.dumps(_one_node())[:-5],
    "deep lists": _deep("[", "]", 100_000),
    "deep objects": _deep('{"a": ', "}", 3000),
    "rather deep objects": _deep('{"a": ', "}", 900),
    "not UTF-8": '{"1": {"class_type": "KSampler", "inputs": {"x": "é"}}}'.encode("latin-1"),
    "UTF-16": json.dumps(_one_node()).encode("utf-16"),
    "zeros": bytes(1000),
    "a long number": json.dumps(_one_node()).replace("0.4", "9" * 5000),
    "a number too large": json.dumps(_one_node()).replace("0.4", "1e999"),
    "a key twice": '{"1": {"class_type": "KSampler", "inputs": {}}, "1": {"class_type": "KSampler", "inputs": {}}}',
    "half an API workflow": '{"1": {"class_type": "KSampler", "inputs": {}}, "2": {"class_type": "KSampler"}}',
    "no nodes": json.dumps(saved_workflow([], []) | {"nodes": None}),
    "no links": json.dumps(saved_workflow([], []) | {"links": {}}),
    "a node that is null": json.dumps(saved_workflow([saved_node(1, "KSampler"), None], [])),
    "inputs of numbers": json.dumps(_one_node(inputs=[1, 2])),
    "inputs an object": json.dumps(_one_node(inputs={"a": 1})),
    "outputs a number": json.dumps(_one_node(outputs=5)),
    "an input's link a list": json.dumps(_one_node(inputs=[{"name": "model", "link": [1]}])),
    "an input's link a fraction": json.dumps(_one_node(inputs=[{"name": "model", "link": 1.5}])),
    "id a list": json.dumps(_one_node(id=[1])),
    "id null": json.dumps(_one_node(id=None)),
    "id a fraction": json.dumps(_one_node(id=1.5)),
    "id a boolean": json.dumps(_one_node(id=True)),
    "ids twice": json.dumps(saved_workflow([saved_node(1, "KSampler"), saved_node(1, "Other")], [])),
    "type a number": json.dumps(_one_node(type=7)),
    "a short link": json.dumps(saved_workflow([sampler_select()], [[1, 1, 0]])),
    "a link without ends": json.dumps(saved_workflow([sampler_select()], [{"id": 1}])),
    "a link from a list": json.dumps(saved_workflow([sampler_select()], [[1, [1], 0, 2, 0, "SAMPLER"]])),
    "a link null": json.dumps(saved_workflow([sampler_select()], [None])),  # type: ignore[list-item]
    "a subgraph null": json.dumps(saved_workflow([sampler_select()], [], [None])),  # type: ignore[list-item]
    "a subgraph without id": json.dumps(saved_workflow([sampler_select()], [], [{"nodes": [], "links": []}])),
    "subgraphs twice": json.dumps(saved_workflow([sampler_select()], [], 2 * [{"id": "a", "nodes": [], "links": []}])),
    "a subgraph's inputs": json.dumps(saved_workflow([], [], [{"id": "a", "nodes": [], "links": [], "inputs": [1]}])),
}


def _bytes(content: str | bytes) -> bytes:
    return content if isinstance(content, bytes) else content.encode()


@pytest.mark.parametrize("direction", [[], ["--back"]], ids=["swap", "back"])
@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_stays_and_is_named_in_one_line(
    name: str, direction: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "in.json"
    path.write_bytes(_bytes(BAD[name]))
    assert main([str(path), str(path), *direction]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {path}: ") and len(line) < 500
    assert path.read_bytes() == _bytes(BAD[name])
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_with_bad_files_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    for number, content in enumerate(BAD.values()):
        (source / f"{number:02}.json").write_bytes(_bytes(content))
    for name in ("00 first.json", "99 last.json"):
        (source / name).write_text(json.dumps(api_workflow()), encoding="utf-8")
    (source / "other.json").write_text('{"name": "something else"}', encoding="utf-8")
    (source / "folder.json").mkdir()
    if os.name != "nt":
        (source / "loop.json").symlink_to("loop.json")
        (source / "gone.json").symlink_to("nowhere.json")
        os.mkfifo(source / "pipe.json")
    assert main([str(source), str(target)]) == 1
    told = capsys.readouterr()
    assert {path.name for path in target.iterdir()} == {"00 first.json", "99 last.json"}
    errors = [line for line in told.err.splitlines() if ": error: " in line]
    odd = 0 if os.name == "nt" else 3
    assert len(errors) == len(BAD) + odd and len(told.err.splitlines()) == len(errors) + 1
    assert "other.json: skipped: not a workflow" in told.err
    assert f"; {len(errors)} files could not be swapped" in told.out


def test_a_target_in_the_source_is_not_swapped_again(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(api_workflow()), encoding="utf-8")
    for _ in range(2):
        assert main([str(tmp_path), str(tmp_path / "out")]) == 0
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.json")} == {"a.json", "out/a.json"}


def test_control_characters_in_names_are_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workflow = {"a\nb\ud83d": {"class_type": "A\x1bSampler", "inputs": {}}} | api_workflow()
    (tmp_path / "a.json").write_text(json.dumps(workflow), encoding="utf-8")
    assert main([str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert "a\\nb\\ud83d A\\x1bSampler" in line


FULL = """
import resource, runpy, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.skipif(os.name == "nt", reason="POSIX only")
def test_a_full_disk_leaves_the_old_file(repo: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(api_workflow()), encoding="utf-8")
    before = path.read_bytes()
    command = [sys.executable, "-c", FULL, str(repo / "scripts" / "swap.py"), str(path), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.skipif(os.name == "nt", reason="POSIX only")
def test_links_and_permissions_stay(tmp_path: Path) -> None:
    target, link = tmp_path / "elsewhere" / "a.json", tmp_path / "a.json"
    target.parent.mkdir()
    target.write_text(json.dumps(api_workflow()), encoding="utf-8")
    target.chmod(0o640)
    link.symlink_to(target)
    assert main([str(link), str(link)]) == 0
    assert link.is_symlink() and json.loads(target.read_text(encoding="utf-8")) == swap(api_workflow()).workflow
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_an_interrupt_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(api_workflow()), encoding="utf-8")

    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        main([str(path), str(path)])
    assert json.loads(path.read_text(encoding="utf-8")) == api_workflow() and len(list(tmp_path.iterdir())) == 1


def test_a_broken_workflow_is_told_apart_from_other_json_files() -> None:
    for text in ("[]", "{}", '{"name": 1}'):
        with pytest.raises(NotAWorkflow) as other:
            swap_text(text)
        assert not isinstance(other.value, BadWorkflow)
    with pytest.raises(BadWorkflow):
        swap_text("{")
