"""The errors of the core, as types that a caller can tell apart."""

from __future__ import annotations


class InvalidInput(ValueError):
    """An argument that cannot work. It is raised before any model call, except for an answer of ``denoise``.

    Attributes:
        name: of the argument. The message starts with it.
        problem: what is wrong with it, and how to mend it.
    """

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(name, problem)
        self.name = name
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.name}: {self.problem}"

    def renamed(self, name: str) -> InvalidInput:
        """The same problem under another name, for a caller whose own argument has that name."""
        return InvalidInput(name, self.problem)


class NonFiniteDenoised(ArithmeticError):
    """The model returned NaN or infinity in every item of the batch, so that no later state could be finite.

    Attributes:
        core: which core made the evaluation, 1 = the slowest.
        index: its step of the schedule, from 0.
        sigma: its sigma.
    """

    def __init__(self, core: int, index: int, steps: int | None, sigma: float) -> None:
        step = f"step {index + 1}" if steps is None else f"step {index + 1} of {steps}"
        super().__init__(
            f"the model returned NaN or infinity in core {core} at {step} "
            f"(sigma {sigma:.6g}). Try a model precision of bf16 or fp32, a lower guidance, or check the "
            "latent and the conditioning for NaN."
        )
        self.core = core
        self.index = index
        self.sigma = sigma


class LaneFaulty(RuntimeError):
    """A lane returned NaN or infinity, and another lane did not for the same evaluation."""

    def __init__(self, lane: int) -> None:
        super().__init__("it returned NaN or infinity where another device did not")
        self.lane = lane


class LaneStuck(RuntimeError):
    """A lane is still busy with an evaluation that an earlier run has given up."""

    def __init__(self, lane: int) -> None:
        super().__init__(f"lane {lane} has not come back from an evaluation of an earlier run")
        self.lane = lane


class Cancelled(Exception):
    """The run was cancelled. Every lane has stopped, except those that hang."""


class WorkersUnavailable(RuntimeError):
    """No worker on another machine is available, or one was lost. The message says which and why."""


class RowsFailed(RuntimeError):
    """A model call of several rows raised, for example because they do not fit in memory. Calls of fewer rows may work.
    The error itself is its ``__cause__``.

    Attributes:
        rows: how many the call had.
    """

    def __init__(self, rows: int, error: Exception) -> None:
        super().__init__(f"a call of {rows} rows failed: {str(error) or type(error).__name__}")
        self.rows = rows
