"""Submit a workflow in API format to ComfyUI and follow it to its end.

    python client.py workflow_api.json --set KSampler.seed=42 --save pictures --accept-after 10

It needs Python 3.10, comfy_client.py beside it, and: pip install requests websocket-client tqdm
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 10):  # noqa: UP036 - this is what tells the user
    sys.exit(f"Python 3.10 or newer is needed; this is {sys.version.split()[0]}.")

import argparse
import contextlib
import io
import json
import math
import re
import shutil
import time
import urllib.parse
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from comfy_client import (  # noqa: F401 - some are for those who import them from here
    DEFAULT_SERVER,
    ClientError,
    ComfyClient,
    ConnectionLost,
    EventStream,
    ExecutionError,
    HttpError,
    Interrupted,
    Json,
    Preview,
    Run,
    Timeout,
    UsageError,
    ValidationError,
    follow,
    node_lines,
    view_path,
)

BAR_WIDTH = 24
EXIT_CODES = """\
exit codes:
  0    done
  1    a node failed on the server
  2    wrong use of this command, a missing package, or a workflow that the server refuses
  3    the server cannot be reached, or was lost
  4    the time of --timeout was over; the prompt has been cancelled
  5    somebody else interrupted the prompt or removed it from the queue, or the server restarted
  130  Ctrl-C; the prompt has been cancelled
