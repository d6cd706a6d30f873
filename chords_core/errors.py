"""What can go wrong, as types a caller can tell apart."""

from __future__ import annotations


class InvalidInput(ValueError):
    """An argument that cannot work; the message starts with its name. Raised before any model call, but for
    what only a call can show of ``denoise``."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"{name}: {problem}")
        self.name = name


class NonFiniteDenoised(ArithmeticError):
    """The model returned NaN or infinity in every item of the batch, so every later state would be lost.

    Attributes name the evaluation: ``core`` (1 = slowest, most accurate), ``index`` (0-based step on
    the sigma grid) and ``sigma``.
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
    """A lane returned NaN or infinity where another lane, asked for the same evaluation, did not."""

    def __init__(self, lane: int) -> None:
        super().__init__("it returned NaN or infinity where another device did not")
        self.lane = lane


class LaneStuck(RuntimeError):
    """A lane is still at an evaluation that an earlier run has given up."""

    def __init__(self, lane: int) -> None:
        super().__init__(f"lane {lane} has not come back from an evaluation of an earlier run")
        self.lane = lane


class Cancelled(Exception):
    """The run was cancelled; every lane has stopped, but for those that hang."""


class WorkersUnavailable(RuntimeError):
    """Workers on other machines that cannot be had, or one that was lost; the message says which and why."""
