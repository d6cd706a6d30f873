"""The client with a stand-in for the server: following a prompt, the command line, exit codes."""

from __future__ import annotations

import contextlib
import http.server
import json
import math
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import client as module
import comfy_client
import pytest
from client import ComfyClient, ConnectionLost, Preview, Run, UsageError, main
from comfy_client import follow

WORKFLOW = {
    "1": {"class_type": "Prompt", "inputs": {"text": "", "v1.5": 0}, "_meta": {"title": "Prompt"}},
    "2": {"class_type": "ChordsKSampler", "inputs": {"steps": 4, "positive": ["1", 0]}, "_meta": {"title": "v1.5 one"}},
    "3": {"class_type": "Prompt", "inputs": {"text": ""}, "_meta": {"title": "Twice"}},
    "4": {"class_type": "Prompt", "inputs": {"text": ""}, "_meta": {"title": "Twice"}},
    "5:6": {"class_type": "SaveImage", "inputs": {}},
}
INPUTS = {"ChordsKSampler": {"input": {"required": {"steps": []}, "optional": {"cores": [], "images": []}}}}
SUCCESS = {
    "status": {"status_str": "success", "messages": []},
    "outputs": {
        "5:6": {"images": [{"filename": "out_1.png", "subfolder": "", "type": "output"}]},
        "7": {"images": [{"filename": "shown.png", "subfolder": "", "type": "temp"}], "text": ["x"]},
    },
}
IMAGE = {"filename": "abc_0.jpg", "subfolder": "chords", "type": "temp"}


def chords(kind: str, **fields: Any) -> dict[str, Any]:
    """An event as the server's record has it; the prompt's id is filled in by the stand-in."""
    return {"node_id": "2", "kind": kind, **fields}


RECORD = [
    chords("plan", method="chords", message="4 cores", cores=4),
    chords("hit", index=0, core=0, depth=1, seconds=0.1, change=None),
    chords("picture", index=0, image=IMAGE),
    chords("step", depth=3, of=4),
    chords("hit", index=1, core=4, depth=3, seconds=0.3, change=0.125),
    chords("accepted", index=1, core=4, depth=3, by="request"),
    chords("done", status="success"),
]


class StandIn:
    """A server that runs one prompt: what it answers is set by the tests, what it was asked is kept."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[tuple[str, Any]] = []
        self.refusal: tuple[int, Any] | None = None
        self.prompt_id = ""
        self.queued = True
        self.record: list[dict[str, Any]] = []
        self.entry: dict[str, Any] | None = SUCCESS
        self.looks_until_done = 2
        self.broken = 0  # so many of the next requests fail
        self.viewable = True
        self.accept_status = 200

    def posts(self, path: str) -> list[Any]:
        return [body for asked, body in self.asked if asked == f"POST {path}"]

    def get(self, path: str, query: dict[str, str]) -> tuple[int, Any]:
        if path.startswith("/object_info/"):
            name = path.rpartition("/")[2]
            return 200, {name: INPUTS[name]} if name in INPUTS else {}
        if path.startswith("/history/"):
            self.looks_until_done -= 1
            done = self.entry is not None and self.looks_until_done < 0
            return 200, {self.prompt_id: self.entry} if done else {}
        if path == "/queue":
            return 200, {"queue_running": [[0, self.prompt_id]] if self.queued else [], "queue_pending": []}
        if path.startswith("/chords/runs/") and self.record:
            return 200, {"events": [{"prompt_id": self.prompt_id, **event} for event in self.record]}
        if path == "/view" and self.viewable:
            return 200, f"picture {query['filename']}".encode()
        return 404, b"nothing here"

    def post(self, path: str, body: Any) -> tuple[int, Any]:
        if path == "/prompt":
            if self.refusal is not None:
                return self.refusal
            self.prompt_id = body["prompt_id"]
            return 200, {"prompt_id": self.prompt_id, "node_errors": {}}
        if path == "/chords/accept":
            return self.accept_status, {}
        return 200, b""


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """The stand-in at self.url, and a client with shorter time limits."""
    state = StandIn()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._do("GET", None)

        def do_POST(self) -> None:
            self._do("POST", json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _do(self, method: str, body: Any) -> None:
            parts = urllib.parse.urlsplit(self.path)
            state.asked.append((f"{method} {parts.path}", body))
            if state.broken:
                state.broken -= 1
                status, answer = 502, b"bad gateway"
            elif method == "GET":
                status, answer = state.get(parts.path, dict(urllib.parse.parse_qsl(parts.query)))
            else:
                status, answer = state.post(parts.path, body)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(answer if isinstance(answer, bytes) else json.dumps(answer).encode())

        def log_message(self, *_: Any) -> None:
            pass

    monkeypatch.setattr(comfy_client, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(comfy_client, "SILENCE_SECONDS", 0.3)
    monkeypatch.setattr(comfy_client, "OUTAGE_SECONDS", 0.5)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        state.url = f"http://127.0.0.1:{server.server_port}"
        yield state
        server.shutdown()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The workflow as a file."""
    path = tmp_path / "workflow.json"
    path.write_text(json.dumps(WORKFLOW), encoding="utf-8")
    return path


