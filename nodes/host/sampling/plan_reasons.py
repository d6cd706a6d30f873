"""Why a plan was chosen, as a sentence for the user."""

from __future__ import annotations

from ....chords_core import Cause, ChordsPlan, Plan, Reason

_ORDINALS = {2: "second", 3: "third"}


def reason_in_words(plan: Plan) -> str:
    """All reasons of a plan in one line, the most important first."""
    return "; ".join(reason if isinstance(reason, str) else _sentence(reason, plan) for reason in plan.reasons)


def _sentence(reason: Reason, plan: Plan) -> str:
    steps = "1 step leaves" if plan.steps == 1 else f"{plan.steps} steps leave"
    sentences = {
        Cause.ONE_CORE_REQUESTED: "one core was asked for",
        Cause.CORES_REQUESTED: f"{reason.cores} cores were asked for",
        Cause.MORE_CORES_USELESS: f"more than {plan.cores} bring nothing",
        Cause.CORES_NOT_FASTER: f"{reason.cores} cores would be no faster",
        Cause.FASTEST: f"the fewest calls in a row on {reason.lanes} devices that stay close to the result of one core",
        Cause.FASTEST_WITH_FEWER_CALLS: f"the fewest calls in a row on {reason.lanes} devices",
        Cause.INTERPOLATED: "its prediction is interpolated at the others",
        Cause.ONE_LANE: "one device, so nothing could run in parallel",
        Cause.EXACT: "the exact result takes every step in turn",
        Cause.TOO_FEW_STEPS: f"at {plan.steps} steps there is little to gain and each step matters",
        Cause.NO_ROOM: f"{steps} no room for more cores",
        Cause.LITTLE_GAIN: f"on {reason.lanes} devices a result close to that of one core would hardly come earlier",
        Cause.SLOW_TOGETHER: f"as measured, {reason.lanes} devices at once take too long a call to gain anything",
        Cause.WINDOW_NOT_CLOSE: f"on several cores {reason.solver} is not close enough to one; name a method to run "
        "it so",
        Cause.NO_SUCH_HIT: f"{plan.cores} cores give no {_missing_hit(plan)} result, so their last",
    }
    return sentences[reason.cause]


def _missing_hit(plan: Plan) -> str:
    """The name of the hit after the last one."""
    return _ORDINALS.get(plan.cores + 1, "such") if isinstance(plan, ChordsPlan) else "such"
