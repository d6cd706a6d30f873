"""Solvers: one step of the sampling ODE, and what follows from a solver's linearity.

Here belong: a solver (one file each, one line in the registry below), the linear form of a solver.
Not here: which steps are called, by whom and in which order (`methods`).
"""

from __future__ import annotations

from collections.abc import Mapping

from ..checks import check_choice
from ..errors import InvalidInput
from .base import Solver, StepFunction
from .dpmpp_2m import DPMPP_2M
from .euler import EULER
from .res_multistep import RES_MULTISTEP
from .unipc import UNI_PC, UNI_PC_BH2

__all__ = ["EULER", "SOLVERS", "Solver", "find_solver", "find_step"]

SOLVERS: Mapping[str, Solver] = {
    solver.name: solver
    for solver in (
        EULER,
        DPMPP_2M,
        RES_MULTISTEP,
        UNI_PC,
        UNI_PC_BH2,
    )
}
"""All solvers by name. To add a solver, write its file and add it here."""


def find_solver(solver: str | Solver) -> Solver:
    """The solver of this name; a `Solver` is returned as it is.

    Raises:
        InvalidInput: for an unknown name.
    """
    if isinstance(solver, Solver):
        return solver
    check_choice("solver", solver, SOLVERS)
    return SOLVERS[solver]


def find_step(solver: str | Solver) -> StepFunction:
    """The step function of a solver that is one function.

    Raises:
        InvalidInput: for an unknown name, or a solver that is more than one function.
    """
    found = find_solver(solver)
    if found.step is None:
        names = ", ".join(name for name, each in SOLVERS.items() if each.step is not None)
        raise InvalidInput("solver", f"{found.name} is not a single function of a step; take one of {names}")
    return found.step
