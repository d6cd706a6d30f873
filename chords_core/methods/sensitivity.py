"""What a move of a node may do to the end of the trajectory, from what the run has measured itself.

A picture that is hard to decide carries a small error at an early step on to a large one at the end; another one
forgets it. How strongly differs a hundred times between pictures. Each time a node is evaluated again, at a state that
has moved by dx since, two numbers show it: the *response* |D_new - D_old| / |dx| of the prediction, and the *defect*
|D_new - predicted| / |dx| of the local model. So the effect of a move s_j on the end is estimated as that of a linear
system: the defect times the move enters the state with the share 1 - t_next / t_j of the step, and each later step
multiplies it by t_next / t + (1 - t_next / t) response. This is the dual-weighted residual of adaptive methods
(Becker, Rannacher, "An optimal control approach to a posteriori error estimation", Acta Numerica 2001), with norms in
the place of matrices.
"""

from __future__ import annotations

from collections.abc import Sequence

from .window_rule import Measured

_CARRIED = 1.2
"""The response that carries an error on, over the one that was measured. Above 1 it tells the few pictures apart that
carry errors on from step to step; the others hardly change by it."""

_MAX_GROWTH = 1e9
"""A larger growth says no more."""

_UNKNOWN = (1.0, 1.0)
"""Defect and response while no node was evaluated twice."""


def effects(
    measured: Measured, times: Sequence[float], amplification: Sequence[float]
) -> tuple[tuple[float, ...], ...]:
    """For each known node about how far its move changes the end, as a relative RMS difference, one for each sample.

    Args:
        measured: what a round has shown.
        times: N+1 values, as a flow model has them.
        amplification: of each step; see `chords_core.solvers.linear_form.amplification`.
    """
    by_sample = []
    for sample, moves in enumerate(zip(*measured.moves, strict=True)):
        rates = _filled([None if by is None else by[sample] for by in measured.rates])
        by_sample.append(_effects(measured.known, times, amplification, moves, rates))
    return tuple(zip(*by_sample, strict=True))


def _filled(rates: Sequence[tuple[float, float] | None]) -> list[tuple[float, float]]:
    """A node without rates has those of the nearest node on the left that has some, or else on the right."""
    nearest = next((rate for rate in rates if rate is not None), _UNKNOWN)
    filled = []
    for rate in rates:
        nearest = nearest if rate is None else rate
        filled.append(nearest)
    return filled


def _effects(
    known: Sequence[int],
    times: Sequence[float],
    amplification: Sequence[float],
    moves: Sequence[float],
    rates: Sequence[tuple[float, float]],
) -> list[float]:
    """The effects of one sample, from the last node to the first, as the growth is that of all later steps."""
    growth, found = 1.0, []
    following = (*known[1:], len(times) - 1)
    for node, after, move, (defect, response) in reversed(list(zip(known, following, moves, rates, strict=True))):
        kept = times[after] / times[node]
        size = 1 - times[node] / times[0]  # of the picture implied at the node, over that at the end
        found.append(growth * (1 - kept) * defect * move * size * amplification[node])
        growth = min(_MAX_GROWTH, growth * (kept + (1 - kept) * _CARRIED * response))
    return found[::-1]