class Broken:
    """An event stream that breaks off."""

    def __init__(self, *items: Any) -> None:
        self._items = list(items)

    def receive(self, _time_limit: float) -> Any:
        if self._items:
            return self._items.pop(0)
        raise ConnectionLost("the server closed the connection")


def test_a_broken_stream_is_followed_by_polling_and_no_event_comes_twice(stand_in: StandIn) -> None:
    stand_in.prompt_id = "p"
    stand_in.record = [event | ({"image": IMAGE} if event["kind"] == "hit" else {}) for event in RECORD]
    streamed = [("chords", {"prompt_id": "p", **event}) for event in RECORD[:4]]
    run = Run("p")
    others = [("executing", {"node": "1", "prompt_id": "q"}), Preview(b"", "", metadata={"prompt_id": "q"})]
    yielded = list(follow(ComfyClient(stand_in.url), run, Broken(*streamed, *others)))
    notes = [item for item in yielded if isinstance(item, str | Preview)]
    assert [item for item in yielded if isinstance(item, tuple)] == run.events
    assert [data["kind"] for data in run.of_kind("chords")] == [event["kind"] for event in RECORD]
    assert notes == ["the server closed the connection; going on by polling"]
    assert run.history == SUCCESS


def test_a_silent_stream_is_noticed(stand_in: StandIn) -> None:
    class Silent(Broken):
        def receive(self, time_limit: float) -> Any:
            return super().receive(time_limit) if self._items else None

    stand_in.prompt_id, stand_in.record, stand_in.looks_until_done = "p", RECORD, 0
    run = Run("p")
    list(follow(ComfyClient(stand_in.url), run, Silent(*[("chords", {"prompt_id": "p", **e}) for e in RECORD[:2]])))
    assert len(run.of_kind("chords")) == len(RECORD)


def test_what_a_callback_raises_is_not_taken_for_a_broken_stream(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_kind: str, _data: dict[str, Any]) -> None:
        raise ConnectionLost("of my own")

    stand_in.record = RECORD
    client, more = ComfyClient(stand_in.url), {"on_event": fail, "extra": {"prompt_id": "p"}}
    for stream in (Broken(("executing", {"node": "1", "prompt_id": "p"})), None):
        monkeypatch.setattr(client, "listening", lambda stream=stream: contextlib.nullcontext((stream, "")))
        with pytest.raises(ConnectionLost, match="of my own"):
            client.run(WORKFLOW, **more)
    with pytest.raises(ConnectionLost, match="of my own"):
        client.run_polling(WORKFLOW, **more)


# ----------------------------------------------------------------------------------- the command line


def _call(stand_in: StandIn, file: Path, *arguments: str) -> int:
    return main([str(file), "--server", stand_in.url, *arguments])


