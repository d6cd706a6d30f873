"""What benchmarks measured, kept in the host's user folder: how fast a model computes on given devices."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import comfy.model_management
import folder_paths
import torch

from ..files import locked, write_whole
from .request import DeviceRequest, lane_devices

_log = logging.getLogger("chords")

SHARED_AT_MOST = 0.9
"""Of a whole guided call's time: a shared one that takes longer is not worth the second device."""

SLOWER = 1.1
"""Times the seconds of the fastest device: what is within differs by chance."""

_MOST = 200  # entries kept; the oldest goes first
_MOST_BYTES = 2**23  # of the file
_MOST_CORES = 1000
_LONGEST = 2**31  # side of a latent
_LONGEST_SECONDS = 86_400.0  # of a call or a step
_LOCK_SECONDS = 3.0  # how long another server may keep us waiting, which takes milliseconds for this


@dataclass(frozen=True)
class Key:
    """What decides how long a model call takes. ``model``: see `model_name`; ``latent``: the shape of its samples;
    ``devices``: with the names of the hardware; ``guided``: two sides a call."""

    model: str
    dtype: str
    latent: tuple[int, ...]
    devices: tuple[str, ...]
    guided: bool


@dataclass(frozen=True, eq=False)
class Measured:
    """``step``: seconds a step of the host's own sampler; ``rounds``: seconds a round of model calls side by side, by
    the number of cores, a device each; ``calls``: seconds a call on each lane while the others work too; ``shared``: of
    a guided call shared by two devices, if any was; ``when``: ISO 8601, UTC."""

    step: float
    rounds: Mapping[int, float] = field(default_factory=dict)
    calls: Mapping[str, float] = field(default_factory=dict)
    shared: float | None = None
    when: str = ""

    @property
    def sharing_gains(self) -> bool:
        """Whether two devices make a guided call notably sooner than one, as far as is known."""
        return self.shared is None or self.shared <= SHARED_AT_MOST * self.alone

    @property
    def alone(self) -> float:
        """Seconds a call on one device, without what else a run does, where that is known."""
        return self.rounds.get(1, self.step)

    def fastest_first(self, devices: Sequence[torch.device]) -> list[torch.device]:
        """Those notably slower than the fastest behind the others, the slowest last; as they are if one was not
        measured."""
        seconds = {device: self.calls.get(str(device)) for device in devices}
        if any(value is None for value in seconds.values()):
            return list(devices)
        known = {device: value for device, value in seconds.items() if value is not None}
        limit = SLOWER * min(known.values())
        return sorted(devices, key=lambda device: known[device] if known[device] > limit else 0.0)

    def costs(self) -> tuple[float, ...]:
        """For `chords_core.plan`: how long a round on 1, 2, ... devices takes; what was not tried, as long as the
        next larger round that was."""
        known = {1: self.alone, **{cores: seconds for cores, seconds in self.rounds.items() if cores > 1}}
        return tuple(known[min(k for k in known if k >= cores)] for cores in range(1, max(known) + 1))


def key_of(model: Any, shape: Sequence[int], request: DeviceRequest, cfg: float) -> Key:
    """The key of a MODEL sampled in this shape, on the devices asked for, at this guidance."""
    dtype = str(model.model_dtype()).removeprefix("torch.")
    return Key(model_name(model), dtype, tuple(shape), _names(request, model.load_device), cfg > 1)


def model_name(model: Any) -> str:
    """The class of the MODEL's network, after its file; where the loader left no path, before its size."""
    network = type(model.model.diffusion_model).__name__
    loader = getattr(model, "cached_patcher_init", None)
    files = [str(part) for part in _leaves(loader[1] if loader else ()) if isinstance(part, str | os.PathLike)]
    return f"{Path(files[0]).name} {network}" if files else f"{network} {model.model_size() / 2**20:.0f} MB"


def recall(key: Key) -> Measured | None:
    """What was measured last for this key. What cannot be read or understood counts as not measured."""
    path = measured_file()
    try:
        entries = _read(path)
    except (OSError, ValueError) as error:
        _log.warning("CHORDS: %s cannot be read, so nothing counts as measured: %s", path, error)
        return None
    return next((measured for known, measured in entries if known == key), None)


