"""The HTTP routes of the pack: accept a result of a run, read the events of a run, the texts on the nodes of a
workflow, what a page tells of itself, and the metrics of all runs. docs/headless.md has the protocol,
docs/operations.md the metrics."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import web
from server import PromptServer

from ..monitoring.reporter import REPORTER, MetricsNotInstalled
from ..node_text import texts_of
from ..page import PAGES, Page
from .stream import RUNS

_MAX_BODY_BYTES = 4096
_MAX_WORD_LENGTH = 256


def register() -> None:
    """Add the routes to the host's server. Call it before the server starts."""
    routes = PromptServer.instance.routes
    routes.post("/chords/accept")(accept)
    routes.get("/chords/runs/{prompt_id}")(events)
    routes.get("/chords/texts/{workflow_id}")(texts)
    routes.get("/chords/metrics")(metrics)
    routes.post("/chords/page")(page)


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


async def page(request: web.Request) -> web.Response:
    """POST /chords/page: a page tells its language and whether its ground is light."""
    try:
        client_id, told = _told(await _text(request))
    except BadBody as error:
        body = '{"client_id": "...", "language": "...", "light": true or false (optional)}'
        return _error(400, f"{error}; the body must be {body}")
    PAGES.keep(client_id, told)
    return web.json_response({})


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
    body = _object(text)
    index = body.get("index")
    if index is not None and (isinstance(index, bool) or not isinstance(index, int) or index < 0):
        raise BadBody("index must be a whole number of 0 or more")
    return _word(body, "prompt_id"), None if body.get("node_id") is None else _word(body, "node_id"), index


def _told(text: bytes) -> tuple[str, Page]:
    """The client id of a page, and what it tells of itself."""
    body = _object(text)
    light = body.get("light", Page.light)
    if not isinstance(light, bool):
        raise BadBody("light must be true or false")
    return _word(body, "client_id"), Page(_word(body, "language"), light)


def _object(text: bytes) -> dict[str, Any]:
    """A JSON object from the body of a request."""
    try:
        body = json.loads(text)
    except RecursionError:
        raise BadBody("the body is nested too deeply") from None
    except ValueError as error:
        raise BadBody(f"the body is not JSON ({error})") from None
    if not isinstance(body, dict):
        raise BadBody(f"the body is a {type(body).__name__}")
    return body


def _word(body: dict[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_WORD_LENGTH:
        raise BadBody(f"{name} must be a string of 1 to {_MAX_WORD_LENGTH} characters")
    return value


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": message}, status=status)
