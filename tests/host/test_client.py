"""The command-line client, and the example of docs/headless.md, on the live server."""

from __future__ import annotations

import http.server
import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from _env import venv_python
from _server import ComfyServer
from client import ComfyClient, Run
from comfy_client import follow
from PIL import Image

SAMPLER = "KSampler (CHORDS)"
STEPS = 40
ENOUGH_SECONDS = 300.0  # for whatever a busy machine does within seconds
BY_POLLING = "following by polling: no websocket at http://"
BY_SOCKET = "following by websocket"
seeds = itertools.count(770_000)  # a seed seen before would be answered from the server's cache
posix_only = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
StartClient = Callable[..., "subprocess.Popen[str]"]
CallClient = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def workflow(repo: Path) -> Path:
    """The shipped workflow."""
    return repo / "workflows" / "api" / "chords_demo.json"


@pytest.fixture
def held(workflow: Path, tmp_path: Path) -> Path:
    """The shipped workflow, which waits after its first result until `_let_go` or a cancel."""
    graph = json.loads(workflow.read_text(encoding="utf-8"))
    inputs = {"model": graph["6"]["inputs"]["model"], "results": 1, "salt": next(seeds)}
    graph["held"] = {"class_type": "TestHeldModel", "inputs": inputs}
    graph["6"]["inputs"]["model"] = ["held", 0]
    file = tmp_path / "held.json"
    file.write_text(json.dumps(graph), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def without_socket(server: ComfyServer) -> Iterator[str]:
    """The address of a relay to the server that passes no websockets on, as many proxies do."""

    class Relay(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.path.startswith("/ws"):
                return self.send_error(400)
            answer = requests.request(self.command, server.url + self.path, data=body, timeout=ENOUGH_SECONDS)
            self.send_response(answer.status_code)
            self.end_headers()
            self.wfile.write(answer.content)

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Relay) as relay:
        threading.Thread(target=relay.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{relay.server_port}"
        relay.shutdown()


@pytest.fixture
def start(
    server: ComfyServer, without_socket: str, repo: Path, workflow: Path, tmp_path: Path
) -> Iterator[StartClient]:
    """Starts a copy of the client, far from its repository, with the shipped workflow."""
    script = tmp_path / "copied" / "client.py"
    script.parent.mkdir()
    for name in ("client.py", "comfy_client.py"):
        shutil.copyfile(repo / "scripts" / name, script.parent / name)
    started = []

    def start(*arguments: str, file: Path = workflow, url: str | None = None, socket: bool = True) -> Any:
        url = url or (server.url if socket else without_socket)
        command = [str(venv_python()), str(script), str(file), "--server", url, *arguments]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "encoding": "utf-8"}
        started.append(subprocess.Popen(command, env=environment, cwd=tmp_path, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def call(start: StartClient) -> CallClient:
    """Runs the client to its end."""

    def call(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        process = start(*arguments, **options)
        out, err = process.communicate(timeout=ENOUGH_SECONDS)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    return call


@pytest.fixture(autouse=True)
def _the_server_is_idle_again(client: ComfyClient) -> Iterator[None]:
    """Whatever a test leaves behind, the next one finds nothing before it in the queue."""
    yield
    _let_go(client)
    for item in (item for items in client.get_json("/queue").values() for item in items):
        client.cancel(item[1])
        assert _gone(client, item[1])


def _settings(**inputs: Any) -> list[str]:
    """Arguments that set inputs of the sampler, four cores, and a new seed."""
    inputs = {"seed": next(seeds), "steps": STEPS, "cores": 4, **inputs}
    return [word for key, value in inputs.items() for word in ("--set", f"{SAMPLER}.{key}={value}")]


def _read_until(process: subprocess.Popen[str], text: str) -> str:
    """What the process writes to stderr until a line holds the text."""
    lines = ""
    while text not in lines:
        line = process.stderr.readline()
        assert line, f"it ended, and wrote: {lines}"
        lines += line
    return lines


def _let_go(client: ComfyClient) -> None:
    """The held run goes on to its end."""
    client.post("/chords_test/let_go", {})


def _let_go_when_accepted(client: ComfyClient) -> None:
    """Wait until the held run has been accepted, and let it go on."""
    end = time.monotonic() + ENOUGH_SECONDS
    while True:
        running = [item[1] for item in client.get_json("/queue")["queue_running"]]
        if any(event["kind"] == "accepted" for prompt in running for event in client.chords_events(prompt)):
            return _let_go(client)
        assert time.monotonic() < end, "nobody accepted it"
        time.sleep(0.05)


def _gone(client: ComfyClient, prompt_id: str) -> bool:
    """Whether the server neither runs the prompt nor will, within a while."""
    limit = time.monotonic() + ENOUGH_SECONDS
    while client.is_queued(prompt_id) and time.monotonic() < limit:
        time.sleep(0.05)
    return not client.is_queued(prompt_id)


def _runs_the_next(client: ComfyClient, workflow: Path) -> bool:
    """Whether the server goes on to work."""
    graph = json.loads(workflow.read_text(encoding="utf-8"))
    graph["6"]["inputs"]["seed"] = next(seeds)
    return client.run(graph).history["status"]["status_str"] == "success"


@pytest.mark.parametrize(("socket", "said"), [(True, BY_SOCKET), (False, BY_POLLING)], ids=["socket", "polling"])
def test_every_hit_is_saved_in_order(call: CallClient, tmp_path: Path, socket: bool, said: str) -> None:
    folder = tmp_path / "pictures"
    done = call(*_settings(fidelity="exact"), "--save", str(folder), "--json", socket=socket)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(said) == 1
    report = json.loads(done.stdout)
    assert report["status"] == "success"
    assert [(hit["index"], hit["core"]) for hit in report["hits"]] == [(0, 0), (1, 4), (2, 3), (3, 2), (4, 1)]
    names = ["hit_0_draft.jpg", *(f"hit_{hit}_core_{5 - hit}.jpg" for hit in range(1, 5))]
    assert [Path(hit["file"]).name for hit in report["hits"]] == names
    *hits, output = map(Path, report["files"])
    assert [path.name for path in hits] == names
    assert output.name.startswith("chords_demo_") and output.read_bytes().startswith(b"\x89PNG")
    assert all(Image.open(path).size > (1, 1) for path in hits)
    assert sorted(hits, key=lambda path: path.stat().st_mtime_ns) == hits
    assert [taken["by"] for taken in report["accepted"]] == ["plan"]
    assert report["outputs"]["6"]["chords"][0]["depth"] == STEPS


def test_pictures_are_there_while_it_runs(start: StartClient, held: Path, tmp_path: Path) -> None:
    process = start(*_settings(fidelity="exact"), "--save", str(tmp_path / "pictures"), file=held)
    said = _read_until(process, "saved ")
    assert f"{SAMPLER}: hit 0 (draft): depth " in said
    assert Image.open(tmp_path / "pictures" / "hit_0_draft.jpg").size > (1, 1)
    assert process.poll() is None


@pytest.mark.parametrize("socket", [True, False], ids=["socket", "polling"])
def test_accept_at_a_hit(start: StartClient, client: ComfyClient, held: Path, socket: bool) -> None:
    """Also where a newer hit is there before the client asks."""
    after_two = ("--set", "held.results=2", "--accept-hit", "1")
    process = start(*_settings(fidelity="exact"), *after_two, file=held, socket=socket)
    _let_go_when_accepted(client)
    out, err = process.communicate(timeout=ENOUGH_SECONDS)
    assert process.returncode == 0, err
    taken = next(line for line in out.splitlines() if line.startswith("taken: "))
    assert taken.startswith("taken: hit 1 (core 4) at depth ") and taken.endswith(", on request")


@pytest.mark.parametrize("socket", [True, False], ids=["socket", "polling"])
def test_accept_after_seconds(start: StartClient, client: ComfyClient, held: Path, socket: bool) -> None:
    process = start(*_settings(fidelity="exact"), "--accept-after", "1", "--json", file=held, socket=socket)
    _let_go_when_accepted(client)
    out, err = process.communicate(timeout=ENOUGH_SECONDS)
    assert process.returncode == 0, err
    report = json.loads(out)
    assert [taken["by"] for taken in report["accepted"]] == ["request"]
    assert report["outputs"]["6"]["chords"][0]["seconds"] >= 0.9  # the client's second begins with the plan


def test_bad_overrides_name_what_there_is(call: CallClient, client: ComfyClient) -> None:
    before = len(client.get_json("/history"))
    done = call("--set", "Sampler.steps=3")
    assert done.returncode == 2
    assert "no node has the id or title 'Sampler'; there are 1 (CHORDS Demo Model), 2 (Prompt)" in done.stderr
    done = call("--set", "6.step=3")
    assert done.returncode == 2
    assert "node 6 (KSampler (CHORDS)) has no input 'step'; it has accept, cfg, cores" in done.stderr
    done = call(*_settings(steps=0))
    assert done.returncode == 2
    assert "node 6 (ChordsKSampler): " in done.stderr and "steps" in done.stderr
    assert len(client.get_json("/history")) == before


def test_an_input_that_the_file_leaves_out_can_be_set(call: CallClient, workflow: Path, tmp_path: Path) -> None:
    graph = json.loads(workflow.read_text(encoding="utf-8"))
    del graph["6"]["inputs"]["cores"]
    file = tmp_path / "less.json"
    file.write_text(json.dumps(graph), encoding="utf-8")
    done = call(*_settings(cores=3), "--json", file=file)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["outputs"]["6"]["chords"][0]["cores"] == 3


def test_a_file_of_the_page_is_explained(call: CallClient, tmp_path: Path) -> None:
    file = tmp_path / "page.json"
    file.write_text(json.dumps({"nodes": [], "links": [], "version": 0.4}), encoding="utf-8")
    done = call(file=file)
    assert done.returncode == 2
    assert "Export (API)" in done.stderr


@pytest.mark.parametrize("socket", [True, False], ids=["socket", "polling"])
def test_unreachable(call: CallClient, socket: bool) -> None:
    done = call(url="http://127.0.0.1:1", socket=socket)
    assert done.returncode == 3
    assert "no answer from http://127.0.0.1:1" in done.stderr


@pytest.mark.parametrize("socket", [True, False], ids=["socket", "polling"])
def test_a_node_that_fails(call: CallClient, socket: bool) -> None:
    done = call(*_settings(), "--set", "CHORDS Devices.devices=cuda:17", "--quiet", socket=socket)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "cuda:17" in done.stderr


@posix_only
@pytest.mark.parametrize("socket", [True, False], ids=["socket", "polling"])
def test_ctrl_c_while_it_runs(
    start: StartClient, client: ComfyClient, workflow: Path, held: Path, socket: bool
) -> None:
    process = start(*_settings(fidelity="exact"), "--json", file=held, socket=socket)
    _read_until(process, "hit 0")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=ENOUGH_SECONDS)
    assert process.returncode == 130
    assert "Traceback" not in err
    report = json.loads(out)
    assert report["status"] == "cancelled"
    assert _gone(client, report["prompt_id"])
    assert _runs_the_next(client, workflow)


@posix_only
def test_ctrl_c_while_it_waits(start: StartClient, client: ComfyClient, workflow: Path, held: Path) -> None:
    graph = json.loads(held.read_text(encoding="utf-8"))
    graph["6"]["inputs"] |= {"seed": next(seeds), "cores": 4, "fidelity": "exact"}
    first = client.queue(graph)
    process = start(*_settings(), "--json")
    _read_until(process, BY_SOCKET)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=ENOUGH_SECONDS)
    assert process.returncode == 130
    assert not client.is_queued(json.loads(out)["prompt_id"])
    assert client.is_queued(first)
    client.cancel(first)
    assert _gone(client, first)
    assert _runs_the_next(client, workflow)


def test_a_timeout_cancels(call: CallClient, client: ComfyClient, workflow: Path, held: Path) -> None:
    done = call(*_settings(fidelity="exact"), "--timeout", "1.5", "--json", file=held)
    assert done.returncode == 4, done.stderr
    assert _gone(client, json.loads(done.stdout)["prompt_id"])
    assert _runs_the_next(client, workflow)


@pytest.mark.parametrize("socket", [True, False], ids=["socket", "polling"])
def test_interrupted_by_somebody_else(start: StartClient, client: ComfyClient, held: Path, socket: bool) -> None:
    process = start(*_settings(fidelity="exact"), file=held, socket=socket)
    _read_until(process, "hit 0")
    client.interrupt()
    _, err = process.communicate(timeout=ENOUGH_SECONDS)
    assert process.returncode == 5
    assert "interrupted at node 6" in err


def test_a_stream_that_breaks_off_is_followed_by_polling(client: ComfyClient, workflow: Path) -> None:
    graph = json.loads(workflow.read_text(encoding="utf-8"))
    graph["6"]["inputs"] |= {"seed": next(seeds), "steps": STEPS, "cores": 4, "fidelity": "exact"}
    another = ComfyClient(client.url)
    notes: list[str] = []
    with another.socket() as stream:
        run = Run(another.queue(graph))
        for item in follow(another, run, stream, time_limit=ENOUGH_SECONDS):
            if isinstance(item, str):
                notes.append(item)
            elif isinstance(item, tuple) and item[0] == "chords" and item[1]["kind"] == "hit" and not notes:
                stream._connection.sock.close()
    assert len(notes) == 1 and notes[0].endswith("going on by polling")
    kinds = [event["kind"] for event in run.of_kind("chords") if event["kind"] != "step"]
    assert [kind for kind in kinds if kind != "picture"] == ["plan", *["hit"] * 5, "accepted", "done"]
    assert kinds.count("picture") == 5
    (image,) = run.images
    assert Image.open(io.BytesIO(client.view(image))).size == (128, 128)


def test_the_example_in_the_document(
    server: ComfyServer, client: ComfyClient, repo: Path, held: Path, tmp_path: Path
) -> None:
    text = (repo / "docs" / "headless.md").read_text(encoding="utf-8")
    code = text.split("## A complete example")[1].split("```python\n")[1].split("```")[0]
    (tmp_path / "example.py").write_text(code, encoding="utf-8")
    command = [str(venv_python()), "example.py", server.url.removeprefix("http://"), str(held)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "encoding": "utf-8"}
    with subprocess.Popen(command, cwd=tmp_path, **pipes) as process:
        _let_go_when_accepted(client)
        out, err = process.communicate(timeout=ENOUGH_SECONDS)
    assert process.returncode == 0, err
    lines = out.splitlines()
    assert any(line.startswith("hit 0: core 0, depth ") for line in lines)
    assert "taken: hit 1" in lines
    assert Image.open(tmp_path / "hit_0.jpg").size > (1, 1)
    assert Image.open(tmp_path / "hit_1.jpg").size > (1, 1)
    assert len(list(tmp_path.glob("chords_demo_*.png"))) == 1
