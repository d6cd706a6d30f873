"""Where on the sigma grid each core starts: ``starts[k - 1]`` is i_k, the index of core k's first evaluation.

Cores are numbered from 1, the slowest, to K, the fastest. Core 1 starts at index 0 and is the sequential sampler. Core
k starts with one jump from core k-1's first evaluation, one round later. So core k reaches the end of N steps after
N - i_k + k - 1 model calls in a row. That number is its *depth*.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import index as as_index

from ..checks import check_whole, shown
from ..errors import InvalidInput

_AUTHORS_50 = {4: (0, 8, 16, 32), 8: (0, 2, 4, 8, 16, 24, 32, 40)}


def hit_depth(steps: int, starts: Sequence[int], core: int) -> int:
    """Model calls in a row until ``core`` (1 = slowest) reaches the end of ``steps`` steps."""
    return steps - starts[core - 1] + core - 1


def lattice_starts(steps: int, cores: int, q: int = 2) -> list[int]:
    """Evenly spaced starts: the fastest core is rectified every d steps, the last time exactly at the end.

    With gap d and q rectifications of the fastest core, its hit is the q-th parareal iterate on a pipelined grid. Its
    depth is cores - 1 + q*d. A larger q is slower and closer to the sequential result. Where ``steps`` leave no room, q
    and then the number of cores become smaller, so that the list may be shorter than ``cores``.

    Args:
        steps: N >= 1.
        cores: K >= 1.
        q: rectifications of the fastest core, >= 1.

    Raises:
        InvalidInput: for values below 1.
    """
    for name, value in (("steps", steps), ("cores", cores), ("q", q)):
        check_whole(name, value)
    cores = min(cores, steps)
    if cores == 1:
        return [0]
    if cores == 2:
        return [0, max(1, steps // (q + 1))]
    # Core 2 starts at steps - (cores - 2 + q) * gap, which must leave index 0 to core 1.
    q = min(q, (steps - 1) - (cores - 2))
    gap = min(-(-steps // (cores + q)), (steps - 1) // (cores - 2 + q))
    return [0, *(steps - (q + cores - core) * gap for core in range(2, cores + 1))]


def authors_starts(steps: int, cores: int) -> list[int]:
    """The starts the authors publish for 50 steps (4 or 8 cores), scaled in proportion to other ``steps``.

    Raises:
        InvalidInput: for another number of cores, or fewer steps than cores.
    """
    check_whole("steps", steps)
    if check_whole("cores", cores) not in _AUTHORS_50:
        raise InvalidInput("cores", f"the authors give starts for 4 and 8 cores, not {shown(cores)}")
    if steps < cores:
        raise InvalidInput("steps", f"{cores} cores need at least {cores} steps, not {shown(steps)}")
    starts: list[int] = []
    for core, start in enumerate(_AUTHORS_50[cores]):
        scaled = (2 * start * steps + 50) // 100
        lowest = starts[-1] + 1 if starts else 0
        starts.append(min(max(scaled, lowest), steps - cores + core))
    return starts


def check_starts(starts: Sequence[int], steps: int) -> tuple[int, ...]:
    """``starts`` as a tuple if they are increasing indices from 0 to at most steps - 1.

    Raises:
        InvalidInput: naming what is wrong.
    """
    check_whole("steps", steps)
    try:
        given = list(starts)
        indices = tuple(as_index(start) for start in given)
        whole = not any(isinstance(start, bool) for start in given)
    except TypeError:
        whole = False
    if not whole:
        raise InvalidInput("starts", f"must be whole step indices such as [0, 8, 16, 32], not {shown(starts)}")
    if not indices or indices[0] != 0:
        raise InvalidInput(
            "starts", f"must begin with 0 (the slowest core starts at the first step), not {shown(list(indices))}"
        )
    if any(a >= b for a, b in zip(indices, indices[1:], strict=False)):
        raise InvalidInput("starts", f"must increase strictly, one index a core, not {shown(list(indices))}")
    if indices[-1] >= steps:
        raise InvalidInput("starts", f"{shown(indices[-1])} is beyond the last step index {steps - 1} of {steps} steps")
    return indices
