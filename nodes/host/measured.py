"""What benchmarks measured, kept in the host's user folder: how fast a model computes on given devices."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
import torch

from .devices import DeviceRequest, lane_devices

_log = logging.getLogger("chords")

SHARED_AT_MOST = 0.9
"""Of a whole guided call's time: a shared one that takes longer is not worth the second device."""

SLOWER = 1.1
"""Times the seconds of the fastest device: what is within differs by chance."""

_MOST = 200  # kept; the oldest goes first
_writing = threading.Lock()


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
    """What was measured last for this key, if anything was."""
    return next((measured for known, measured in _read() if known == key), None)


def keep(key: Key, measured: Measured) -> None:
    """Put it into the file, in place of what was there for this key. A file that cannot be written is only logged:
    what was measured is still good."""
    with _writing:
        entries = [(key, measured), *((known, old) for known, old in _read() if known != key)][:_MOST]
        text = json.dumps({"entries": [{"key": asdict(k), "measured": asdict(m)} for k, m in entries]}, indent=1)
        path = measured_file()
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(text + "\n", encoding="utf-8")
            os.replace(temporary, path)  # in one step: a reader sees the old file or the new
        except OSError as error:
            _log.warning("CHORDS: what was measured could not be kept in %s: %s", path, error)


def measured_file() -> Path:
    return Path(folder_paths.get_user_directory()) / "chords" / "measured.json"


def _read() -> list[tuple[Key, Measured]]:
    """What is in the file, the newest first; what cannot be understood there counts as not measured."""
    path = measured_file()
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["entries"]
        return [pair for pair in map(_entry, entries) if pair is not None]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.warning("CHORDS: %s cannot be read, so nothing counts as measured: %r", path, error)
        return []


def _entry(entry: Any) -> tuple[Key, Measured] | None:
    try:
        key, measured = entry["key"], entry["measured"]
        return (
            Key(
                str(key["model"]),
                str(key["dtype"]),
                tuple(int(length) for length in key["latent"]),
                tuple(str(device) for device in key["devices"]),
                bool(key["guided"]),
            ),
            Measured(
                float(measured["step"]),
                {int(cores): float(seconds) for cores, seconds in measured["rounds"].items()},
                {str(device): float(seconds) for device, seconds in measured["calls"].items()},
                None if measured.get("shared") is None else float(measured["shared"]),
                str(measured["when"]),
            ),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


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