"""


class Cancelled(ClientError):
    """The user pressed Ctrl-C."""

    outcome, exit_code = "cancelled", 130


def load_workflow(path: Path | str) -> Json:
    """Read a workflow in API format. A UsageError says what is wrong with the file."""
    try:
        workflow = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}") from error
    if isinstance(workflow, dict) and isinstance(workflow.get("nodes"), list):
        remedy = "Open it in ComfyUI and export it in API format: menu Workflow > Export (API)."
        raise UsageError(f"{path} is a workflow as the ComfyUI page saves it. {remedy}")
    if not isinstance(workflow, dict) or not workflow:
        raise UsageError(f"{path} is not a workflow in API format")
    for node_id, node in workflow.items():
        if not isinstance(node, dict) or "class_type" not in node or not isinstance(node.get("inputs"), dict):
            raise UsageError(f"{path} is not a workflow in API format: {node_id!r} has no class_type and inputs")
    return workflow


def node_title(workflow: Json, node_id: str) -> str:
    """The title that the page shows for a node."""
    node = workflow.get(node_id, {})
    return (node.get("_meta") or {}).get("title") or node.get("class_type", f"node {node_id}")


def parse_setting(workflow: Json, text: str) -> tuple[str, str, Any]:
    """Node id, input and value of a NODE.INPUT=VALUE, where NODE is an id or a title."""
    target, equals, value = text.partition("=")
    if not equals or not all(target.partition(".")):
        raise UsageError(f"{text!r} is not of the form NODE.INPUT=VALUE")
    parts = target.split(".")
    for count in range(len(parts) - 1, 0, -1):  # a title may contain dots, and so may the name of an input
        name, key = ".".join(parts[:count]), ".".join(parts[count:])
        found = [name] if name in workflow else [node for node in workflow if node_title(workflow, node) == name]
        if len(found) > 1:
            raise UsageError(f"{len(found)} nodes have the title {name!r}: name one by its id ({', '.join(found)})")
        if found and key:
            return found[0], key, parse_value(value)
    nodes = ", ".join(f"{node_id} ({node_title(workflow, node_id)})" for node_id in workflow)
    raise UsageError(f"no node has the id or title {parts[0]!r}; there are {nodes}")


def parse_value(text: str) -> Any:
    """The decoded value if the text is JSON, else the text."""
    try:
        return json.loads(text, parse_constant=int)  # int() refuses NaN and Infinity, which are not JSON
    except ValueError:
        return text


def override(workflow: Json, settings: list[str], known_inputs: Callable[[str], set[str] | None]) -> None:
    """Set inputs of a workflow. known_inputs: those of a class, or None; it is called for absent inputs only."""
    for text in settings:
        node_id, key, value = parse_setting(workflow, text)
        inputs = workflow[node_id]["inputs"]
        known = None if key in inputs else known_inputs(workflow[node_id]["class_type"])
        if known is not None and key.split(".")[0] not in known:  # a part of an input that grows is called name.part
            where = f"node {node_id} ({node_title(workflow, node_id)})"
            raise UsageError(f"{where} has no input {key!r}; it has {', '.join(sorted(known | inputs.keys()))}")
        inputs[key] = value


class Progress:
    """Shows how far a run is: a bar on a terminal, else a line for each quarter; and a line for each hit.

    label: gives the name to show for a node id.
    """

    def __init__(self, label: Callable[[str], str], quiet: bool = False):
        self._label, self._quiet = label, quiet
        self._live = sys.stderr.isatty()
        self._bar: Any = None
        self._node: str | None = None
        self._quarters = 0
        self._parallel: set[str] = set()

    def __call__(self, kind: str, data: Json) -> None:
        """Take one event."""
        if kind == "progress" and str(data.get("node")) not in self._parallel:
            self._advance(str(data.get("node")), data.get("value", 0), data.get("max", 1))
        elif kind == "chords" and data["kind"] == "plan":
            self._node = None
            if data.get("method") in ("chords", "secant"):
                self._parallel.add(data["node_id"])  # the host's own progress of it counts in another unit
        elif kind == "chords" and data["kind"] == "step":
            self._advance(data["node_id"], data["depth"], data["of"])
        elif kind == "chords" and data["kind"] == "hit":
            change = f", change {data['change']:.4f}" if data.get("change") is not None else ""
            hit = f"hit {data['index']} ({core_name(data)}): depth {data['depth']}, {data['seconds']:.2f} s{change}"
            self.line(f"{self._label(data['node_id'])}: {hit}")

    def _advance(self, node: str, value: float, total: float) -> None:
        share = min(max(value / total, 0.0), 1.0) if total else 1.0
        if node != self._node:
            self._node, self._quarters = node, 0
        if self._live and not self._quiet:
            self._draw(self._label(node), share, f"{value:g}/{total:g}")
        elif int(4 * share) > self._quarters:
            self._quarters = int(4 * share)
            self.line(f"{self._label(node)}: {value:g} of {total:g}")

    def _draw(self, label: str, share: float, count: str) -> None:
        from tqdm import tqdm

        if self._bar is None:  # delay: draw nothing before refresh(); nrows: some terminals report a height of 0
            self._bar = tqdm(total=1.0, file=sys.stderr, leave=False, ascii=".#", delay=math.inf, nrows=24)
        self._bar.ncols = shutil.get_terminal_size().columns - 1
        self._bar.bar_format = f"  {{desc}}: [{{bar:{BAR_WIDTH}}}] {count}"
        self._bar.desc = label[: max(0, self._bar.ncols - len(f"  : [] {count}") - BAR_WIDTH)]
        self._bar.n = share
        self._bar.refresh()

    def line(self, text: str) -> None:
        """Print a line that stays."""
        self.clear()
        if not self._quiet:
            print(f"  {text}", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.clear()


def core_name(event: Json) -> str:
    """Which core a hit is of, in words."""
    if event["core"]:
        return f"core {event['core']}"
    return "window" if event["index"] else "draft"


class Acceptance:
    """Ends each CHORDS run of a prompt `after` some seconds (math.inf: never), or with the `hit` of this index.

    The server is asked for a hit at the beginning of the run, and takes it when it comes.
    """

    def __init__(self, client: ComfyClient, prompt_id: str, after: float, hit: int | None, note: Callable[[str], None]):
        self._client, self._prompt_id, self._after, self._hit, self._note = client, prompt_id, after, hit, note
        self._begun: set[str] = set()
        self._due: dict[str, float] = {}  # node id -> when to accept

    def event(self, data: Json) -> None:
        """Take an event of a CHORDS run."""
        node = data["node_id"]
        has_hits = data["kind"] == "plan"
        if has_hits or (data["kind"] == "iteration" and node not in self._begun and self._hit is None):
            self._begun.add(node)
            self._due[node] = time.monotonic() + (self._after if self._hit is None else 0.0)
        elif data["kind"] in ("accepted", "done"):
            self._due.pop(node, None)
            if data["kind"] == "accepted" and self._hit is not None and data["index"] != self._hit:
                self._note(f"hit {self._hit} was not taken: the run ended with hit {data['index']}")
        self.tick()

    def tick(self) -> None:
        """Accept what is due."""
        now = time.monotonic()
        for node in [node for node, when in self._due.items() if when <= now]:
            del self._due[node]
            try:
                self._client.accept(self._prompt_id, node, self._hit)
            except HttpError as error:
                if error.code != 409:  # 409: the run has ended by itself
                    self._note(f"could not accept: {error}")
            except ConnectionLost:
                self._due[node] = now + 1.0


class Pictures:
    """Saves the pictures of hits as they come, and at the end the files of the workflow, into a folder."""

    def __init__(self, client: ComfyClient, folder: Path, note: Callable[[str], None]):
        self._client, self._folder, self._note = client, folder, note
        self._runs: dict[str, int] = {}
        self._cores: dict[tuple[str, int], str] = {}
        self._previews: dict[str | None, Preview] = {}
        self.files: list[Path] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot make the folder {folder}: {error.strerror or error}") from error

    def preview(self, preview: Preview) -> None:
        """Keep the newest preview of each node: just before a hit's `picture` event, it shows the hit."""
        self._previews[preview.node_id] = preview

    def event(self, data: Json) -> Path | None:
        """Take an event of a CHORDS run. Returns the file if it saved the picture of a hit."""
        if data["kind"] == "plan":
            self._runs[data["node_id"]] = max(self._runs.values(), default=0) + 1
        elif data["kind"] == "hit":
            self._cores[data["node_id"], data["index"]] = core_name(data).replace(" ", "_")
        return self._hit(data["node_id"], data["index"], data["image"]) if data["kind"] == "picture" else None

    def _hit(self, node: str, index: int, image: Json) -> Path | None:
        try:
            content, suffix = self._client.view(image), Path(_local_name(image["filename"])).suffix
        except ConnectionLost as error:
            preview = self._previews.get(node)
            if preview is None:
                self._note(f"could not fetch the picture of hit {index}: {error}")
                return None
            content, suffix = preview.data, ".png" if preview.mime == "image/png" else ".jpg"
        run = self._runs.get(node, 1)
        return self._write(f"run_{run}_" * (run > 1) + f"hit_{index}_{self._cores[node, index]}{suffix}", content)

    def outputs(self, run: Run) -> None:
        """Save the files that the workflow's nodes left."""
        for image in output_files(run):
            self._write(_local_name(image["filename"]), self._client.view(image))

    def _write(self, name: str, content: bytes) -> Path:
        """Write a whole file or none. Files of this prompt do not replace each other."""
        path, number = self._folder / name, 1
        while path in self.files:
            number += 1
            path = self._folder / f"{Path(name).stem}_{number}{Path(name).suffix}"
        part = self._folder / f".{uuid.uuid4().hex}.part"
        try:
            part.write_bytes(content)
            part.replace(path)
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
        finally:
            with contextlib.suppress(OSError):
                part.unlink()
        self.files.append(path)
        return path


