"""The file of timings in the host's user folder: what benchmarks measured, for the samplers' choice of devices."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

import folder_paths

from ..files import locked, write_whole
from .available import hardware_names
from .groups import WHOLE, Split, split_named
from .request import DeviceRequest
from .timings import Timings, TimingsKey

_log = logging.getLogger("chords")

_MAX_ENTRIES = 200  # the oldest goes first
_MAX_BYTES = 2**23  # of the file
_MAX_CORES = 1000
_MAX_ROWS = 64  # of a model call
_MAX_SIDE = 2**31  # of a latent
_MAX_SECONDS = 86_400.0  # of a call or a step
_LOCK_SECONDS = 3.0  # to wait for another server, which needs milliseconds for this

Entry = tuple[TimingsKey, Timings]


def timings_key(model: Any, shape: Sequence[int], request: DeviceRequest, cfg: float) -> TimingsKey:
    """The key of a MODEL, sampled in this shape at this guidance on the devices of the request."""
    dtype = str(model.model_dtype()).removeprefix("torch.")
    return TimingsKey(model_name(model), dtype, tuple(shape), hardware_names(request, model.load_device), cfg > 1)


def model_name(model: Any) -> str:
    """The MODEL's file and the class of its network; where the loader left no path, the class and its size."""
    network = type(model.model.diffusion_model).__name__
    loader = getattr(model, "cached_patcher_init", None)
    files = [str(part) for part in _leaves(loader[1] if loader else ()) if isinstance(part, str | os.PathLike)]
    return f"{Path(files[0]).name} {network}" if files else f"{network} {model.model_size() / 2**20:.0f} MB"


def recall_timings(key: TimingsKey) -> Timings | None:
    """The newest timings for this key; None if there are none. A file that cannot be read counts as none."""
    path = timings_path()
    try:
        entries = _read(path)
    except (OSError, ValueError) as error:
        _log.warning("CHORDS: %s cannot be read, so nothing counts as measured: %s", path, error)
        return None
    return next((timings for known, timings in entries if known == key), None)


def keep_timings(key: TimingsKey, timings: Timings) -> None:
    """Put the timings into the file, in place of the older ones for this key. What other servers write at the same
    time stays. If the file cannot be written, that is only logged: the benchmark's result is still good."""
    path = timings_path()
    try:
        with locked(path.with_name(f"{path.name}.lock"), _LOCK_SECONDS):
            others = [(known, old) for known, old in _read_or_set_aside(path) if known != key]
            entries = [_as_json(*entry) for entry in ((key, timings), *others)][:_MAX_ENTRIES]
            text = json.dumps({"entries": entries}, indent=1, allow_nan=False)
            write_whole(path, f"{text}\n".encode(), sync=True)
    except (OSError, ValueError) as error:
        _log.warning("CHORDS: what was measured could not be kept in %s: %s", path, error)


def keep_splits(key: TimingsKey, seconds: Mapping[Split, float]) -> None:
    """Add the times of ways to share a call, as the first calls of a run have shown them, to what is known."""
    known = _known(key, seconds[WHOLE])
    keep_timings(key, replace(known, splits={**known.splits, **seconds}))


def keep_rows(key: TimingsKey, seconds: Mapping[int, float]) -> None:
    """Put the times of calls of several rows, as a trial has shown them, in place of those that are known."""
    keep_timings(key, replace(_known(key, seconds[1]), rows=seconds))


def _known(key: TimingsKey, alone: float) -> Timings:
    """The timings for this key; if there are none, those of a model that takes ``alone`` seconds a call."""
    known = recall_timings(key)
    return known or Timings(alone, when=datetime.now(timezone.utc).isoformat("T", "seconds"))


def timings_path() -> Path:
    """The file: ``chords/measured.json`` in the user folder."""
    return Path(folder_paths.get_user_directory()) / "chords" / "measured.json"


def _read_or_set_aside(path: Path) -> list[Entry]:
    """The entries of the file. A file that is not JSON is renamed, for a user may have edited it by hand."""
    try:
        return _read(path)
    except ValueError as error:
        aside = path.with_name(f"{path.name}.bad")
        os.replace(path, aside)
        _log.warning("CHORDS: %s cannot be understood (%s); it is now %s", path, error, aside)
        return []


def _read(path: Path) -> list[Entry]:
    """The entries of the file, the newest first, without those that cannot be understood.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is not a list of entries in JSON.
    """
    if not path.exists():
        return []
    if not path.is_file():
        raise OSError("it is no file")
    with path.open("rb") as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise ValueError(f"it is larger than {_MAX_BYTES} bytes")
    try:
        content = json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    entries = content.get("entries") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise ValueError("it has no list of entries")
    return [known for known in map(_entry, entries) if known is not None]


def _as_json(key: TimingsKey, timings: Timings) -> dict[str, Any]:
    """An entry of the file.

    Raises:
        ValueError: if it could not be understood when it is read.
    """
    splits = {split.name: seconds for split, seconds in timings.splits.items()}
    measured = {**vars(timings), "splits": splits}
    entry: dict[str, Any] = json.loads(json.dumps({"key": asdict(key), "measured": measured}))
    if _entry(entry) is None:
        raise ValueError(f"{timings} are no timings")
    return entry


def _entry(entry: Any) -> Entry | None:
    """The key and the timings of an entry; None if a field is missing or is not exactly what it should be."""
    try:
        key, timings = entry["key"], entry["measured"]
        return (
            TimingsKey(
                _text(key["model"]),
                _text(key["dtype"]),
                tuple(_count(length, _MAX_SIDE) for length in _of(list, key["latent"])),
                tuple(_text(device) for device in _of(list, key["devices"])),
                _of(bool, key["guided"]),
            ),
            Timings(
                _seconds(timings["step"]),
                {_count(int(cores), _MAX_CORES): _seconds(time) for cores, time in timings["rounds"].items()},
                {device: _seconds(time) for device, time in timings["calls"].items()},
                {split_named(name): _seconds(time) for name, time in timings["splits"].items()},
                _times_of_rows(timings["rows"]),
                _text(timings["when"]),
            ),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


_Kind = TypeVar("_Kind")


def _of(kind: type[_Kind], value: Any) -> _Kind:
    if not isinstance(value, kind):
        raise ValueError(value)
    return value


def _text(value: Any) -> str:
    return _of(str, value)


def _count(value: Any, largest: int) -> int:
    if type(value) is not int or not 1 <= value <= largest:
        raise ValueError(value)
    return value


def _times_of_rows(value: Any) -> dict[int, float]:
    """The seconds of a call by its number of rows. All are compared with those of one row."""
    times = {_count(int(rows), _MAX_ROWS): _seconds(seconds) for rows, seconds in value.items()}
    if times and 1 not in times:
        raise ValueError(value)
    return times


def _seconds(value: Any) -> float:
    """A time that a call can have taken: above 0 and not infinite."""
    if type(value) not in (int, float) or not 0 < value <= _MAX_SECONDS:
        raise ValueError(value)
    return float(value)


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, list | tuple):
        return [leaf for part in value for leaf in _leaves(part)]
    return [value]
