"""The server harness itself, with a stand-in for ComfyUI that starts at once."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import _server
import pytest
from _server import ComfyServer, ServerError
from client import ExecutionError, Interrupted, ValidationError

STAND_IN = """
import http.server, json, os, subprocess, sys, time
options = dict(zip(sys.argv[1::1], sys.argv[2::1]))
print("stand-in:", sys.argv[1:], "threads", os.environ.get("OMP_NUM_THREADS"))
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("child", child.pid, flush=True)
HISTORY = {
    "good": {"status": {"status_str": "success"}, "outputs": {"9": {"images": [{"filename": "a.png"}]}}},
    "bad": {"status": {"status_str": "error", "messages": [["execution_error", {
        "node_id": "3", "node_type": "Thing", "exception_type": "ValueError",
        "exception_message": "no such thing", "traceback": ["line 1"]}]]}},
    "cut": {"status": {"status_str": "error", "messages": [["execution_interrupted", {"node_id": "3"}]]}},
}
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.split("/")[-1]
        self.answer(200, {name: HISTORY[name]} if name in HISTORY else {})
    def do_POST(self):
        self.answer(400, {"error": {"message": "Prompt outputs failed validation", "details": ""},
            "node_errors": {"4": {"class_type": "KSampler", "errors": [
                {"message": "Value 0 smaller than min of 1", "details": "steps"}]}}})
    def answer(self, status, value):
        self.send_response(status); self.end_headers(); self.wfile.write(json.dumps(value).encode())
    def log_message(self, *_): pass
if os.environ.get("STAND_IN") == "fails":
    sys.exit("nothing works today")
if os.environ.get("STAND_IN") == "hangs":
    time.sleep(600)
http.server.HTTPServer(("127.0.0.1", int(options["--port"])), Handler).serve_forever()
"""
HOLDER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from _server import ComfyServer
with ComfyServer(sys.argv[2], cpu=True) as server:
    while "child" not in server.log():
        time.sleep(0.02)
    print(server.pid, server.log().split("child ")[1].split()[0], server.folder, flush=True)
    time.sleep(600)
"""
posix_only = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """A folder with a main.py that answers like ComfyUI, as far as these tests go."""
    folder = tmp_path / "stand in"
    folder.mkdir()
    (folder / "main.py").write_text(STAND_IN, encoding="utf-8")
    return folder


def _alive(pid: int) -> bool:
    """Whether a process runs (a zombie that nobody has waited for does not)."""
    stat = Path(f"/proc/{pid}/stat")
    if stat.parent.parent.joinpath("self").exists():
        with contextlib.suppress(OSError):
            return stat.read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _gone(*pids: int, within: float = 60.0) -> bool:
    limit = time.monotonic() + within
    while any(_alive(pid) for pid in pids):
        if time.monotonic() > limit:
            return False
        time.sleep(0.02)
    return True


def _child_of(server: ComfyServer) -> int:
    while "child" not in server.log():
        time.sleep(0.02)
    return int(server.log().split("child ")[1].split()[0])


def test_it_answers_and_leaves_nothing_behind(stand_in: Path) -> None:
    with ComfyServer(stand_in, cpu=True, arguments=["--extra", "1"]) as server:
        folder, pids = server.folder, (server.pid, _child_of(server))
        assert server.client().get_json("/object_info") == {}
        log = server.log()
        assert "threads 1" in log
        for option in ("--cpu", "--disable-auto-launch", "--disable-api-nodes", "--extra", str(server.port)):
            assert f"'{option}'" in log
    assert not folder.exists()
    assert _gone(*pids)
    assert sorted(path.name for path in stand_in.iterdir()) == ["main.py"]


def test_a_folder_of_ones_own_is_kept(stand_in: Path, tmp_path: Path) -> None:
    with ComfyServer(stand_in, cpu=True, threads=None, folder=tmp_path / "kept", output=tmp_path / "out") as server:
        assert server.output_directory == tmp_path / "out"
    assert (tmp_path / "kept" / "server.log").exists()


def test_an_exception_stops_it(stand_in: Path) -> None:
    with pytest.raises(ZeroDivisionError), ComfyServer(stand_in, cpu=True) as server:
        pids = (server.pid, _child_of(server))
        raise ZeroDivisionError
    assert _gone(*pids)


@pytest.mark.parametrize(
    ("behaviour", "message"), [("fails", "nothing works today"), ("hangs", "did not answer within 1 s")]
)
def test_a_failed_start_shows_the_log_and_stops_it(
    stand_in: Path, behaviour: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ComfyServer(
        stand_in, cpu=True, environment={"STAND_IN": behaviour}, time_limit=1 if behaviour == "hangs" else 600
    )

    limit = time.monotonic() + 300

    def monotonic() -> float:
        """Its second begins when the stand-in has begun to hang: on a busy machine Python itself may need longer."""
        now = time.monotonic()
        return now if behaviour == "fails" or "child" in server.log() or now > limit else 0.0

    monkeypatch.setattr(_server, "time", SimpleNamespace(monotonic=monotonic, sleep=time.sleep))
    with pytest.raises(ServerError, match=message) as caught:
        server.start()
    assert "stand-in:" in str(caught.value)
    assert server.pid is None
    assert _gone(int(str(caught.value).split("child ")[1].split()[0]))


@posix_only
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_its_owner_stops_it(stand_in: Path, repo: Path, number: int) -> None:
    command = [sys.executable, "-c", HOLDER, str(repo / "scripts"), str(stand_in)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as owner:
        server, child, folder = owner.stdout.readline().strip().split(" ", 2)
        assert _alive(int(server)) and _alive(int(child))
        owner.send_signal(number)
        owner.wait(timeout=120)
    assert owner.returncode != 0
    assert _gone(int(server), int(child))
    limit = time.monotonic() + 60
    while Path(folder).exists() and time.monotonic() < limit:
        time.sleep(0.05)
    assert not Path(folder).exists()


def test_errors_become_readable_exceptions(stand_in: Path) -> None:
    with ComfyServer(stand_in, cpu=True) as server:
        client = server.client()
        with pytest.raises(ValidationError, match=r"node 4 \(KSampler\): Value 0 smaller than min of 1: steps"):
            client.queue({"4": {"class_type": "KSampler", "inputs": {}}})
        with pytest.raises(ExecutionError, match=r"node 3 \(Thing\) failed: ValueError: no such thing"):
            client.wait("bad")
        with pytest.raises(Interrupted, match="at node 3"):
            client.wait("cut")
        with pytest.raises(TimeoutError):
            client.wait("unknown", time_limit=0.1)
        assert client.wait("good")["outputs"]["9"]["images"]


def test_the_free_port_is_ours(stand_in: Path) -> None:
    with ComfyServer(stand_in, cpu=True) as one, ComfyServer(stand_in, cpu=True) as two:
        assert one.port != two.port
        for server in (one, two):
            with urllib.request.urlopen(f"{server.url}/system_stats", timeout=60) as answer:
                assert answer.status == 200
