"""The set-up scripts: what they say when something is wrong, and how the pack gets into a host."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import _env
import _newest_frontend
import host
import pytest
from _torch_parts import _companion, pinned


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that looks like a ComfyUI checkout."""
    folder = tmp_path / "Comfy UI"
    for name in host.HOST_FILES:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("") if path.suffix else path.mkdir()
    return folder


def test_a_path_that_is_no_comfyui_is_refused(repo: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "COMFYUI_PATH": str(tmp_path)}
    command = [sys.executable, str(repo / "scripts" / "host.py"), "--path"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"COMFYUI_PATH={tmp_path} does not name a ComfyUI folder: it has no main.py" in done.stderr
    assert "Traceback" not in done.stderr


def test_path_prints_the_folder_and_nothing_else(repo: Path, comfy_host: Path) -> None:
    command = [sys.executable, str(repo / "scripts" / "host.py"), "--path"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=repo.parent)
    assert done.stdout == f"{comfy_host}\n"
    packs = [entry.resolve() for entry in (comfy_host / "custom_nodes").iterdir()]
    assert packs.count(repo) == 1


def test_the_named_checkout_is_used(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFYUI_PATH", str(checkout))
    assert host._named_host() == checkout
    monkeypatch.setenv("COMFYUI_PATH", "")
    assert host._named_host() is None


@pytest.mark.parametrize(
    ("asked", "version", "folder"),
    [("", "0.30.0", "ComfyUI"), ("0.30", "0.30.0", "ComfyUI"), ("0.27", "0.27.0", "ComfyUI-0.27.0")]
    + [("0.24.1", "0.24.1", "ComfyUI-0.24.1"), ("0.18", "0.18.2", "ComfyUI-0.18.2")],
)
def test_a_version_of_comfyui_is_chosen_by_its_beginning(asked: str, version: str, folder: str) -> None:
    pin = host._pin(asked)
    assert (pin.comfyui, pin.folder.name) == (version, folder)


@pytest.mark.parametrize("asked", ["0.2", "0.240", "1.0", "latest"])
def test_a_version_that_is_not_to_be_had_is_refused(asked: str) -> None:
    with pytest.raises(_env.SetupError, match=f"ComfyUI {asked} is not among .*0.30.0, 0.27.0, 0.24.1, 0.18.2"):
        host._pin(asked)


def test_what_comfyui_asks_for_is_installed_where_it_was_named(monkeypatch: pytest.MonkeyPatch, checkout: Path) -> None:
    """Of the hosts in .host the older ones run on what the newest needs: to ask for one installs nothing else."""
    (checkout / "requirements.txt").write_text("aiohttp>=3.11.8\n")
    asked: list[Path | None] = []
    monkeypatch.setattr(host, "inside_venv", lambda: True)
    monkeypatch.setattr(host, "_provisioned_host", lambda pin: pin.folder)
    monkeypatch.setattr(host, "install_packages", asked.append)
    monkeypatch.setattr(host, "install_pack", lambda folder: None)
    monkeypatch.setenv("COMFYUI_PATH", "")
    monkeypatch.setenv("COMFYUI_VERSION", "0.24")
    assert host.prepare().name == "ComfyUI-0.24.1"
    assert host.prepare("0.27").name == "ComfyUI-0.27.0"
    monkeypatch.setenv("COMFYUI_PATH", str(checkout))
    assert host.prepare() == checkout
    assert host.prepare("0.27").name == "ComfyUI-0.27.0"
    assert asked == [None, None, checkout, checkout]


@pytest.fixture
def installations(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, ...]]:
    """What is asked of pip. Nothing is installed; the stamp of `.venv` is another file."""
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(host, "VENV_STAMP", tmp_path / "stamp.json")
    monkeypatch.setattr(host, "pip", lambda what, *arguments: asked.append(arguments))
    monkeypatch.setattr(host, "install_torch_parts", lambda: None)
    monkeypatch.setattr(host, "check_torch_parts", lambda: None)
    return asked


def _files(arguments: tuple[str, ...], option: str = "-r") -> list[str]:
    return [Path(value).name for name, value in zip(arguments, arguments[1:], strict=False) if name == option]


def test_the_demo_installs_less_than_the_tests(installations: list[tuple[str, ...]]) -> None:
    host.install_to_run(None)
    host.install_to_run(None)  # it is there
    (asked,) = installations
    assert _files(asked) == ["requirements-host.txt"] and "requirements-dev.txt" in _files(asked, "-c")
    assert set(host.PACKAGES.split()) <= set(asked)
    host.install_packages(None)
    host.install_packages(None)
    assert _files(installations[1]) == [f"requirements-{name}.txt" for name in ("host", "dev", "ray")]
    host.install_to_run(None)  # what the tests need contains what the demo needs
    assert len(installations) == 2


def test_the_pack_is_linked_once(checkout: Path, repo: Path) -> None:
    link = checkout / "custom_nodes" / host.PACK_NAME
    host.install_pack(checkout)
    assert link.resolve() == repo
    host.install_pack(checkout)
    link.rename(link.with_name("by-another-name"))
    host.install_pack(checkout)
    assert [path.name for path in link.parent.iterdir()] == ["by-another-name"]


def test_a_link_to_elsewhere_is_replaced_and_a_copy_is_not(checkout: Path, repo: Path, tmp_path: Path) -> None:
    link = checkout / "custom_nodes" / host.PACK_NAME
    host._link(link, tmp_path)
    host.install_pack(checkout)
    assert link.resolve() == repo
    host._unlink(link)
    link.mkdir()
    with pytest.raises(_env.SetupError, match="holds another copy"):
        host.install_pack(checkout)


def test_removing_a_host_spares_what_it_links_to(checkout: Path, tmp_path: Path) -> None:
    precious = tmp_path / "pack" / "file"
    precious.parent.mkdir()
    precious.write_text("kept")
    host._link(checkout / "custom_nodes" / host.PACK_NAME, precious.parent)
    host._remove(checkout)
    assert not checkout.exists()
    assert precious.read_text() == "kept"


def test_requirements_of_another_checkout_leave_torch_alone(tmp_path: Path) -> None:
    file = tmp_path / "requirements.txt"
    file.write_text("torch\ntorchsde\ntorchvision>=0.2\n# note\naiohttp>=3.11.8  # why\ncomfyui-embedded-docs==0.5\n")
    assert host._own_requirements(file) == ["torchsde", "aiohttp>=3.11.8"]


def test_companions_of_torch() -> None:
    pins = pinned()
    assert set(pins) == {"torch", "torchvision", "torchaudio"}
    assert _companion("torchvision", pins["torch"], pins) == f"torchvision=={pins['torchvision']}"
    assert _companion("torchvision", "2.9.1", pins) == "torchvision==0.24.*"
    assert _companion("torchaudio", "2.9.1", pins) == "torchaudio==2.9.*"


def test_stamps_are_whole_or_absent(tmp_path: Path) -> None:
    stamp = tmp_path / "deep" / "stamp.json"
    assert _env.read_stamp(stamp) == {}
    _env.write_stamp(stamp, {"key": "a"})
    assert _env.read_stamp(stamp) == {"key": "a"}
    stamp.write_text("{broken")
    assert _env.read_stamp(stamp) == {}


def test_nothing_names_a_package_server(repo: Path) -> None:
    for path in sorted((repo / "scripts").glob("requirements-*.txt")):
        lines = [line.split("#")[0] for line in path.read_text().splitlines()]
        assert all("==" in line and "/" not in line and "--" not in line for line in lines if line), path.name


def test_the_newest_frontend_is_installed_once_and_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[str] = []
    broken = True

    def install(what: str, *arguments: str) -> None:
        asked.append(arguments[-1])
        static = Path(arguments[arguments.index("--target") + 1], "comfyui_frontend_package", "static")
        static.mkdir(parents=True)
        if broken:
            raise _env.SetupError("no connection")

    monkeypatch.setattr(_newest_frontend, "HOST_DIR", tmp_path)
    monkeypatch.setattr(_newest_frontend, "FOLDER", tmp_path / "frontend")
    monkeypatch.setattr(_newest_frontend, "ensure_pip", lambda: None)
    monkeypatch.setattr(_newest_frontend, "pip", install)
    with pytest.raises(_env.SetupError, match="no connection"):
        _newest_frontend.newest_frontend()
    assert not (tmp_path / "frontend").exists()
    broken = False
    first = _newest_frontend.newest_frontend()
    assert first.is_dir() and _newest_frontend.newest_frontend() == first
    assert asked == ["comfyui-frontend-package==1.58.1"] * 2  # the second one after the failure


def test_programs_keep_what_they_compile_but_not_beside_the_source(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where PYTHONDONTWRITEBYTECODE asks for clean folders."""
    monkeypatch.setattr(_env, "HOST_DIR", tmp_path / "ours")
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", "")  # and what the function sets goes at the end of the test
    monkeypatch.delenv("PYTHONPYCACHEPREFIX")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    _env.keep_compiled()
    source = tmp_path / "source" / "imported.py"
    source.parent.mkdir()
    source.write_text("")
    subprocess.run([sys.executable, "-c", "import imported"], cwd=source.parent, check=True)
    assert list(source.parent.iterdir()) == [source]
    assert list((tmp_path / "ours").rglob("imported.*.pyc"))
