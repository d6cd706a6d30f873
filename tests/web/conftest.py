"""Tests in a live browser: a real ComfyUI with this pack, its frontend, and a headless Chromium."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from _browser import NoBrowser, ensure_chromium
from _env import say
from _server import ComfyServer
from client import ComfyClient

sys.path.append(str(Path(__file__).parent))

from frontend import VIEWPORT, Frontend
from playwright.sync_api import Browser, sync_playwright
from servers import Servers

LOG_LINES = 40
END_SECONDS = 120.0  # for a prompt that is cancelled, on a busy machine
SIDE_PANEL = 380  # pixels; the newest frontend is opened with its side panel


@pytest.fixture(scope="session")
def frontend_name(request: pytest.FixtureRequest) -> str:
    """Which frontend a test uses: "pinned", which the host asks for, or "newest" (see `in_every_frontend`)."""
    return getattr(request, "param", "pinned")


@pytest.fixture(scope="session")
def nodes_2(request: pytest.FixtureRequest) -> bool:
    """Whether a test uses the frontend's newer nodes instead of the classic canvas."""
    return getattr(request, "param", False)


@pytest.fixture(scope="session")
def servers(comfy_host: Path, repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Live ComfyUIs with this pack and the nodes for tests."""
    paths = tmp_path_factory.mktemp("nodes") / "paths.yaml"
    nodes = {"base_path": str(repo / "tests" / "host"), "custom_nodes": "pack"}
    paths.write_text(json.dumps({"nodes": nodes}), encoding="utf-8")  # JSON is YAML
    with Servers(comfy_host, ["--extra-model-paths-config", str(paths)]) as running:
        yield running


@pytest.fixture(scope="session")
def server(servers: Servers, frontend_name: str) -> ComfyServer:
    """The live ComfyUI that serves the test's frontend."""
    return servers.with_frontend(frontend_name)


@pytest.fixture(scope="session")
def client(server: ComfyServer) -> ComfyClient:
    """A client of this server. The client of the other tests belongs to another server."""
    return server.client()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium. Without one, these tests are skipped with a message."""
    try:
        program = ensure_chromium()
    except NoBrowser as error:
        say(f"THE BROWSER TESTS ARE SKIPPED: {error}")
        pytest.skip(f"THE BROWSER TESTS DID NOT RUN: {error}")
    as_root = hasattr(os, "geteuid") and os.geteuid() == 0
    arguments = ["--no-sandbox"] if as_root else []
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=str(program), args=arguments)
        yield running
        running.close()


OpenFrontend = Callable[..., Frontend]
"""Opens the frontend in a new profile, with values of its settings by name."""


def _end_all_prompts(client: ComfyClient) -> None:
    """Cancel what runs and what waits, until there is nothing: the next test finds an idle server."""
    limit = time.monotonic() + END_SECONDS
    while any(client.get_json("/queue").values()):
        assert time.monotonic() < limit, "a prompt does not end"
        client.post("/queue", {"clear": True})
        client.post("/interrupt", {})
        time.sleep(0.1)


@contextlib.contextmanager
def _frontends(browser: Browser, server: ComfyServer, name: str, nodes_2: bool) -> Iterator[OpenFrontend]:
    """Closes all pages at the end, and fails if our own script failed in one."""
    opened: list[Frontend] = []
    client = server.client()
    with_panel = name == "newest"
    always = {
        "Comfy.TutorialCompleted": True,
        "Comfy.VueNodes.Enabled": nodes_2,
        "Comfy.RightSidePanel.IsOpen": with_panel,
    }
    viewport = {**VIEWPORT, "width": VIEWPORT["width"] + with_panel * SIDE_PANEL}
    with contextlib.ExitStack() as contexts:

        def open_frontend(**settings: object) -> Frontend:
            for setting, value in {**always, **settings}.items():
                client.post(f"/settings/{setting}", value)
            context = browser.new_context(viewport=viewport)
            contexts.callback(context.close)
            opened.append(Frontend(context.new_page(), server.url, with_panel))
            return opened[-1]

        yield open_frontend
        _end_all_prompts(client)
        faults = [fault for frontend in opened for fault in frontend.faults]
    assert not faults, f"our script failed in the page: {faults}"


@pytest.fixture
def open_frontend(browser: Browser, server: ComfyServer, frontend_name: str, nodes_2: bool) -> Iterator[OpenFrontend]:
    """Opens pages for one test."""
    with _frontends(browser, server, frontend_name, nodes_2) as opens:
        yield opens


@pytest.fixture(scope="module")
def open_shared_frontend(
    browser: Browser, server: ComfyServer, frontend_name: str, nodes_2: bool
) -> Iterator[OpenFrontend]:
    """Opens pages for all tests of a module."""
    with _frontends(browser, server, frontend_name, nodes_2) as opens:
        yield opens


@pytest.fixture
def frontend(open_frontend: OpenFrontend) -> Frontend:
    """A new page of the frontend."""
    return open_frontend()


@pytest.fixture(scope="module")
def shared_frontend(open_shared_frontend: OpenFrontend) -> Frontend:
    """A page for all tests of a module that open a workflow of their own in it."""
    return open_shared_frontend()


@pytest.fixture(autouse=True)
def _log_of_this_test(browser: Browser, server: ComfyServer, request: pytest.FixtureRequest) -> None:
    """Store the length of the server's log at the start of the test. Without a browser, no server is started."""
    request.node.server_log = (server, len(server.log()))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    report = yield
    if report.failed and hasattr(item, "server_log"):
        running, begin = item.server_log
        lines = running.log()[begin:].splitlines()[-LOG_LINES:]
        report.sections.append(("ComfyUI's log during this test", "\n".join(lines)))
        frontend = item.funcargs.get("frontend") or item.funcargs.get("shared_frontend")
        if frontend is not None:
            name = re.sub(r"\W+", "_", item.name)
            path = Path(item.config.rootpath) / "output" / f"browser_{name}.png"
            path.parent.mkdir(exist_ok=True)
            frontend.page.screenshot(path=path)
            report.sections.append(("The page", f"{path}\n{frontend.page.evaluate('document.body.innerText')[:2000]}"))
    return report
