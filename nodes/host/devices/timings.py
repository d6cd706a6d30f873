"""How fast a model computes on given devices, as a benchmark measured it. Needs torch only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from .groups import MIN_GAIN, WHOLE, Split

_SLOWER = 1.1
"""Times the seconds of the fastest device: smaller differences are chance."""


@dataclass(frozen=True)
class TimingsKey:
    """What decides how long a model call takes.

    Attributes:
        model: see `timings_file.model_name`.
        dtype: the type of its weights.
        latent: the shape of the samples.
        devices: with the names of the hardware.
        guided: whether a call has two sides.
    """

    model: str
    dtype: str
    latent: tuple[int, ...]
    devices: tuple[str, ...]
    guided: bool


@dataclass(frozen=True, eq=False)
class Timings:
    """Measured times, all in seconds and above 0.

    Attributes:
        step: a step of the host's own sampler.
        rounds: a round of model calls side by side, by the number of cores, with one device a core.
        calls: a call on each lane, by the name of its device, while the others work too.
        splits: a call by each way of sharing it among devices that was tried, `WHOLE` among them.
        rows: a call of several states at once on one device, by their number, 1 among them; empty if not tried.
        when: the time of the measurement, ISO 8601, UTC.
    """

    step: float
    rounds: Mapping[int, float] = field(default_factory=dict)
    calls: Mapping[str, float] = field(default_factory=dict)
    splits: Mapping[Split, float] = field(default_factory=dict)
    rows: Mapping[int, float] = field(default_factory=dict)
    when: str = ""

    def gains(self, split: Split) -> bool:
        """Whether a call is notably faster by this split than on one device. True if it was not measured."""
        return split not in self.splits or self.splits[split] <= (1 - MIN_GAIN) * self.alone

    @property
    def alone(self) -> float:
        """A call on one device; if it was not measured, a step of the host's sampler."""
        return self.rounds.get(1, self.splits.get(WHOLE, self.step))

    def fastest_first(self, devices: Sequence[torch.device]) -> list[torch.device]:
        """The devices in an order for a plan: those notably slower than the fastest come last, the slowest at the end.
        The order stays as it is if one of them was not measured."""
        seconds = {device: self.calls.get(str(device)) for device in devices}
        if any(value is None for value in seconds.values()):
            return list(devices)
        known = {device: value for device, value in seconds.items() if value is not None}
        limit = _SLOWER * min(known.values())
        return sorted(devices, key=lambda device: known[device] if known[device] > limit else 0.0)

    def costs(self) -> tuple[float, ...]:
        """The ``costs`` of `chords_core.plan`: how long a round on 1, 2, ... devices takes. A number of devices that
        was not tried counts as the next larger one that was."""
        known = {1: self.alone, **{cores: seconds for cores, seconds in self.rounds.items() if cores > 1}}
        return tuple(known[min(k for k in known if k >= cores)] for cores in range(1, max(known) + 1))
