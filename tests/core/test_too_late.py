"""What comes too late to be of use, and when to give up: results after the end, gains too small to count."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from chords_core import SOLVERS, Chords, Evaluation, LaneTimeouts, Residual, ThreadPool, sample
from chords_core.sdo.events import Iterated, OptimizationEvent, RolledBack, Stopped
from chords_core.sdo.optimize import optimize_latent
from chords_core.simulated_devices import Device
from chords_core.simulation import simulate, skeleton
from chords_core.solvers.interpolated import default_calls
from tests.core.problems import Mixture, geometric, karras, noise, nonlinear

MODEL = Mixture(6)


def distance(x: Tensor) -> Tensor:
    """A quadratic objective, one value an item."""
    return (x - 0.3).square().flatten(1).mean(1)


def test_results_after_the_end_change_nothing() -> None:
    """Other cores are still computing when a hit is accepted; what they bring is not taken."""
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


def test_an_evaluation_made_twice_is_waited_for() -> None:
    """A device is late, another one does its work, and then the first answers after all: nobody needs the second
    answer, but the run only returns when both devices are free."""
    hasty = LaneTimeouts(floor=2.0, factor=2.0, first=2.0)
    run = simulate(skeleton(1, (0,)), [Device(2.5), Device(1.0)], timeouts=hasty)
    assert (run.hits[-1].core, run.hits[-1].seconds) == (1, 2.5)
    assert run.evaluations == 2
    assert 3.0 <= run.seconds < 3.1


def test_a_search_ends_when_what_it_gains_is_next_to_nothing() -> None:
    """Values that still sink, but by less than a thousandth of the gain so far, are no reason to go on."""
    events: list[OptimizationEvent] = []

    def sinking(sample: Tensor) -> Tensor:
        """5 after a first 10, then less by next to nothing each time; with a gradient that moves the sample."""
        done = sum(isinstance(event, Iterated) for event in events)
        mean = sample.flatten(1).mean(1)
        return mean - mean.detach() + (10.0 if done == 0 else 5.0 - 1e-4 * done)

    settings: dict[str, Any] = {"iterations": 40, "refresh": 1, "patience": 5, "on_event": events.append}
    found = optimize_latent(MODEL, noise(1, 6, scale=10.0), geometric(6), sinking, **settings)
    assert [event.reason for event in events if isinstance(event, Stopped)] == ["nothing has improved for 5 iterations"]
    assert len(found.sampled) == 7
    assert float(found.history[-1]) == float(found.history.min())  # and yet the last is the best, and kept


def test_lanes_that_find_nan_roll_the_search_back() -> None:
    """Where lanes sample, it is a lane that finds the model broken; the best so far is kept and the search goes on."""
    events: list[OptimizationEvent] = []

    def brittle(x: Tensor, sigma: float) -> Tensor:
        broken = len(events) >= 3 and not any(isinstance(event, RolledBack) for event in events)
        return MODEL(x, sigma) * (float("nan") if broken else 1.0)

    settings: dict[str, Any] = {"iterations": 12, "refresh": 1, "cores": 2, "on_event": events.append}
    with ThreadPool([brittle, brittle]) as pool:
        found = optimize_latent(MODEL, noise(2, 6, scale=10.0), geometric(6), distance, pool=pool, **settings)
    back = [(event.items, event.reason) for event in events if isinstance(event, RolledBack)]
    assert back == [((0, 1), "the model returned NaN or infinity")]
    assert len(found.sampled) == 12 and bool(torch.isfinite(found.history).all())
    assert bool((found.history[-1] < found.history[0]).all())


def test_fewer_calls_stop_between_equal_hits() -> None:
    """With `calls` as without, a threshold ends a window at two hits that agree, and where none do it goes on for
    further rounds, which change hardly anything."""
    x, sigmas = noise(6, 6, scale=10.0), karras(30)
    window: dict[str, Any] = {"calls": default_calls(30), "method": "secant", "cores": 3}
    by_rule = sample(MODEL, x, sigmas, **window)
    easy = sample(MODEL, x, sigmas, **window, accept=Residual(1e6))
    strict = sample(MODEL, x, sigmas, **window, accept=Residual(1e-300))
    assert easy.depth <= by_rule.depth < strict.depth
    last, before = strict.hits[-1].x, strict.hits[-2].x
    assert float((last - before).norm() / last.norm()) < 1e-3
