"""The content of nested options, to see whether they changed and to restore them."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

from ...phrases import Phrase


@dataclass(frozen=True, eq=False)
class SavedOptions:
    """Each dictionary and list in nested options with a copy of it, by its id."""

    content: dict[int, tuple[Any, Any]]

    @classmethod
    def of(cls, *options: dict[str, Any]) -> SavedOptions:
        """The present content of ``options``."""
        content: dict[int, tuple[Any, Any]] = {}
        waiting: list[Any] = list(options)
        while waiting:
            value = waiting.pop()
            if isinstance(value, dict | list) and id(value) not in content:
                content[id(value)] = value, value.copy()
                waiting += value.values() if isinstance(value, dict) else value
        return cls(content)

    def changed(self) -> list[str]:
        """The keys that were added, removed, or got another value."""
        keys: list[str] = []
        for now, before in self.content.values():
            if isinstance(now, dict):
                keys += [
                    str(key) for key in {**before, **now} if key not in now or now[key] is not before.get(key, now)
                ]
            elif len(now) != len(before):
                keys.append(Phrase("an entry of a list"))
        return list(dict.fromkeys(keys))

    def restore(self) -> None:
        """Give all dictionaries and lists the saved content."""
        for now, before in self.content.values():
            refill(now, before)


def refill(now: Any, before: Any) -> None:
    """Give a container its former content, in place.

    A container that has it is not touched: other threads may use it.
    """
    is_same_size = len(now) == len(before)
    if isinstance(now, dict):
        if is_same_size and all(key in now and now[key] is value for key, value in before.items()):
            return
    elif isinstance(now, set | bytearray):
        if now == before:
            return
    elif is_same_size and all(map(operator.is_, now, before)):
        return
    now.clear()
    (now.update if isinstance(now, dict | set) else now.extend)(before)
