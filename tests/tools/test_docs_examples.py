"""The code in docs/development.md does what the page says: its blocks are run as they stand.

A block marked ``run`` goes on from those before it in its section. One marked ``host MODULE`` is run at the end of that
module of the pack, inside ComfyUI, with what the section has defined so far.
"""

from __future__ import annotations

import re
import subprocess
import sys
import types
from pathlib import Path
from typing import NamedTuple

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "development.md"
WITH_CODE = ("Adding a solver", "Adding a method", "Adding an objective", "Adding a pool")


class Block(NamedTuple):
    """``module``: of the pack, at whose end it belongs; empty for one that stands for itself."""

    line: int
    module: str
    code: str


def blocks_of(page: str) -> dict[str, list[Block]]:
    """The page's Python blocks by section."""
    found: dict[str, list[Block]] = {}
    section = ""
    pattern = re.compile(r"^## (?P<section>.+)$|^```python *(?P<marks>.*)\n(?P<code>(?:.*\n)*?)```$", re.MULTILINE)
    for match in pattern.finditer(page):
        if match["section"] is not None:
            section = match["section"]
            continue
        kind, _, module = match["marks"].partition(" ")
        line = page.count("\n", 0, match.start("code"))
        assert kind in ("run", "host"), f"line {line}: a Python block that nothing runs; mark it run or host"
        found.setdefault(section, []).append(Block(line, module if kind == "host" else "", match["code"]))
    return found


SECTIONS = blocks_of(PAGE.read_text(encoding="utf-8"))


def padded(block: Block) -> str:
    """The code with its line numbers on the page, so that a traceback points there."""
    return "\n" * block.line + block.code


def test_every_way_to_extend_the_pack_has_an_example() -> None:
    assert tuple(SECTIONS) == WITH_CODE


def test_a_block_without_a_mark_is_refused() -> None:
    with pytest.raises(AssertionError, match="line 3: a Python block that nothing runs"):
        blocks_of("## A section\n\n```python\nprint(1)\n```\n")


@pytest.mark.parametrize("section", SECTIONS)
def test_the_blocks_run(section: str, monkeypatch: pytest.MonkeyPatch) -> None:
    example = types.ModuleType("example")
    monkeypatch.setitem(sys.modules, "example", example)  # where a dataclass looks itself up
    for block in SECTIONS[section]:
        if not block.module:
            exec(compile(padded(block), str(PAGE), "exec"), vars(example))  # noqa: S102 - our own examples


IN_HOST = """
import importlib, importlib.util, sys, types
sys.path.insert(0, {comfy!r})
sys.argv = [sys.argv[0], "--cpu"]
import utils  # first, as in main.py: `nodes` puts a folder with another utils on the path
import comfy.options
comfy.options.enable_args_parsing()
spec = importlib.util.spec_from_file_location("pack", {repo!r} + "/__init__.py", submodule_search_locations=[{repo!r}])
pack = importlib.util.module_from_spec(spec)
sys.modules["pack"] = pack
import pack.nodes.sdo.objectives
for name in list(sys.modules):  # the example's and the pack's are one
    if name.startswith("pack.chords_core"):
        sys.modules[name.removeprefix("pack.")] = sys.modules[name]
example = sys.modules["example"] = types.ModuleType("example")
defined = vars(example)
for module, code in {blocks!r}:
    if not module:
        exec(compile(code, {page!r}, "exec"), defined)  # noqa: S102 - our own examples
        continue
    place = vars(importlib.import_module("pack." + module))
    before = set(place)
    for name, value in defined.items():
        place.setdefault(name, value)
    exec(compile(code, {page!r}, "exec"), place)  # noqa: S102 - our own examples
    defined.update({{name: place[name] for name in set(place) - before}})
import torch
from pack.nodes.host.sdo.context import DecodedSample
node = defined["SDOObjectiveWarmth"]
schema = node.GET_SCHEMA()
assert schema.node_id == "SDOObjectiveWarmth" and schema.category == "CHORDS/SDO", schema
red = torch.zeros(1, 8, 8, 3)
red[..., 0] = 1
sample = DecodedSample(torch.zeros(1, 4, 1, 1), lambda latent: red)
for arguments, value in (({{}}, -1.0), ({{"aim": "as little as possible"}}, 1.0), ({{"aim": "the given value"}}, 0.81)):
    (spec,) = node.execute(**arguments).args
    assert abs(float(spec.bind(None)(sample)) - value) < 1e-6, (arguments, spec.bind(None)(sample))
try:
    node.execute(aim="the given value", value=2.0)
except Exception as error:
    assert "value: lies in -1..1" in str(error), error
else:
    raise AssertionError("a warmth of 2 was taken")
print("the node works")
"""


def test_the_nodes_blocks_work_in_the_host(comfy_host: Path, repo: Path) -> None:
    """The example's objective as a node: its schema, its three aims, and its refusal."""
    blocks = [(block.module, padded(block)) for block in SECTIONS["Adding an objective"]]
    assert [module for module, _ in blocks] == ["", "nodes.host.sdo.objectives", "nodes.sdo.objectives"]
    program = IN_HOST.format(comfy=str(comfy_host), repo=str(repo), page=str(PAGE), blocks=blocks)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=comfy_host, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("the node works\n")


@pytest.mark.parametrize("name", ["development.md", "how-it-works.md", "operations.md", "tuning.md"])
def test_files_the_page_names_exist(name: str, repo: Path) -> None:
    page = (PAGE.parent / name).read_text(encoding="utf-8")
    paths = re.findall(r"`((?:chords_core|nodes|tests|scripts|benchmarks|workflows|demo)/[\w./-]+)`", page)
    missing = [path for path in paths if not (repo / path).exists()]
    assert not missing