def test_success_in_words(stand_in: StandIn, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stand_in.record = RECORD
    assert _call(stand_in, file, "--set", "2.cores=3") == 0
    out, err = capsys.readouterr()
    assert "following by polling: no websocket" in err
    assert "v1.5 one: 4 cores\n" in err
    assert "v1.5 one: hit 0 (draft): depth 1, 0.10 s\n" in err
    assert "v1.5 one: 3 of 4\n" in err
    assert "v1.5 one: hit 1 (core 4): depth 3, 0.30 s, change 0.1250\n" in err
    assert "taken: hit 1 (core 4) at depth 3, on request\n" in out
    assert f"output: {stand_in.url}/view?filename=out_1.png&subfolder=&type=output\n" in out
    (body,) = stand_in.posts("/prompt")
    assert body["prompt"]["2"]["inputs"]["cores"] == 3
    assert stand_in.posts("/queue") == stand_in.posts("/interrupt") == stand_in.posts("/chords/accept") == []


def test_success_as_json_with_files(stand_in: StandIn, file: Path, tmp_path: Path, capsys) -> None:
    stand_in.record = RECORD
    folder = tmp_path / "new" / "folder"
    assert _call(stand_in, file, "--json", "--quiet", "--save", str(folder)) == 0
    out, err = capsys.readouterr()
    assert err == ""
    report = json.loads(out)
    assert report["status"] == "success"
    assert report["error"] is None
    assert report["prompt_id"] == stand_in.prompt_id
    assert [(hit["index"], hit["core"], hit.get("file")) for hit in report["hits"]] == [
        (0, 0, str(folder / "hit_0_draft.jpg")),
        (1, 4, None),  # its picture was left out
    ]
    assert [hit.get("image") for hit in report["hits"]] == [IMAGE, None]
    assert report["accepted"] == [{"node_id": "2", "index": 1, "core": 4, "depth": 3, "by": "request"}]
    assert report["outputs"] == SUCCESS["outputs"]
    assert report["files"] == [str(folder / "hit_0_draft.jpg"), str(folder / "out_1.png")]
    assert (folder / "hit_0_draft.jpg").read_bytes() == b"picture abc_0.jpg"
    assert (folder / "out_1.png").read_bytes() == b"picture out_1.png"


def test_names_of_the_server_do_not_leave_the_folder(stand_in: StandIn, file: Path, tmp_path: Path) -> None:
    names = ["../../up.png", "..\\up.png", "/up.png", "..", "a/x.png", "b/x.png"]
    stand_in.entry = {"outputs": {"1": {"images": [{"filename": name, "type": "output"} for name in names]}}}
    assert _call(stand_in, file, "--quiet", "--save", str(tmp_path / "a" / "b")) == 0
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")) == [
        *("a/b/up.png", "a/b/up_2.png", "a/b/up_3.png", "a/b/x.png", "a/b/x_2.png", "workflow.json")
    ]
    assert (tmp_path / "a" / "b" / "file").exists()


def test_two_runs_in_one_prompt_keep_their_pictures_apart(stand_in: StandIn, file: Path, tmp_path: Path) -> None:
    other = [{**event, "node_id": "9"} for event in RECORD]
    stand_in.record = [*RECORD, *other]
    assert _call(stand_in, file, "--quiet", "--save", str(tmp_path / "out")) == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["hit_0_draft.jpg", "out_1.png", "run_2_hit_0_draft.jpg"]