def output_files(run: Run) -> list[Json]:
    """The files that nodes wrote to the output folder. If there are none, the files that they only show."""
    reported = [value for output in run.outputs.values() for value in output.values() if isinstance(value, list)]
    files = [item for items in reported for item in items if isinstance(item, dict) and "filename" in item]
    return [file for file in files if file.get("type") == "output"] or files


def _local_name(name: str) -> str:
    """The last part of a name that a server gave, so that the server cannot choose the folder."""
    last = re.split(r"[\\/]", name)[-1]
    return last if last.strip(". ") else "file"


class Job:
    """One call of the command: a prompt from the workflow's file to the last picture."""

    def __init__(self, options: argparse.Namespace):
        self._options = options
        self._workflow: Json = {}
        self._progress = Progress(lambda node: node_title(self._workflow, node), options.quiet)
        self._pictures: Pictures | None = None
        self._run: Run | None = None
        self._hits: list[Json] = []
        self._accepted: list[Json] = []

    def go(self) -> None:
        """Do all of it. A ClientError says what went wrong."""
        self._workflow = load_workflow(self._options.workflow)
        self._client = client = ComfyClient(self._options.server)
        override(self._workflow, self._options.set, self._known_inputs)
        if self._options.save is not None:
            self._pictures = Pictures(client, self._options.save, self._progress.line)
        try:
            with client.listening() as (stream, how):
                # With an id of our own, the prompt can be cancelled as soon as it is sent. Older servers choose the id.
                self._run = run = Run(str(uuid.uuid4()))
                try:
                    answer = client.submit(self._workflow, {"prompt_id": run.prompt_id})
                    run.prompt_id = answer["prompt_id"]
                    self._progress.line(f"prompt {run.prompt_id}")
                    for line in node_lines(answer.get("node_errors") or {}, self._workflow):
                        self._progress.line(f"left out: {line.strip()}")
                    self._progress.line(how)
                    self._follow(run, stream)
                except (KeyboardInterrupt, Timeout, UsageError):
                    self._cancel(run.prompt_id)
                    raise
            if self._pictures is not None:
                self._pictures.outputs(run)
        finally:
            self._progress.clear()

    def _known_inputs(self, class_type: str) -> set[str] | None:
        info = self._client.object_info(class_type).get(class_type)
        return info and {name for group in ("required", "optional") for name in info["input"].get(group, ())}

    def _follow(self, run: Run, stream: EventStream | None) -> None:
        options, line = self._options, self._progress.line
        acceptance = Acceptance(self._client, run.prompt_id, options.accept_after, options.accept_hit, line)
        for message in follow(self._client, run, stream, options.timeout):
            acceptance.tick()
            if isinstance(message, str):
                line(message)
            elif isinstance(message, Preview) and self._pictures is not None:
                self._pictures.preview(message)
            elif isinstance(message, tuple):
                self._progress(*message)
                if message[0] == "chords":
                    acceptance.event(message[1])
                    self._chords(message[1])

    def _chords(self, data: Json) -> None:
        """Keep what the report needs of an event of a CHORDS run, and show what a user wants to know at once."""
        content = {key: value for key, value in data.items() if key not in ("prompt_id", "kind")}
        if data["kind"] == "plan":
            self._progress.line(f"{node_title(self._workflow, data['node_id'])}: {data['message']}")
        elif data["kind"] == "lane":
            self._progress.line(f"device {data['device']} {data['state']}: {data['error']}")
        elif data["kind"] == "hit":
            self._hits.append(content)
        elif data["kind"] == "accepted":
            self._accepted.append(content)
        file = self._pictures.event(data) if self._pictures is not None else None
        if data["kind"] == "picture":
            key = (data["node_id"], data["index"])
            hit = next(hit for hit in reversed(self._hits) if (hit["node_id"], hit["index"]) == key)
            hit["image"] = data["image"]
            if file is not None:
                hit["file"] = str(file)
                self._progress.line(f"saved {file}")

    def _cancel(self, prompt_id: str) -> None:
        self._client.timeout = min(self._client.timeout, 10.0)
        try:
            self._client.cancel(prompt_id)
        except ConnectionLost as error:
            self._progress.line(f"could not cancel the prompt: {error}")

    def finish(self, error: ClientError | None) -> int:
        """Print the result. Returns the exit code."""
        run, pictures = self._run or Run(""), self._pictures
        files = [str(path) for path in pictures.files] if pictures is not None else []
        if error is not None:
            print(f"error: {error}", file=sys.stderr)
        if self._options.json:
            report = {
                "prompt_id": run.prompt_id or None,
                "status": "success" if error is None else error.outcome,
                "error": None if error is None else str(error),
                "hits": self._hits,
                "accepted": self._accepted,
                "outputs": run.outputs,
                "files": files,
            }
            print(json.dumps(report))
        elif error is None and not self._options.quiet:
            print(f"done in {run.seconds:.1f} s")
            for hit in self._accepted:
                why = "on request" if hit.get("by") == "request" else "as planned"
                print(f"taken: hit {hit['index']} ({core_name(hit)}) at depth {hit['depth']}, {why}")
            for file in files:
                print(f"saved: {file}")
            for image in output_files(run) if pictures is None else []:
                print(f"output: {self._client.url}{view_path(image)}")
        return 0 if error is None else error.exit_code


