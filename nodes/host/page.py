"""What a page has told of itself: its language and whether its ground is light, for the pictures that its nodes draw
(docs/headless.md has the protocol)."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

from server import PromptServer

_PAGES_KEPT = 256


@dataclass(frozen=True)
class Page:
    """How a page wants its pictures; the defaults are for programs that have not told it.

    Attributes:
        language: such as "en", "ja", "zh".
        light: whether its ground is light.
    """

    language: str = "en"
    light: bool = False


class Pages:
    """What each of the newest pages has told, by the page's client id. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pages: OrderedDict[str, Page] = OrderedDict()

    def keep(self, client_id: str, page: Page) -> None:
        """Keep what a page tells in place of what it told before."""
        with self._lock:
            self._pages[client_id] = page
            self._pages.move_to_end(client_id)
            while len(self._pages) > _PAGES_KEPT:
                self._pages.popitem(last=False)

    def of(self, client_id: str | None) -> Page:
        with self._lock:
            return self._pages.get(client_id or "", Page())


PAGES = Pages()


def page_of_prompt() -> Page:
    """The page that sent the running prompt."""
    server = PromptServer.instance
    return PAGES.of(getattr(server, "client_id", None))
