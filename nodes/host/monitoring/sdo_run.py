"""What monitoring knows of a run of an SDO node that has ended, well or not. Pure; needs nothing."""

from __future__ import annotations

from dataclasses import dataclass

from .finished_run import OUTCOMES, Stream, newest

NODES = ("optimizer", "trainer")
"""The labels of nodes: SDO Latent Optimizer, and SDO LoRA Trainer."""


@dataclass(frozen=True)
class SdoRun:
    """A run of an SDO node that has ended.

    Attributes:
        prompt_id, node_id: whose run it was; None outside of a prompt.
        node: one of `NODES`.
        outcome: one of `OUTCOMES`.
        error: what went wrong; None if nothing did.
        iterations: that were made.
        of: how many there were to be at most.
        model_calls: up to the last of them.
        seconds: from the beginning of the run to its end.
    """

    prompt_id: str | None
    node_id: str | None
    node: str
    outcome: str
    error: str | None
    iterations: int
    of: int
    model_calls: int
    seconds: float


def sdo_run(stream: Stream, node: str) -> SdoRun:
    """The run of a stream whose ``done`` event was sent."""
    events = stream.events()
    last, done = newest(events, "iteration"), newest(events, "done")
    outcome = done.get("status", "error")
    return SdoRun(
        stream.prompt_id,
        stream.node_id,
        node,
        outcome if outcome in OUTCOMES else "error",
        done.get("error"),
        int(last.get("iteration", 0)),
        int(last.get("of", 0)),
        int(last.get("evaluations", 0)),
        float(done.get("seconds", 0.0)),
    )
