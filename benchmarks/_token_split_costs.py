"""What a model call takes on several devices, by the measurements of one GPU in results/token_split_gpu.json.

A model of several GPUs, which were not measured: see `ModelCosts.round_seconds`. The standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Way:
    """How a round of model calls uses devices, each with a thread of its own.

    Attributes:
        cores: calls side by side, 1 or more.
        sides: teams of a guided call, one a side of guidance: 1 or 2.
        shares: devices of a team, which share a call by tokens; 1: no token split.
    """

    cores: int = 1
    sides: int = 1
    shares: int = 1

    @property
    def devices(self) -> int:
        return self.cores * self.sides * self.shares


@dataclass(frozen=True)
class Exchange:
    """How keys and values travel.

    Attributes:
        bandwidth: of the link into each device, in GB/s.
        overlapped: beside the computation, which costs nothing as long as it is shorter; else after it.
    """

    bandwidth: float
    overlapped: bool


@dataclass(frozen=True)
class ModelCosts:
    """The measurements of one model. All dictionaries are by the number of members, ``shares`` with 1, the whole call.

    Attributes:
        name: of the model and its shape.
        shares: seconds of one member's share of a call with one side.
        received: gigabytes that each member receives in it.
        launching: seconds in which so many threads of one process launch the kernels of a share each.
        whole_launch: the launch time of a whole call, as a part of that of a share of two.
    """

    name: str
    shares: Mapping[int, float]
    received: Mapping[int, float]
    launching: Mapping[int, float]
    whole_launch: float

    def round_seconds(self, way: Way, guided: bool, exchange: Exchange) -> float:
        """Seconds of a round of calls.

        - A guided call has two sides in one batch, and takes twice the time of one side (measured: 1.92 to 1.98 times,
          results/gpu.md). Teams that have a side each compute at the same time.
        - A member takes as long as its share alone on a GPU. With it come the keys and values of the others.
        - The devices' threads belong to one process, where they launch kernels hardly faster than one after the other.
          A round is never shorter than the time in which all of them launch theirs.
        - The links into the devices work at the same time. Latents, a few megabytes at most, cost nothing.
        """
        rows = 2 // way.sides if guided else 1
        computing = max(rows * self.shares[way.shares], self.launch_seconds(way.devices, whole=way.shares == 1))
        moving = rows * self.received[way.shares] / exchange.bandwidth
        return max(computing, moving) if exchange.overlapped else computing + moving

    def launch_seconds(self, threads: int, whole: bool) -> float:
        """Seconds in which so many threads launch a call each; linear between measured numbers of threads.

        ``whole``: whole calls, without the exchange's own work. Several threads of these were not measured: they take a
        part of the time of shares, the same for every number of threads.
        """
        if threads not in self.launching:
            low, high = next(each for each in pairwise(sorted(self.launching)) if each[0] < threads < each[1])
            part = (threads - low) / (high - low)
            seconds = (1 - part) * self.launching[low] + part * self.launching[high]
        else:
            seconds = self.launching[threads]
        return seconds * self.whole_launch if whole and threads > 1 else seconds


def load_costs(path: Path) -> tuple[ModelCosts, ...]:
    """The models of token_split_gpu.json."""
    cases = json.loads(path.read_text(encoding="utf-8"))["cases"]
    return tuple(_costs(name, case["members"]) for name, case in cases.items())


def _costs(name: str, members: Mapping[str, Mapping[str, Any]]) -> ModelCosts:
    found = {int(count): measured for count, measured in members.items()}
    alone = min(found[1]["issue_ms"], found[1]["issue_together_ms"])  # the same quantity, measured twice
    return ModelCosts(
        name,
        shares={count: measured["ms"] / 1e3 for count, measured in found.items()},
        received={count: measured.get("received_mb", 0.0) / 1e3 for count, measured in found.items()},
        launching={count: measured["issue_together_ms"] / 1e3 for count, measured in found.items()},
        whole_launch=min(1.0, alone / found[2]["issue_ms"]),
    )
