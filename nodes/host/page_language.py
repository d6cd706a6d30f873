"""The language of the page that a prompt came from, for the pictures that its nodes draw. A page tells its own language
when it is opened (docs/headless.md has the protocol)."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict

from aiohttp import web
from server import PromptServer

ENGLISH = "en"

_PAGES_KEPT = 256
_MAX_LENGTH = 256
_MAX_BODY_BYTES = 4096


class PageLanguages:
    """The language of each of the newest pages, by the page's client id. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._languages: OrderedDict[str, str] = OrderedDict()

    def keep(self, client_id: str, language: str) -> None:
        """Keep the language of a page in place of its earlier one."""
        with self._lock:
            self._languages[client_id] = language
            self._languages.move_to_end(client_id)
            while len(self._languages) > _PAGES_KEPT:
                self._languages.popitem(last=False)

    def of(self, client_id: str | None) -> str:
        """The language of a page; English if it has not told it."""
        with self._lock:
            return self._languages.get(client_id or "", ENGLISH)


LANGUAGES = PageLanguages()


def page_language() -> str:
    """The language of the page that sent the running prompt; English for other programs."""
    server = PromptServer.instance
    return LANGUAGES.of(getattr(server, "client_id", None))


async def tell_language(request: web.Request) -> web.Response:
    """POST /chords/language: a page tells its language."""
    try:
        body = json.loads(await request.content.read(_MAX_BODY_BYTES))
        client_id, language = body["client_id"], body["language"]
    except (ValueError, TypeError, KeyError):
        client_id = language = None
    if not all(isinstance(text, str) and 0 < len(text) <= _MAX_LENGTH for text in (client_id, language)):
        return web.json_response({"error": 'the body must be {"client_id": "...", "language": "..."}'}, status=400)
    LANGUAGES.keep(client_id, language)
    return web.json_response({})
