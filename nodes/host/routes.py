"""The pack's HTTP routes: take the best result so far, read the events of a run. docs/headless.md has the protocol."""

from __future__ import annotations

import json
from typing import Any

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
    body = await _body(request)
    if body is None:
        return _error(400, 'the body must be {"prompt_id": "...", "node_id": "..." (optional)}')
    prompt_id, node_id = body["prompt_id"], body.get("node_id")
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


async def _body(request: web.Request) -> dict[str, Any] | None:
    """The request's ids, or None where they are not what they must be."""
    text = await request.content.read(_BODY_BYTES + 1)
    while len(text) <= _BODY_BYTES and (more := await request.content.read(_BODY_BYTES + 1 - len(text))):
        text += more
    try:
        body = json.loads(text) if len(text) <= _BODY_BYTES else None
    except ValueError:
        return None
    if not isinstance(body, dict) or "prompt_id" not in body:
        return None
    ids = [body["prompt_id"]] + ([body["node_id"]] if body.get("node_id") is not None else [])
    return body if all(isinstance(name, str) and 0 < len(name) <= _ID_LENGTH for name in ids) else None


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": message}, status=status)
