"""Runs in this process, with the host's modules and lanes of the CPU: no server is needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from _env import venv_python

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).resolve().parents[3] / "nodes")]

from runs import Runs  # noqa: E402


@pytest.fixture(autouse=True)
def _log_of_this_test() -> None:
    """In place of the one of tests/host: there is no server."""


@pytest.fixture(scope="session")
def tiny_files(comfy_host: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny models of the live tests."""
    folder = tmp_path_factory.mktemp("models")
    script = Path(__file__).resolve().parents[2] / "tiny_models.py"
    subprocess.run([str(venv_python()), str(script), str(comfy_host), str(folder)], check=True)
    return folder


@pytest.fixture(scope="session")
def runs(comfy_host: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Samples on lanes of the CPU, one thread each."""
    sys.path.insert(0, str(comfy_host))  # its nodes, not ours
    from comfy.cli_args import args

    args.cpu = True
    import comfy.model_management  # noqa: F401
    import folder_paths
    import server

    server.PromptServer.instance = None
    folder_paths.set_user_directory(str(tmp_path_factory.mktemp("user")))
    folder_paths.set_temp_directory(str(tmp_path_factory.mktemp("temp")))
    return Runs()
