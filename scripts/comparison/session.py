"""A comparison from the first run to its result: warm-up, rounds, and what came of them so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from comfy_client import ClientError, ComfyClient, ConnectionLost, Interrupted, Json, UsageError

from .figures import Advice, Round, Row, advise, duration, row_of
from .pictures import difference, small_copy
from .runs import Measured, busy, run_once, saves
from .variants import STOCK, Variant, Variants

MAX_ROUNDS_SHOWN = 6


@dataclass(frozen=True)
class Result:
    """What came of a comparison so far.

    Attributes:
        rows: KSampler's first; variants that failed are not there.
        failed: why a variant could not be measured, by its name.
        pictures: small copies as addresses of <img>, by round and by name of the variant, KSampler's first.
        complete: whether all rounds were run.
    """

    rows: tuple[Row, ...]
    advice: Advice
    rounds: Mapping[str, Mapping[int, Round]]
    failed: Mapping[str, str]
    pictures: Mapping[int, Mapping[str, list[str]]]
    conditions: Json
    notes: tuple[str, ...]
    complete: bool


@dataclass
class Session:
    """Runs the variants on a server, in turn. ``say``: shows a line of progress."""

    client: ComfyClient
    variants: Variants
    seeds: int
    time_limit: float
    say: Callable[[str], None]
    conditions: Json = field(default_factory=dict)
    first_offset: int = 0
    failed: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._rounds: dict[str, dict[int, Round]] = {each.name: {} for each in self.variants.all}
        self._pictures: dict[int, dict[str, list[str]]] = {}
        self._waiting: dict[int, dict[str, Measured]] = {}  # of the round that goes on
        self._paces: dict[str, float] = {}
        self._done = 0
        self._others = False

    def warm_up(self) -> None:
        """Run each variant once with another seed: this loads models, and shows which variants fail."""
        for number, variant in enumerate(self.variants.all, 1):
            self.say(f"warm-up {number} of {len(self.variants.all)}: {variant.name}")
            self._run(variant, self.first_offset + self.seeds)

    def rounds(self, after_each: Callable[[Result], None]) -> None:
        """Run all variants with each seed. They take turns, and each round begins with another one."""
        for number in range(self.seeds):
            left = [each for each in self.variants.all if each.name not in self.failed]
            start = number % len(left)
            in_turn = left[start:] + left[:start]
            for place, variant in enumerate(in_turn):
                runs = in_turn[place:] + (self.seeds - number - 1) * in_turn
                self.say(f"round {number + 1} of {self.seeds}, {self._left(runs)}: {variant.name}")
                measured = self._run(variant, self.first_offset + number)
                if measured is not None:
                    self._waiting.setdefault(number, {})[variant.name] = measured
                    self.say(f"  {duration(measured.seconds)}")
            self._compare(number)
            self._done = number + 1
            after_each(self.result())

    def _left(self, runs: list[Variant]) -> str:
        """How long these runs take if each takes as long as the last one of its variant."""
        seconds = sum(self._paces.get(each.name, 0.0) for each in runs if each.name not in self.failed)
        return f"about {duration(max(1, round(seconds)))} left"

    def _run(self, variant: Variant, offset: int) -> Measured | None:
        """A run; None if this variant fails, which then takes no part any more.

        Raises:
            ClientError: KSampler itself fails, the server is lost, or somebody stops the run.
        """
        self._others = self._others or busy(self.client) > 0
        began = time.monotonic()
        try:
            found = run_once(self.client, variant, offset, self.time_limit)
        except (ConnectionLost, Interrupted):
            raise
        except ClientError as error:
            if variant.name == STOCK:
                raise type_of(error)(f"KSampler as it is in the workflow: {error}") from error
            self.failed[variant.name] = str(error)
            self.say(f"{variant.name} is left out: {one_line(str(error))}")
            return None
        self._paces[variant.name] = time.monotonic() - began
        return found

    def _compare(self, number: int) -> None:
        """Compare the pictures of a round with KSampler's."""
        runs = self._waiting.pop(number, {})
        if STOCK not in runs:
            return
        stock = runs[STOCK]
        in_order = [each.name for each in self.variants.all if each.name in runs]
        for name in in_order:
            one = runs[name]
            apart = difference(one.pictures, stock.pictures)
            self._rounds[name][number] = Round(one.seconds, one.whole, one.first, apart, one.memory, one.record)
        if number < MAX_ROUNDS_SHOWN:
            self._pictures[number] = {name: [small_copy(data) for data in runs[name].pictures] for name in in_order}

    def result(self) -> Result:
        """What is known now, of the round that goes on, too, if KSampler has run in it.

        Raises:
            UsageError: nothing can be compared yet.
        """
        for number in list(self._waiting):
            self._compare(number)
        stock = self._rounds[STOCK]
        names = [each.name for each in self.variants.all]
        rows = [row for name in names if (row := row_of(name, self._rounds[name], stock)) is not None]
        if not rows:
            raise UsageError("no round was measured, so nothing is written")
        peers = {each.name for each in self.variants.all if each.peer}
        saving = {row.name: row.name in peers or self._saves(row.name) for row in rows}
        complete = self._done == self.seeds
        advice = advise(rows, self._rounds, saving)
        if self._others:
            other = "Other prompts were in the server's queue meanwhile, so the times may be wrong."
            advice = replace(advice, cautions=(*advice.cautions, other))
        if self.failed:
            lost = "; ".join(f"{name} ({one_line(why)})" for name, why in self.failed.items())
            advice = replace(advice, cautions=(*advice.cautions, f"These could not be measured: {lost}."))
        return Result(
            tuple(rows),
            advice,
            self._rounds,
            dict(self.failed),
            self._pictures,
            {**self.conditions, "rounds": len(stock), "rounds_wanted": self.seeds},
            self.variants.notes,
            complete,
        )

    def _saves(self, name: str) -> bool:
        return any(saves(dict(each.record)) for each in self._rounds[name].values())


def type_of(error: ClientError) -> type[ClientError]:
    """The type to raise again with another message: errors of validation need more than a message."""
    return UsageError if error.exit_code == UsageError.exit_code else type(error)


def one_line(text: str) -> str:
    """A message as one line, in at most 300 characters."""
    line = "; ".join(part.strip() for part in text.splitlines() if part.strip()) or "no reason was given"
    return line if len(line) <= 300 else f"{line[:297]}..."
