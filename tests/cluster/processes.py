"""Ray's processes: they come and go while a test looks at them, and on a busy machine they start late."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import psutil

ENDED_SECONDS = 120.0  # for processes that end: at once on an idle machine, or after the seconds that Ray has for it

_T = TypeVar("_T")


def asked(processes: Iterable[psutil.Process], question: Callable[[psutil.Process], _T]) -> list[_T]:
    """The answers of those that still run."""
    answers = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):  # a zombie, too
            answers.append(question(process))
    return answers


def named(processes: Iterable[psutil.Process], name: str) -> list[psutil.Process]:
    """Those with ``name`` in their name."""
    return [process for process, found in asked(processes, lambda each: (each, each.name())) if name in found]


def started(start: Callable[..., _T], *arguments: Any, **options: Any) -> _T:
    """What ``start`` returns, which starts a node of Ray: on a busy machine a node may not be there within the half
    minute that Ray gives it, and is started again."""
    for _ in range(4):
        before = psutil.Process().children(recursive=True)
        try:
            return start(*arguments, **options)
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
            late = [child for child in psutil.Process().children(recursive=True) if child not in before]
            asked(late, psutil.Process.kill)  # it would join later
    return start(*arguments, **options)
