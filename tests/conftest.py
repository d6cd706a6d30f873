"""Shared by all tests: the provisioned ComfyUI, a live server of it, and a client."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

TESTS = Path(__file__).resolve().parent
REPO = TESTS.parent
sys.path.append(str(REPO / "scripts"))

from _env import HOST_DIR, keep_compiled, venv_python  # noqa: E402
from _server import ComfyServer  # noqa: E402
from client import ComfyClient  # noqa: E402

from tests import hosts  # noqa: E402

keep_compiled()  # tests start hundreds of programs

# Tests compare bits of a call with those of its parts. On some Intel CPUs MKL, which makes the products of matrices,
# rounds a row in another way if there are more or fewer rows beside it. In this strict mode it does not, here and in
# the programs under test. It is read at the first product.
if platform.machine().lower() in ("x86_64", "amd64"):
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

# For all property tests: a busy machine fails none, and chance does not find today what it did not find yesterday.
settings.register_profile("tests", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


class _RootIsNoPackage:
    """Keeps pytest from importing the clone's own __init__.py, which only ComfyUI can import."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_collect_directory(self, path: Path, parent: pytest.Collector) -> pytest.Collector | None:
        return pytest.Dir.from_parent(parent, path=path) if path == REPO else None


def pytest_addoption(parser: pytest.Parser) -> None:
    where = "where ComfyUI computes in the live tests; several lanes on one device need the CPU (default: %(default)s)"
    parser.addoption("--device", choices=("cpu", "cuda"), default="cpu", help=where)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_RootIsNoPackage())
    if os.environ.get("COMFYUI_PATH", "").strip():
        ComfyServer.base = hosts.own_base(HOST_DIR / "tests")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # As in a job in the background. The programs under test would inherit that, and never hear a Ctrl-C.
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long parts come first: so none of several processes has much to do when the others have ended."""
    first = {"cluster": 0, "web": 1, "host": 2}
    items.sort(key=lambda item: first.get(item.path.relative_to(TESTS).parts[0], len(first)))


class _InParts(LoadScopeScheduling):
    """What each of several processes gets: a file, whose tests share fixtures, or a part that runs in one process only.

    Two clusters at a time, or two browsers, are too much for a small machine.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        folder = Path(file).relative_to(TESTS.name).parts[0]
        return folder if folder in ("cluster", "web") else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> _InParts:
    """How tests are given to several processes."""
    return _InParts(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    """Where an older ComfyUI lacks what a fixture needs, the test is skipped."""
    if "web" in item.path.relative_to(REPO).parts and hosts.is_older():
        pytest.skip(f"the browser tests need the frontend of a newer ComfyUI than {hosts.version()}")
    return (yield from _skipped_where_lacking())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Where an older ComfyUI lacks what a test needs, the test is skipped."""
    return (yield from _skipped_where_lacking())


def _skipped_where_lacking() -> Generator[None, object, object]:
    try:
        return (yield)
    except Exception as error:
        reason = hosts.lack(error) if hosts.is_older() else None
        if reason is None:
            raise
        pytest.skip(reason)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Operations of this process use one thread. Sums depend on how many threads make them. And on a busy machine,
    threads that wait for one another take far longer than small sums."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def repo() -> Path:
    """The clone's root folder."""
    return REPO


@pytest.fixture(scope="session")
def comfy_host() -> Path:
    """The folder of the ready ComfyUI, prepared first if need be. Tests that need it fail without it."""
    command = [sys.executable, str(REPO / "scripts" / "host.py"), "--path"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.fail(f"ComfyUI could not be prepared:\n{done.stderr}", pytrace=False)
    return Path(done.stdout.strip())


@pytest.fixture(scope="session")
def on_cpu(pytestconfig: pytest.Config) -> bool:
    """Whether the live tests run on the CPU, as they do unless told otherwise."""
    return pytestconfig.getoption("--device") == "cpu"


@pytest.fixture(scope="session")
def server(comfy_host: Path, on_cpu: bool):
    """One live ComfyUI with this pack, on the CPU with one intra-op thread, for the whole session."""
    with ComfyServer(comfy_host, threads=1, cpu=on_cpu, python=str(venv_python())) as running:
        yield running


@pytest.fixture(scope="session")
def client(server: ComfyServer) -> ComfyClient:
    """A client of the live server."""
    return server.client()