def keep(key: Key, measured: Measured) -> None:
    """Put it into the file, in place of what was there for this key; what other servers have put there meanwhile stays.
    A file that cannot be written is only logged: what was measured is still good."""
    path = measured_file()
    try:
        with locked(path.with_name(f"{path.name}.lock"), _LOCK_SECONDS):
            others = [(known, old) for known, old in _read_or_set_aside(path) if known != key]
            entries = [_as_json(*pair) for pair in ((key, measured), *others)][:_MOST]
            text = json.dumps({"entries": entries}, indent=1, allow_nan=False)
            write_whole(path, f"{text}\n".encode(), sync=True)
    except (OSError, ValueError) as error:
        _log.warning("CHORDS: what was measured could not be kept in %s: %s", path, error)


def measured_file() -> Path:
    return Path(folder_paths.get_user_directory()) / "chords" / "measured.json"


def _read_or_set_aside(path: Path) -> list[tuple[Key, Measured]]:
    """What is in the file. One that is no JSON, perhaps for a slip of the hand, is kept under another name."""
    try:
        return _read(path)
    except ValueError as error:
        aside = path.with_name(f"{path.name}.bad")
        os.replace(path, aside)
        _log.warning("CHORDS: %s cannot be understood (%s); it is now %s", path, error, aside)
        return []


def _read(path: Path) -> list[tuple[Key, Measured]]:
    """What is in the file, the newest first, without the entries that cannot be understood.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is not a list of entries in JSON.
    """
    if not path.exists():
        return []
    if not path.is_file():
        raise OSError("it is no file")
    with path.open("rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise ValueError(f"it is larger than {_MOST_BYTES} bytes")
    try:
        content = json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    entries = content.get("entries") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise ValueError("it has no list of entries")
    return [pair for pair in map(_entry, entries) if pair is not None]


def _as_json(key: Key, measured: Measured) -> dict[str, Any]:
    """An entry of the file.

    Raises:
        ValueError: for one that could not be understood when it is read.
    """
    entry = json.loads(json.dumps({"key": asdict(key), "measured": asdict(measured)}))
    if _entry(entry) is None:
        raise ValueError(f"{measured} is no measurement")
    return entry


def _entry(entry: Any) -> tuple[Key, Measured] | None:
    """A key and what was measured; None for what is not exactly that."""
    try:
        key, measured = entry["key"], entry["measured"]
        shared = measured.get("shared")
        return (
            Key(
                _text(key["model"]),
                _text(key["dtype"]),
                tuple(_count(length, _LONGEST) for length in _of(list, key["latent"])),
                tuple(_text(device) for device in _of(list, key["devices"])),
                _of(bool, key["guided"]),
            ),
            Measured(
                _seconds(measured["step"]),
                {_count(int(cores), _MOST_CORES): _seconds(time) for cores, time in measured["rounds"].items()},
                {device: _seconds(time) for device, time in measured["calls"].items()},
                None if shared is None else _seconds(shared),
                _text(measured["when"]),
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


def _count(value: Any, most: int) -> int:
    if type(value) is not int or not 1 <= value <= most:
        raise ValueError(value)
    return value


def _seconds(value: Any) -> float:
    """A time that something can have taken: neither zero nor infinite."""
    if type(value) not in (int, float) or not 0 < value <= _LONGEST_SECONDS:
        raise ValueError(value)
    return float(value)


def _names(request: DeviceRequest, primary: torch.device) -> tuple[str, ...]:
    """Each device with the name of its hardware; "cuda:0" is another one on another machine."""
    if request.ray_address:
        return (f"ray {request.ray_address} ({request.ray_workers or 'all'} workers)",)
    return tuple(
        str(device)
        if device.type == "cpu"
        else comfy.model_management.get_torch_device_name(device).partition(" : ")[0]
        for device in lane_devices(request, primary)
    )


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, list | tuple):
        return [leaf for part in value for leaf in _leaves(part)]
    return [value]