def test_a_preview_stands_in_for_a_picture_that_cannot_be_fetched(stand_in: StandIn, tmp_path: Path) -> None:
    stand_in.viewable = False
    notes: list[str] = []
    pictures = module.Pictures(ComfyClient(stand_in.url), tmp_path, notes.append)
    for event in RECORD[:3]:
        pictures.event(event)
    assert len(notes) == 1 and "hit 0" in notes[0] and pictures.files == []
    pictures.preview(Preview(b"other", "image/jpeg", "1"))
    pictures.preview(Preview(b"seen", "image/png", "2"))
    assert pictures.event(RECORD[2]) == tmp_path / "hit_0_draft.png"
    assert (tmp_path / "hit_0_draft.png").read_bytes() == b"seen"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read"),
        ("{", "is not JSON: Expecting property name.*line 1 column 2"),
        (b"\xff\xfe{}", "is not JSON"),
        ("[]", "is not a workflow in API format"),
        ("{}", "is not a workflow in API format"),
        (json.dumps({"1": {"class_type": "A"}}), "'1' has no class_type and inputs"),
        (json.dumps({"nodes": [], "links": []}), r"menu Workflow > Export \(API\)"),
    ],
)
def test_files_that_are_no_workflow(stand_in: StandIn, tmp_path: Path, content, message: str, capsys) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert _call(stand_in, path) == 2
    assert stand_in.asked == []
    with pytest.raises(UsageError, match=message):
        module.load_workflow(path)
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--accept-after", "1", "--accept-hit", "1"],
        ["--accept-after", "-1"],
        ["--accept-after", "nan"],
        ["--accept-hit", "1.5"],
        ["--timeout", "soon"],
        ["--server", "ftp://x"],
        ["--unknown"],
    ],
    ids=" ".join,
)
def test_bad_arguments(stand_in: StandIn, file: Path, arguments: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        _call(stand_in, file, *arguments)
    assert caught.value.code == 2
    assert f"error: {'unrecognized arguments' if len(arguments) == 1 else 'argument --'}" in capsys.readouterr().err
    assert stand_in.asked == []


def test_bad_overrides_submit_nothing(stand_in: StandIn, file: Path, capsys) -> None:
    for setting in ("9.steps=1", "2.stops=1", "Twice.text=x", "nonsense"):
        assert _call(stand_in, file, "--set", setting) == 2
    assert stand_in.posts("/prompt") == []
    assert capsys.readouterr().err.count("error: ") == 4


def test_a_folder_that_cannot_be_made(stand_in: StandIn, file: Path, capsys) -> None:
    assert _call(stand_in, file, "--save", str(file / "below")) == 2
    assert "cannot make the folder" in capsys.readouterr().err
    assert stand_in.posts("/prompt") == []


def test_a_file_that_cannot_be_written_cancels(stand_in: StandIn, file: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "out" / "hit_0_draft.jpg").mkdir(parents=True)
    stand_in.record, stand_in.entry = RECORD, None
    assert _call(stand_in, file, "--save", str(tmp_path / "out")) == 2
    assert "cannot write" in capsys.readouterr().err
    assert stand_in.posts("/interrupt") == [{"prompt_id": stand_in.prompt_id}]


def test_half_a_picture_is_removed(
    stand_in: StandIn, file: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        with path.open("wb") as half:
            half.write(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    stand_in.record, stand_in.entry = RECORD, None
    assert _call(stand_in, file, "--save", str(tmp_path / "out")) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_a_refusal_names_node_and_input(stand_in: StandIn, file: Path, capsys) -> None:
    errors = [{"message": "Value 0 smaller than min of 1", "details": "steps"}]
    node_errors = {"2": {"class_type": "ChordsKSampler", "errors": errors}}
    stand_in.refusal = 400, {"error": {"message": "Prompt outputs failed validation"}, "node_errors": node_errors}
    assert _call(stand_in, file, "--json") == 2
    out, err = capsys.readouterr()
    assert "node 2 (ChordsKSampler): Value 0 smaller than min of 1: steps" in err
    assert json.loads(out)["status"] == "invalid"
    for body in (b"no JSON", [1], {"error": "plain"}):
        stand_in.refusal = 400, body
        assert _call(stand_in, file) == 2
        assert "refused the workflow" in capsys.readouterr().err


def test_an_error_on_the_server(stand_in: StandIn, file: Path, capsys) -> None:
    details = {"node_id": "3", "node_type": "Thing", "exception_type": "ValueError", "exception_message": "oh\n"}
    stand_in.entry = {"status": {"status_str": "error", "messages": [["execution_error", details]]}}
    assert _call(stand_in, file, "--json") == 1
    out, err = capsys.readouterr()
    assert "error: node 3 (Thing) failed: ValueError: oh\n" in err
    assert json.loads(out)["status"] == "error"


def test_unreachable(file: Path, capsys) -> None:
    assert main([str(file), "--server", "127.0.0.1:1", "--json"]) == 3
    out, err = capsys.readouterr()
    assert err.startswith("error: no answer from http://127.0.0.1:1: ")
    assert json.loads(out)["status"] == "unreachable"
    assert json.loads(out)["files"] == []


@pytest.mark.parametrize("package", ["requests", "websocket", "tqdm"])
def test_a_missing_package(stand_in: StandIn, file: Path, package: str, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert _call(stand_in, file) == 2
    assert f"pip install {comfy_client.PACKAGES}" in capsys.readouterr().err
    assert stand_in.asked == []


def test_another_web_server(stand_in: StandIn, file: Path, capsys) -> None:
    for answer in (b"<html>", b"[]", b'{"ok": true}'):
        stand_in.refusal = 200, answer
        assert _call(stand_in, file) == 3
        assert "does not answer as ComfyUI does" in capsys.readouterr().err


def test_a_server_that_stumbles_and_one_that_is_lost(
    stand_in: StandIn, file: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(comfy_client, "OUTAGE_SECONDS", 120.0)  # five requests may take long on a busy machine
    stand_in.looks_until_done = 3
    submit, stand_in.post = stand_in.post, lambda *request: (submit(*request), setattr(stand_in, "broken", 5))[0]
    assert _call(stand_in, file) == 0
    monkeypatch.setattr(comfy_client, "OUTAGE_SECONDS", 0.5)
    stand_in.looks_until_done = 3
    stand_in.post = lambda *request: (submit(*request), setattr(stand_in, "broken", math.inf))[0]
    assert _call(stand_in, file) == 3
    assert "lost the server: HTTP 502 from /history/" in capsys.readouterr().err


def test_a_timeout_cancels(stand_in: StandIn, file: Path, capsys) -> None:
    stand_in.entry = None
    assert _call(stand_in, file, "--timeout", "0.1", "--json") == 4
    assert json.loads(capsys.readouterr().out)["status"] == "timeout"
    assert stand_in.posts("/queue") == [{"delete": [stand_in.prompt_id]}]
    assert stand_in.posts("/interrupt") == [{"prompt_id": stand_in.prompt_id}]
    paths = [path for path, _ in stand_in.asked]
    assert paths.index("POST /queue") < paths.index("POST /interrupt")


def _replace_sleep(monkeypatch: pytest.MonkeyPatch, sleep: Any) -> None:
    """For the client alone: other threads of this process go on sleeping."""
    monkeypatch.setattr(comfy_client, "time", SimpleNamespace(monotonic=time.monotonic, sleep=sleep))


def test_cancelled_by_the_user(stand_in: StandIn, file: Path, monkeypatch, capsys) -> None:
    def press(*_: Any) -> None:
        raise KeyboardInterrupt

    _replace_sleep(monkeypatch, press)
    stand_in.entry = None
    assert _call(stand_in, file, "--json") == 130
    assert json.loads(capsys.readouterr().out)["status"] == "cancelled"
    assert stand_in.posts("/queue") == [{"delete": [stand_in.prompt_id]}]
    assert stand_in.posts("/interrupt") == [{"prompt_id": stand_in.prompt_id}]


def test_interrupted_by_somebody_else(stand_in: StandIn, file: Path, capsys) -> None:
    messages = [["execution_interrupted", {"node_id": "3"}]]
    stand_in.entry = {"status": {"status_str": "error", "messages": messages}}
    assert _call(stand_in, file) == 5
    assert "interrupted at node 3" in capsys.readouterr().err
    stand_in.entry, stand_in.queued = None, False
    assert _call(stand_in, file, "--json") == 5
    out, err = capsys.readouterr()
    assert "no longer in the server's queue" in err
    assert json.loads(out)["status"] == "interrupted"
    assert stand_in.posts("/interrupt") == []


@pytest.mark.parametrize("hit", [0, 1, 2])
def test_accept_a_hit(stand_in: StandIn, file: Path, hit: int) -> None:
    """The server is asked for it as soon as the run has begun, so that it cannot pass while the client polls."""
    stand_in.record = RECORD[:1]
    assert _call(stand_in, file, "--quiet", "--accept-hit", str(hit)) == 0
    wanted = {"prompt_id": stand_in.prompt_id, "node_id": "2", "index": hit}
    assert stand_in.posts("/chords/accept") == [wanted]


@pytest.mark.parametrize(("taken", "said"), [(1, False), (2, True)])
def test_a_hit_that_was_not_taken_is_named(stand_in: StandIn, file: Path, taken: int, said: bool, capsys) -> None:
    hits = [chords("hit", index=index, core=3, depth=3, seconds=0.3, change=0.1) for index in range(taken + 1)]
    accepted = chords("accepted", index=taken, core=3, depth=3, by="plan" if said else "request")
    stand_in.record = [RECORD[0], *hits, accepted, RECORD[-1]]
    assert _call(stand_in, file, "--accept-hit", "1") == 0
    out, err = capsys.readouterr()
    assert f"taken: hit {taken} (core 3) at depth 3, " in out
    assert ("hit 1 was not taken: the run ended with hit 2\n" in err) == said


def test_accept_after_a_while_counts_from_the_plan(stand_in: StandIn, file: Path) -> None:
    stand_in.record, stand_in.looks_until_done = RECORD[:1], 40
    moments: dict[str, float] = {}

    def noting(answer: Any) -> Any:
        def answered(path: str, given: Any) -> Any:
            moments.setdefault(path.removesuffix(stand_in.prompt_id), time.monotonic())
            return answer(path, given)

        return answered

    stand_in.get, stand_in.post = noting(stand_in.get), noting(stand_in.post)
    assert _call(stand_in, file, "--quiet", "--accept-after", "0.1") == 0
    assert len(stand_in.posts("/chords/accept")) == 1
    assert moments["/chords/accept"] - moments["/chords/runs/"] >= 0.1


@pytest.mark.parametrize(("status", "said"), [(409, False), (404, True)])
def test_an_accept_that_comes_too_late_is_no_matter(
    stand_in: StandIn, file: Path, status: int, said: bool, capsys
) -> None:
    stand_in.record, stand_in.accept_status = RECORD, status
    assert _call(stand_in, file, "--accept-hit", "0") == 0
    assert ("could not accept: HTTP 404" in capsys.readouterr().err) == said
    assert len(stand_in.posts("/chords/accept")) == 1
