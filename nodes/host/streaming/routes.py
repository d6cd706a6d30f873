"""The pack's HTTP routes: take the best result so far, read the events of a run. docs/headless.md has the protocol."""

from __future__ import annotations

import json

from aiohttp import web
from server import PromptServer

from .stream import RUNS

_BODY_BYTES = 4096
_ID_LENGTH = 256


def register() -> None:
    """Add the routes to the host's server, before it starts."""
    routes = PromptServer.instance.routes
    routes.post("/chords/accept")(accept)
    routes.get("/chords/runs/{prompt_id}")(events)


async def accept(request: web.Request) -> web.Response:
    """End a prompt's run with its best result so far."""
    try:
        prompt_id, node_id = _ids(await _text(request))
    except BadBody as error:
        return _error(400, f'{error}; the body must be {{"prompt_id": "...", "node_id": "..." (optional)}}')
    runs = [run for run in RUNS.of(prompt_id).values() if node_id in (None, run.node_id)]
    if not runs:
        return _error(404, "no CHORDS run of this prompt (and node) has begun; is it still in the queue?")
    run = runs[-1]
    if not run.running:
        return _error(409, "this run is over")
    index = run.newest_hit
    run.accept.set()
    return web.json_response({"prompt_id": run.prompt_id, "node_id": run.node_id, "index": index})


async def events(request: web.Request) -> web.Response:
    """All events of a prompt's runs so far."""
    runs = RUNS.of(request.match_info["prompt_id"])
    if not runs:
        return _error(404, "no CHORDS run of this prompt has begun, or it was long ago")
    return web.json_response(
        {
            "prompt_id": request.match_info["prompt_id"],
            "running": any(run.running for run in runs.values()),
            "events": [event for run in runs.values() for event in run.events()],
        }
    )


class BadBody(ValueError):
    """The body of a request is not what it must be; the message says why."""


async def _text(request: web.Request) -> bytes:
    """The body of a request, of which no more is read than may be there."""
    text = b""
    try:
        while len(text) <= _BODY_BYTES and (more := await request.content.read(_BODY_BYTES + 1 - len(text))):
            text += more
    except Exception as error:  # aiohttp has several for one that is not compressed or cut up as its headers say
        raise BadBody(f"the body cannot be read ({type(error).__name__})") from None
    if len(text) > _BODY_BYTES:
        raise BadBody(f"the body is longer than {_BODY_BYTES} bytes")
    return text


def _ids(text: bytes) -> tuple[str, str | None]:
    """The ids of a prompt and, if it is given, of a node."""
    try:
        body = json.loads(text)
    except RecursionError:
        raise BadBody("the body is nested too deep") from None
    except ValueError as error:
        raise BadBody(f"the body is not JSON ({error})") from None
    if not isinstance(body, dict):
        raise BadBody(f"the body is a {type(body).__name__}")
    ids = body.get("prompt_id"), body.get("node_id")
    for name, value in zip(("prompt_id", "node_id"), ids, strict=True):
        if value is None and name == "node_id":
            continue
        if not isinstance(value, str) or not 0 < len(value) <= _ID_LENGTH:
            raise BadBody(f"{name} must be a text of 1 to {_ID_LENGTH} characters")
    return ids


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": message}, status=status)