def server_address(text: str) -> str:
    """A type for argparse: the server's URL, in which http:// may be left out."""
    address = text if "://" in text else f"http://{text}"
    if urllib.parse.urlsplit(address).scheme not in ("http", "https"):
        raise argparse.ArgumentTypeError(f"{text!r} is not the address of a web server, such as {DEFAULT_SERVER}")
    return address


def not_negative(kind: Callable[[str], float]) -> Callable[[str], float]:
    """A type for argparse: a finite number of 0 or more."""

    def number(text: str) -> float:
        value = kind(text)
        if not 0 <= value < math.inf:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number of 0 or more")
        return value

    return number


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command's arguments."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXIT_CODES, formatter_class=raw)
    add = parser.add_argument
    add("workflow", type=Path, help="the workflow, as the page's menu Workflow > Export (API) saves it")
    add("--server", type=server_address, default=DEFAULT_SERVER, metavar="URL", help=f"default {DEFAULT_SERVER}")
    words = "set an input of the node of this id or title; VALUE is JSON, or else a text; may be repeated"
    add("--set", action="append", default=[], metavar="NODE.INPUT=VALUE", help=words)
    accept = parser.add_mutually_exclusive_group()
    words = "take the best result so far this long after a CHORDS sampler began"
    accept.add_argument("--accept-after", type=not_negative(float), default=math.inf, metavar="SECONDS", help=words)
    words = "take hit N when it comes (0: the draft)"
    accept.add_argument("--accept-hit", type=not_negative(int), metavar="N", help=words)
    add("--save", type=Path, metavar="FOLDER", help="save each hit's picture when it comes, and the outputs")
    words = "cancel the prompt if it is not done by then"
    add("--timeout", type=not_negative(float), default=math.inf, metavar="SECONDS", help=words)
    add("--quiet", action="store_true", help="no progress, no summary: errors only")
    add("--json", action="store_true", help="print the result as one JSON object instead of in words")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse_options(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # titles may hold letters that the terminal's encoding lacks
    job = Job(options)
    try:
        job.go()
    except KeyboardInterrupt:
        return job.finish(Cancelled("cancelled"))
    except ClientError as error:
        return job.finish(error)
    return job.finish(None)


if __name__ == "__main__":
    raise SystemExit(main())
