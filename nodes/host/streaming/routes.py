"""The HTTP routes of the pack: accept a result of a run, read the events of a run, the texts on the nodes of a
workflow, the language of a page, and the metrics of all runs. docs/headless.md has the protocol, docs/operations.md
the metrics."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import web
from server import PromptServer

from ..monitoring.reporter import REPORTER, MetricsNotInstalled
from ..node_text import texts_of
from ..page_language import tell_language
from .stream import RUNS

_MAX_BODY_BYTES = 4096
_MAX_ID_LENGTH = 256


def register() -> None:
    """Add the routes to the host's server. Call it before the server starts."""
    routes = PromptServer.instance.routes
    routes.post("/chords/accept")(accept)
    routes.get("/chords/runs/{prompt_id}")(events)
    routes.get("/chords/texts/{workflow_id}")(texts)
    routes.get("/chords/metrics")(metrics)
    routes.post("/chords/language")(tell_language)


async def accept(request: web.Request) -> web.Response:
    """POST /chords/accept: end the run of a prompt with its best result so far, or with the one of an index."""
    try:
        prompt_id, node_id, index = _wanted(await _text(request))
    except BadBody as error:
        body = '{"prompt_id": "...", "node_id": "..." (optional), "index": 0, 1, ... (optional)}'
        return _error(400, f"{error}; the body must be {body}")
    runs = [run for run in RUNS.of(prompt_id).values() if node_id in (None, run.node_id)]
    if not runs:
        return _error(404, "no CHORDS run of this prompt (and node) has begun; it may still be in the queue")
    run = runs[-1]
    if not run.running:
        return _error(409, "this run is over")
    if index is not None and not run.has_hits:
        return _error(409, "this run has no results to choose from; leave out the index to take the best so far")
    return web.json_response({"prompt_id": run.prompt_id, "node_id": run.node_id, "index": run.ask(index)})


async def events(request: web.Request) -> web.Response:
    """GET /chords/runs/{prompt_id}: all events so far of the runs of a prompt."""
    runs = RUNS.of(request.match_info["prompt_id"])
    if not runs:
        return _error(404, "no CHORDS run of this prompt has begun, or newer prompts have replaced its record")
    return web.json_response(
        {
            "prompt_id": request.match_info["prompt_id"],
            "running": any(run.running for run in runs.values()),
            "events": [event for run in runs.values() for event in run.events()],
        }
    )


async def texts(request: web.Request) -> web.Response:
    """GET /chords/texts/{workflow_id}: the newest text of each node of a workflow."""
    return web.json_response({"texts": texts_of(request.match_info["workflow_id"])})


async def metrics(request: web.Request) -> web.Response:
    """GET /chords/metrics: the metrics of all runs since the server started, in Prometheus' text format."""
    try:
        text, content_type = await asyncio.to_thread(REPORTER.exposition)
    except MetricsNotInstalled as error:
        return _error(501, str(error))
    return web.Response(body=text, headers={"Content-Type": content_type})


class BadBody(ValueError):
    """The body of a request is not valid; the message says why."""


async def _text(request: web.Request) -> bytes:
    """The body of a request. No more than the allowed number of bytes is read."""
    text = b""
    try:
        while len(text) <= _MAX_BODY_BYTES and (more := await request.content.read(_MAX_BODY_BYTES + 1 - len(text))):
            text += more
    except Exception as error:  # aiohttp has several, for bodies that are not encoded as their headers say
        raise BadBody(f"the body cannot be read ({type(error).__name__})") from None
    if len(text) > _MAX_BODY_BYTES:
        raise BadBody(f"the body is longer than {_MAX_BODY_BYTES} bytes")
    return text


def _wanted(text: bytes) -> tuple[str, str | None, int | None]:
    """The prompt id and, if the body has them, the node id and the index of a hit."""
    try:
        body = json.loads(text)
    except RecursionError:
        raise BadBody("the body is nested too deeply") from None
    except ValueError as error:
        raise BadBody(f"the body is not JSON ({error})") from None
    if not isinstance(body, dict):
        raise BadBody(f"the body is a {type(body).__name__}")
    index = body.get("index")
    if index is not None and (isinstance(index, bool) or not isinstance(index, int) or index < 0):
        raise BadBody("index must be a whole number of 0 or more")
    return _id(body, "prompt_id"), None if body.get("node_id") is None else _id(body, "node_id"), index


def _id(body: dict[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_ID_LENGTH:
        raise BadBody(f"{name} must be a string of 1 to {_MAX_ID_LENGTH} characters")
    return value


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": message}, status=status)
