"""The end of a run: results that come after it, and rules that end it."""

from __future__ import annotations

from typing import Any

import torch

from chords_core import SOLVERS, Chords, Evaluation, Residual, default_calls, sample
from tests.core.problems import Mixture, karras, noise, nonlinear


def test_results_after_the_end_change_nothing() -> None:
    """Other cores are still computing when a hit is accepted. Their results are not taken."""
    method = Chords(noise(2, 3, scale=10.0), karras(12), (0, 3, 6), SOLVERS["euler"], 1)
    late: list[Evaluation] = []
    while method.accepted is None:
        evaluations = list(method.ready())
        for evaluation in evaluations:
            method.complete(evaluation, nonlinear(evaluation.x, evaluation.sigma))
        late = evaluations
    accepted, hits = method.accepted, tuple(method.hits)
    for evaluation in late:
        assert method.complete(evaluation, torch.full_like(evaluation.x, 1e6)) == []
    assert method.accepted is accepted and tuple(method.hits) == hits
    assert list(method.ready()) == []


def test_fewer_calls_stop_between_equal_hits() -> None:
    """With and without `calls`, a threshold ends a window at two hits that agree. If none agree, it makes further
    rounds, which change hardly anything."""
    model, x, sigmas = Mixture(6), noise(6, 6, scale=10.0), karras(30)
    window: dict[str, Any] = {"calls": default_calls(30), "method": "secant", "cores": 3}
    by_rule = sample(model, x, sigmas, **window)
    easy = sample(model, x, sigmas, **window, accept=Residual(1e6))
    strict = sample(model, x, sigmas, **window, accept=Residual(1e-300))
    assert easy.depth <= by_rule.depth < strict.depth
    last, before = strict.hits[-1].x, strict.hits[-2].x
    assert float((last - before).norm() / last.norm()) < 1e-3
