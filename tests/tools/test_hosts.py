"""The suite on a named checkout: its servers have this pack alone, and what an older host lacks skips a test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from _server import ComfyServer

from tests import hosts


@pytest.fixture(autouse=True)
def _asked_again() -> Iterator[None]:
    """The answer is kept while a session runs; these tests change what it is about."""
    hosts.is_older.cache_clear()
    yield
    hosts.is_older.cache_clear()


def test_servers_of_a_named_checkout_have_a_base_folder_with_this_pack_alone(
    tmp_path: Path, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another checkout has other packs; it may know this pack by another name."""
    base = hosts.own_base(tmp_path / "base")
    assert hosts.own_base(base) == base  # again
    (entry,) = (base / "custom_nodes").iterdir()
    assert entry.name == "ComfyUI-CHORDS" and entry.resolve() == repo
    monkeypatch.setattr(ComfyServer, "base", base)
    server = ComfyServer("/a checkout", folder=tmp_path, cpu=True, arguments=["--base-directory", "another"])
    command = server.command()
    assert command[command.index("--base-directory") + 1] == str(base)
    assert command[-1] == "another"  # a test's own: the host takes the last
    monkeypatch.setattr(ComfyServer, "base", None)
    assert "--base-directory" not in ComfyServer("/ours", folder=tmp_path, cpu=True).command()


@pytest.mark.parametrize(
    ("version", "older"), [("0.24.1", True), ("0.29.9", True), ("0.30.0", False), ("0.38.1", False), ("", False)]
)
def test_a_named_checkout_is_older_by_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, older: bool
) -> None:
    """One that does not tell its version counts as new: nothing is skipped there."""
    if version:
        (tmp_path / "comfyui_version.py").write_text(f'__version__ = "{version}"\n')
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    assert hosts.is_older() == older


@pytest.mark.parametrize(("asked", "older"), [("", False), ("0.30", False), ("0.27", True), ("0.24.1", True)])
def test_a_version_is_asked_for(monkeypatch: pytest.MonkeyPatch, asked: str, older: bool) -> None:
    monkeypatch.setenv("COMFYUI_PATH", "")
    monkeypatch.setenv("COMFYUI_VERSION", asked)
    assert hosts.is_older() == older


@pytest.mark.parametrize(
    ("message", "lacking"),
    [
        ("the server refused: Node 'TextOverlay' not found. The custom node may", "has no node TextOverlay"),
        ("Node 'ChordsKSampler' not found. The custom node may not be installed.", None),
        ("Node 'KSampler (CHORDS)' not found. The custom node may not be installed.", None),
        ("Node 'SDO Latent Optimizer' not found. The custom node may not be installed.", None),
        ("Node 'TestFamily' not found. The custom node may not be installed.", None),
        ("the latents differ", None),
    ],
)
def test_only_a_node_of_the_host_may_be_missing(message: str, lacking: str | None) -> None:
    reason = hosts.lack(RuntimeError(message))
    assert reason is None if lacking is None else reason is not None and lacking in reason


def _import_error(source: str, path: Path) -> ImportError:
    with pytest.raises(ImportError) as caught:
        exec(compile(source, str(path), "exec"), {})  # noqa: S102
    return caught.value


def test_only_a_module_of_the_host_that_a_test_imports_may_be_missing(repo: Path) -> None:
    test, ours = repo / "tests" / "host" / "test_some.py", repo / "nodes" / "host" / "some.py"
    source = "import comfy_extras.nodes_of_tomorrow"
    reason = hosts.lack(_import_error(source, test))
    assert reason is not None and "comfy_extras" in reason
    assert hosts.lack(_import_error(source, ours)) is None  # the pack has to work there
    assert hosts.lack(_import_error("import a_package_of_tomorrow", test)) is None
