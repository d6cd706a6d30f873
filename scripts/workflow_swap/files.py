"""Swaps in JSON texts and in workflow files. A file is written completely or not at all."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import re
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .api_format import swap_api, swap_back_api
from .node_pairs import Json, Swapped
from .saved_format import swap_back_saved, swap_saved
from .validation import BadWorkflow, NotAWorkflow, error_for, is_api, is_saved, shortened

_MAX_DIGITS = 400  # of an integer; a float has fewer
_TOO_DEEP = "it is nested too deeply"

Change = Callable[[Any], Swapped]
"""`swap` or `back`."""


def swap(workflow: Any) -> Swapped:
    """A copy of a workflow, in either format, with the CHORDS samplers in place of the stock ones.

    Raises:
        NotAWorkflow: the value is not a workflow.
    """
    return _changed(workflow, swap_saved, swap_api)


def back(workflow: Any) -> Swapped:
    """A copy of a workflow with the stock samplers in place of ours. The values of our own inputs are lost.

    Raises:
        NotAWorkflow: the value is not a workflow.
    """
    return _changed(workflow, swap_back_saved, swap_back_api)


def _changed(workflow: Any, saved: Callable[[Json], Swapped], api: Callable[[Json], Swapped]) -> Swapped:
    try:
        if is_api(workflow):
            return api(copy.deepcopy(workflow))
        if is_saved(workflow):
            return saved(copy.deepcopy(workflow))
        raise error_for(workflow)
    except RecursionError:
        raise BadWorkflow(_TOO_DEEP) from None


def swap_text(text: str, change: Change = swap) -> tuple[str, Swapped]:
    """The text of a workflow file after the change, with the indentation and the escapes that it had."""
    try:
        workflow = json.loads(text, parse_int=_integer, parse_float=_float, object_pairs_hook=_without_repeated_keys)
        result = change(workflow)
        if not result.done:
            return text, result
        start = re.match(r"\s*[{\[](\r?\n)([ \t]*)", text)
        text_after = json.dumps(
            result.workflow,
            ensure_ascii=text.isascii(),
            indent=start[2] if start else None,
            separators=None if start or '": ' in text else (",", ":"),
        )
    except NotAWorkflow:
        raise
    except RecursionError:
        raise BadWorkflow(_TOO_DEEP) from None
    except ValueError as error:
        raise BadWorkflow(f"not JSON: {error}") from None
    # A lone surrogate: JSON allows it only as an escape. It can be in strings only.
    text_after = re.sub("[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", text_after)
    if start and start[1] == "\r\n":
        text_after = text_after.replace("\n", "\r\n")
    end = re.search(r"\r?\n\Z", text)
    return text_after + (end[0] if end else ""), result


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise BadWorkflow(f"it has a number of {len(digits)} digits")
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise BadWorkflow(f"it has the number {digits[:20]}, which is too large")
    return value


def _without_repeated_keys(pairs: list[tuple[str, Any]]) -> Json:
    """An object. Of two values under one key, one would be lost."""
    value = dict(pairs)
    if len(value) != len(pairs):
        repeated = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise BadWorkflow(f"one object has the key {shortened(repeated)} twice")
    return value


def swap_file(source: Path, target: Path, change: Change = swap) -> Swapped:
    """Write a workflow file after the change to another file, or to the same file.

    Raises:
        NotAWorkflow: the file is not a workflow. Nothing is written.
        OSError: it cannot be read or written. The target stays as it was.
    """
    try:
        text = source.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadWorkflow("not JSON: it is not a text in UTF-8") from None
    text, result = swap_text(text, change)
    _write(target, text.encode())
    return result


def _write(target: Path, data: bytes) -> None:
    """Write a file in one step: the target is the old file or the complete new one. A link is followed."""
    target = Path(os.path.realpath(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and not target.is_file():  # such as /dev/stdout
        target.write_bytes(data)
        return
    beside = target.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with beside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(OSError):  # a new file, or a disk without permissions
            os.chmod(beside, target.stat().st_mode & 0o7777)
        os.replace(beside, target)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
