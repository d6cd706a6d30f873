"""The package as registries and ComfyUI see it: its file of facts, what goes along, and what an old ComfyUI is told."""

from __future__ import annotations

import importlib.util
import logging
import re
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import host
import pytest
from PIL import Image

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # which pytest brings there

# What ComfyUI reads of a pack, and what the nodes read of this one.
NEEDED = "__init__.py pyproject.toml requirements.txt LICENSE README.md".split()
NEEDED += "chords_core demo locales models nodes subgraphs web workflows".split()


@pytest.fixture(scope="module")
def facts(repo: Path) -> dict[str, Any]:
    """pyproject.toml."""
    return tomllib.loads((repo / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_version_is_semantic_and_the_newest_of_the_changelog(repo: Path, facts: dict[str, Any]) -> None:
    version = facts["project"]["version"]
    assert re.fullmatch(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}", version)
    told = re.findall(r"^## \[([^]]+)\]", (repo / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert next(heading for heading in told if heading != "Unreleased") == version
    numbers = [tuple(map(int, heading.split("."))) for heading in told if heading != "Unreleased"]
    assert numbers == sorted(set(numbers), reverse=True)


def test_registry_and_manager_install_the_same(repo: Path, facts: dict[str, Any]) -> None:
    """The registry reads pyproject.toml, ComfyUI-Manager installs requirements.txt; neither runs a script of ours."""
    lines = (repo / "requirements.txt").read_text(encoding="utf-8").splitlines()
    required = [line for line in lines if line and not line.startswith("#")]
    assert required == facts["project"]["dependencies"]
    assert all(re.fullmatch(r"[a-z-]+>=[\d.]+", line) for line in required)  # no upper limit: other packs have theirs
    assert not any((repo / name).exists() for name in ("install.py", "prestartup_script.py"))


def test_the_registry_takes_its_facts(facts: dict[str, Any]) -> None:
    """The registry's own rules (docs.comfy.org/registry/specifications)."""
    name = facts["project"]["name"]
    assert re.fullmatch(r"[a-zA-Z]+([-_.]?[a-zA-Z0-9]+)*", name) and len(name) < 100 and "comfy" not in name.lower()
    assert facts["project"]["license"] == {"file": "LICENSE"}
    assert "Operating System :: OS Independent" in facts["project"]["classifiers"]
    assert facts["tool"]["comfy"]["PublisherId"] and facts["tool"]["comfy"]["DisplayName"]
    assert "web" not in facts["tool"]["comfy"]  # the host would serve the extension twice: WEB_DIRECTORY says it


def test_no_folder_takes_the_place_of_the_workflows(repo: Path) -> None:
    """ComfyUI serves the first of these folders as a pack's templates, and none of the others."""
    folders = [name for name in ("example_workflows", "example", "examples", "workflow") if (repo / name).exists()]
    assert not folders and (repo / "workflows").is_dir()


def test_the_icon_fits(repo: Path) -> None:
    with Image.open(repo / "docs" / "images" / "icon.png") as icon:
        assert icon.format == "PNG"
        assert icon.width == icon.height <= 400


def test_the_registrys_zip_has_all_that_the_nodes_need(repo: Path) -> None:
    lines = (repo / ".comfyignore").read_text(encoding="utf-8").splitlines()
    left_out = [line for line in lines if line and not line.startswith("#")]
    for line in left_out:  # each names something of the root: a mistyped line would leave nothing out
        assert re.fullmatch(r"/[\w.-]+/?", line), line
        assert (repo / line.strip("/")).is_dir() if line.endswith("/") else (repo / line.strip("/")).is_file(), line
    assert not {line.strip("/") for line in left_out} & set(NEEDED)
    assert all((repo / name).exists() for name in NEEDED)


def test_both_ruffs_are_the_same(repo: Path) -> None:
    pinned = re.search(r"^ruff==(\S+)", (repo / "scripts" / "requirements-dev.txt").read_text(), re.MULTILINE)
    hooks = re.findall(r"\[ruff==([^]]+)\]", (repo / ".pre-commit-config.yaml").read_text())
    assert pinned is not None and hooks and set(hooks) == {pinned[1]}


BROKEN = "import comfy_part_that_is_missing\n"
WORKING = "def comfy_entrypoint(): pass\n"


def _entry(
    repo: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, version: str | None, nodes: str = BROKEN
) -> types.ModuleType:
    """The pack's entry as a host of this version loads it, by default with nodes that cannot be imported there."""
    pack = folder / "a pack"
    (pack / "nodes").mkdir(parents=True)
    shutil.copy(repo / "__init__.py", pack)
    (pack / "nodes" / "__init__.py").write_text(nodes)
    host = types.ModuleType("comfyui_version")
    if version is not None:
        host.__dict__["__version__"] = version
    monkeypatch.setitem(sys.modules, "comfyui_version", host)
    name = str(pack)
    spec = importlib.util.spec_from_file_location(name, pack / "__init__.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("version", ["0.18.2", "0.24.0", "0.3.60", None])
def test_an_old_host_is_told_what_is_needed(
    repo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    facts: dict[str, Any],
    version: str | None,
) -> None:
    with caplog.at_level(logging.WARNING):
        module = _entry(repo, tmp_path, monkeypatch, version)
    (record,) = caplog.records
    oldest = module.RUN_ON[0]
    assert record.levelno == logging.ERROR
    assert f"needs ComfyUI {oldest} or newer, and this is {version or 'an older one'}:" in record.getMessage()
    assert record.exc_info is None  # words, no traceback
    assert not hasattr(module, "comfy_entrypoint") and not hasattr(module, "WEB_DIRECTORY")
    assert facts["tool"]["comfy"]["requires-comfyui"] == f">={oldest}"


@pytest.mark.parametrize("version", ["0.24.1", "0.30.0", "0.31", "1.0.0"])
def test_an_error_on_a_newer_host_is_shown_as_what_it_is(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    with pytest.raises(ModuleNotFoundError, match="comfy_part_that_is_missing"):
        _entry(repo, tmp_path, monkeypatch, version)


@pytest.mark.parametrize("version", ["0.31.0", "0.38.1", "1.0", "0.100.0"])
def test_a_host_newer_than_those_it_has_run_on_warns(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, version: str
) -> None:
    """Which versions it has run on, what may differ, and what to report."""
    with caplog.at_level(logging.INFO):
        module = _entry(repo, tmp_path, monkeypatch, version, WORKING)
    (record,) = caplog.records
    told = record.getMessage()
    assert record.levelno == logging.WARNING and "\n" not in told
    assert all(run in told for run in module.RUN_ON) and f"and this is {version}." in told
    assert "may differ" in told and "report" in told
    assert module.WEB_DIRECTORY and module.comfy_entrypoint  # it is loaded all the same


@pytest.mark.parametrize("version", ["0.24.1", "0.27.0", "0.28.3", "0.30.0", "0.30.7", "nightly", None])
def test_other_hosts_start_without_a_word(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, version: str | None
) -> None:
    with caplog.at_level(logging.INFO):
        module = _entry(repo, tmp_path, monkeypatch, version, WORKING)
    assert caplog.records == [] and module.comfy_entrypoint


def test_the_scripts_the_docs_and_the_entry_name_the_same_versions(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """scripts/host.py can prepare each of them; the newest is its default."""
    run_on = _entry(repo, tmp_path, monkeypatch, "0.30.0", WORKING).RUN_ON
    assert sorted(run_on, key=_numbers) == list(run_on)
    prepared = [pin.comfyui for pin in host.PINS]
    assert prepared[0] == run_on[-1]
    assert {version for version in prepared if _numbers(version) >= _numbers(run_on[0])} == set(run_on)
    for page in ("README.md", "docs/install.md", "docs/compatibility.md"):
        text = (repo / page).read_text(encoding="utf-8")
        assert f"{', '.join(run_on[:-1])} and {run_on[-1]}" in text, page
    needs = (repo / "scripts" / "requirements-host.txt").read_text(encoding="utf-8")
    assert needs.startswith(f"# What ComfyUI {run_on[-1]} needs")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
