"""`optimize_parameters`: it reaches the objective on noise it has not seen, keeps the best, and costs what it says."""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from chords_core import (
    InlinePool,
    InvalidInput,
    NonFiniteDenoised,
    ThreadPool,
    TrainingCancelled,
    TrainingIterated,
    optimize_parameters,
    sample,
)
from chords_core.sdo.events import RolledBack, Stopped
from tests.core.problems import Counted, case_name, geometric, noise
from tests.core.sdo.short_optimisation import distance
from tests.core.sdo.short_training import MODEL, SIGMAS, SIZE, Network, same_starts, starts, train


def _judged(network: Any) -> float:
    """The mean objective of noise that is not trained on."""
    x = noise(16, SIZE, seed=9, scale=10.0)
    return float(distance(sample(network, x, SIGMAS, method="sequential").x).mean())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gradient": "full"},
        {"gradient": "full", "checkpoint": False},
        {"solver": "dpmpp_2m"},
        {"tolerance": 0.02},
        {"keep": 11},
        {"keep": [3, 11]},
        {"hold": 0},
        {"micro_batch": 2},
        {"cores": 3},
        {"cores": 3, "tolerance": 0.02},
    ],
    ids=str,
)
def test_it_reaches_the_objective_on_other_noise(options: dict[str, Any]) -> None:
    before = _judged(Network())
    network, trained, _ = train(hold=0.01, iterations=40) if not options else train(**{"hold": 0.01, **options})
    assert _judged(network) < 0.7 * before
    assert trained.history.shape == (40 if not options else 20, 3)
    assert trained.stopped is None


def test_lanes_sample_and_the_result_is_the_same() -> None:
    network = Network()
    inline, _, _ = train(cores=3)
    with ThreadPool([network, network, network]) as pool:
        train(network, cores=3, pool=pool)
    for found, expected in zip(network.parameters, inline.parameters, strict=True):
        assert torch.allclose(found, expected, rtol=1e-9)


def test_micro_batches_give_the_same_parameters() -> None:
    one, first, _ = train(micro_batch=1)
    for size in (2, 3, 7):
        other, found, _ = train(micro_batch=size)
        assert torch.allclose(found.history, first.history, rtol=1e-7)
        for parameter, expected in zip(other.parameters, one.parameters, strict=True):
            assert torch.allclose(parameter, expected, rtol=1e-6, atol=1e-9)


def test_functions_of_whole_batches_are_taken_whole() -> None:
    """A model that is made for three items fails at one; then the batch is not split."""
    network, sizes = Network(), set()
    shift = 0.1 * noise(3, SIZE, seed=2)

    def denoise(x: Tensor, sigma: float) -> Tensor:
        sizes.add(len(x))
        if len(x) != 3:
            raise RuntimeError("The size of tensor a (1) must match the size of tensor b (3)")
        return network(x, sigma) + shift

    _, trained, _ = train(network, denoise=denoise)
    assert sizes == {1, 3} and trained.history.shape == (20, 3)


def test_an_error_of_the_model_is_raised_as_it_is() -> None:
    def broken(x: Tensor, sigma: float) -> Tensor:
        raise ZeroDivisionError("as it is")

    network = Network()
    with pytest.raises(ZeroDivisionError, match="as it is"):
        train(network, denoise=broken)
    assert not any(parameter.requires_grad for parameter in network.parameters)


@pytest.mark.parametrize(("keep", "hold"), [(None, 0.1), (None, 0), ([11], 0.1), ([0, 5], 0)])
def test_evaluations_are_counted(keep: Any, hold: float) -> None:
    """A sampling costs the steps, a kept step three. What holds the network costs one more each, and a backward pass
    each but the first. The last update costs a sampling."""
    network = Network()
    model, old = Counted(network), Counted(Network())
    _, trained, _ = train(
        network, denoise=model, reference=old, keep=keep, hold=hold, iterations=4, patience=None, micro_batch=3
    )
    steps = 3 if keep is None else len(keep)
    held = steps + 2 * (steps - 1) if hold > 0 else 0
    assert trained.evaluations == 5 * 12 + 4 * (3 * steps + held)
    assert model.calls == 5 * 12 + 4 * steps and old.calls == 4 * steps * (hold > 0)


@pytest.mark.parametrize(("checkpoint", "cost"), [(True, 4), (False, 3)])
def test_evaluations_of_full_backpropagation(checkpoint: bool, cost: int) -> None:
    """Each step costs three, four with checkpoints; the first and the last sampling are forward only."""
    _, trained, _ = train(gradient="full", checkpoint=checkpoint, iterations=4, hold=0)
    assert trained.evaluations == 2 * 12 + 4 * 12 * cost


def test_what_is_kept_does_not_depend_on_steps_and_items() -> None:
    """The most that the backward pass keeps at one time is the graph of one step for one item."""

    def peak(steps: int, items: int, **options: Any) -> int:
        now = most = 0

        class Held:
            def __init__(self, tensor: Tensor) -> None:
                nonlocal now, most
                self.tensor, self.bytes = tensor, tensor.nbytes
                now += self.bytes
                most = max(most, now)

            def __del__(self) -> None:
                nonlocal now
                now -= self.bytes

        with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.tensor):
            train(
                starts=lambda i: noise(items, SIZE, seed=i, scale=10.0),
                sigmas=geometric(steps),
                iterations=1,
                **options,
            )
        return most

    assert peak(12, 1) == peak(60, 1) == peak(12, 5)
    assert peak(60, 1, gradient="full", checkpoint=False) > 30 * peak(60, 1)


def test_the_best_is_kept() -> None:
    """On the same noise, the parameters of the lowest objective: a far too large step makes it worse."""
    network, trained, events = train(starts=same_starts, lr=3.0, iterations=15, hold=0)
    means = trained.history.mean(1)
    kept = float(distance(sample(network, starts(0), SIGMAS, method="sequential").x).mean())
    assert kept <= float(means.min()) + 1e-9
    if trained.best < 15:
        assert kept == pytest.approx(float(means[trained.best]))
    bests = [event.best for event in events if isinstance(event, TrainingIterated)]
    assert bests == sorted(bests, reverse=True)


def test_a_held_network_stays_nearer() -> None:
    drifts = [train(hold=hold, iterations=30)[1].drift[-1] for hold in (0.01, 1.0, 100.0)]
    assert drifts[0] > 1.5 * drifts[1] > 3 * drifts[2]
    assert train(hold=0)[1].drift == ()


def test_the_old_network_is_that_of_the_beginning() -> None:
    """Without a reference, the parameters as they came; a reference is used as it is."""
    ours, found, _ = train()
    given, other, _ = train(reference=Network())
    assert found.drift == pytest.approx(other.drift)
    for parameter, expected in zip(ours.parameters, given.parameters, strict=True):
        assert torch.allclose(parameter, expected)


def test_a_larger_objective_changes_nothing() -> None:
    """The weight of what holds the network is relative to the objective's slope."""
    plain, _, _ = train()
    scaled, _, _ = train(objective=lambda x: 1e6 * distance(x))
    for parameter, expected in zip(scaled.parameters, plain.parameters, strict=True):
        assert torch.allclose(parameter, expected, rtol=1e-5, atol=1e-8)


def test_each_item_has_its_condition() -> None:
    """Model, old model and objective get the conditions of the items that they are called with."""
    network, seen = Network(), set()
    targets = {"a": torch.full((SIZE,), 1.0).double(), "b": torch.full((SIZE,), -1.0).double()}

    def conditions(iteration: int) -> list[str]:
        return ["a", "b", "ab"[iteration % 2]]

    def denoise(x: Tensor, sigma: float, conditions: tuple[str, ...]) -> Tensor:
        seen.add(conditions)
        return network(x, sigma) + 0.1 * torch.stack([targets[name] for name in conditions])

    def objective(x: Tensor, conditions: tuple[str, ...]) -> Tensor:
        return (x - torch.stack([targets[name] for name in conditions])).square().mean(1)

    _, trained, _ = train(
        network, denoise=denoise, reference=denoise, objective=objective, conditions=conditions, micro_batch=2
    )
    assert seen == {("a", "b"), ("a",), ("b",)}
    assert float(trained.history[-5:].mean()) < float(trained.history[:5].mean())


def test_items_that_do_not_use_the_parameters_count_as_nothing() -> None:
    """A batch of an item that uses them and one that does not trains as the first item alone does."""

    def with_unused(x: Tensor, sigma: float, uses: tuple[bool, ...]) -> Tensor:
        return network(x, sigma) if uses[0] else MODEL(x, sigma)

    found = []
    for gradient in ("shortcut", "full"):
        for uses in ((True, False), (True,)):
            network = Network()
            given = {"conditions": lambda iteration, uses=uses: uses, "micro_batch": 1, "hold": 0.0, "iterations": 3}
            given |= {"starts": lambda iteration, uses=uses: same_starts(iteration)[: len(uses)]}
            given |= {"objective": lambda sample, conditions: distance(sample), "gradient": gradient}
            train(network, denoise=with_unused, **given)
            found.append(network.up.clone())
            assert float(network.up.norm()) > 0
        torch.testing.assert_close(found[-2], found[-1], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("gradient", ["shortcut", "full"])
def test_a_training_that_begins_without_using_the_parameters_is_refused(gradient: str) -> None:
    """A later batch that does not use them is not."""
    network = Network()

    def used_at_first(x: Tensor, sigma: float, iterations: tuple[int, ...]) -> Tensor:
        return network(x, sigma) if iterations[0] == 0 else MODEL(x, sigma)

    given = {"iterations": 4, "micro_batch": 3, "hold": 0.0, "gradient": gradient}
    given |= {"conditions": lambda iteration: (iteration,) * 3, "objective": lambda sample, _: distance(sample)}
    _, trained, _ = train(network, denoise=used_at_first, **given)
    assert len(trained.history) == 4
    with pytest.raises(InvalidInput, match="^denoise: .*no gradient with respect to the parameters"):
        train(Network(), denoise=MODEL, gradient=gradient, micro_batch=1)


def test_nan_is_rolled_back() -> None:
    """A broken batch puts the best parameters back, and the training goes on with half the step size."""
    network, calls, seen = Network(), 0, []

    def objective(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        seen.append(network.up.detach().clone())
        return distance(x) * (float("nan") if calls == 8 else 1.0)

    _, trained, events = train(network, objective=objective, micro_batch=3, starts=same_starts, hold=0)
    broken = [event for event in events if isinstance(event, RolledBack)]
    assert [event.iteration for event in broken] == [7] and "NaN" in broken[0].reason
    assert trained.history.isnan().any(1).nonzero().flatten().tolist() == [7]
    best = int(trained.history[:7].mean(1).argmin())
    assert torch.equal(seen[8], seen[best])  # put back
    # Adam's first step moves each element that has a gradient by the step size.
    first, after = float((seen[1] - seen[0]).abs().max()), float((seen[9] - seen[8]).abs().max())
    assert after == pytest.approx(first / 2 * (1 - 0.9 * 8 / 20), rel=1e-3)
    assert _judged(network) < _judged(Network())


def test_one_lucky_batch_is_not_the_best() -> None:
    """Batches of one item whose prompts are of very different difficulty: the first is the easiest."""
    network = Network()

    def objective(x: Tensor, conditions: tuple[int, ...]) -> Tensor:
        return distance(x) + torch.tensor([6.0 * (number > 0) for number in conditions]).double()

    def denoise(x: Tensor, sigma: float, conditions: tuple[int, ...]) -> Tensor:
        return network(x, sigma)

    _, trained, _ = train(
        network,
        denoise=denoise,
        reference=denoise,
        objective=objective,
        conditions=lambda i: [i % 4],
        starts=lambda i: noise(1, SIZE, seed=100 + i, scale=10.0),
        iterations=60,
        hold=0,
    )
    assert trained.best > 20 and _judged(network) < 0.7 * _judged(Network())


def test_a_batch_without_a_slope_does_not_end_the_learning() -> None:
    """Hinges and clamped values may have no slope in the first batch, and later ones may have a hundred times less."""
    network, calls = Network(), 0

    def objective(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return distance(x) * (0.0 if calls <= 2 else 1.0)

    train(network, objective=objective, micro_batch=3)
    assert _judged(network) < 0.9 * _judged(Network())


def test_the_largest_slope_so_far_is_the_unit_of_hold() -> None:
    """A first batch with a small slope does not make the network free."""
    calls = 0

    def objective(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        value = distance(x)
        return value.detach() + (1e-4 if calls == 1 else 1.0) * (value - value.detach())

    usual = train(micro_batch=3, hold=30.0, iterations=40)[1].drift[-1]
    found = train(objective=objective, micro_batch=3, hold=30.0, iterations=40)[1].drift[-1]
    assert found < 2 * usual


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_parameters_of_any_precision_learn(dtype: torch.dtype) -> None:
    """Adam's sums are in float32, so that small updates of half precision are not lost and nothing is divided by 0."""

    def denoise(x: Tensor, sigma: float) -> Tensor:
        up, down = network.up.double(), network.down.double()
        return MODEL(x, sigma) + torch.tanh(x @ down.T) @ up.T / (1 + sigma) + up.sum(1)

    network = Network(dtype)
    _, _, events = train(network, denoise=denoise, iterations=30, hold=0.01)
    assert network.up.dtype == dtype and not any(isinstance(event, RolledBack) for event in events)
    x = noise(16, SIZE, seed=9, scale=10.0)
    after = float(distance(sample(denoise, x, SIGMAS, method="sequential").x).mean())
    assert after < 0.7 * _judged(Network())


def test_a_gradient_far_larger_than_usual_is_shortened() -> None:
    """The step after it is about as long as the others."""
    network, calls, seen = Network(), 0, []

    def objective(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        seen.append(network.up.detach().clone())
        return distance(x) if calls != 10 else distance(x.detach()) + 1e6 * (distance(x) - distance(x.detach()))

    train(network, objective=objective, micro_batch=3, starts=same_starts, hold=0, iterations=40)
    steps = [float((after - before).norm()) for before, after in pairwise(seen)]
    # Without that, Adam's second moment keeps the steps after it near zero for a long time.
    assert steps[25] > 0.1 * steps[5]


def test_the_step_size_falls() -> None:
    network, seen = Network(), []
    train(
        network,
        objective=lambda x: (seen.append(network.up.detach().clone()), x.mean(1))[1],
        starts=same_starts,
        micro_batch=3,
        iterations=40,
        hold=0,
    )
    steps = [float((after - before).abs().max()) for before, after in pairwise(seen)]
    assert steps[35] < 0.35 * steps[1]


def test_conditions_may_be_tensors() -> None:
    """Also those that are made anew for the same noise."""

    def denoise(x: Tensor, sigma: float, conditions: tuple[Tensor, ...]) -> Tensor:
        return network(x, sigma)

    network = Network()
    _, trained, _ = train(
        network,
        denoise=denoise,
        reference=denoise,
        objective=lambda x, conditions: distance(x),
        conditions=lambda i: [torch.ones(2)] * 3,
        starts=same_starts,
    )
    assert trained.history.shape == (20, 3)


def test_a_core_that_begins_late_keeps_its_nearest_step() -> None:
    """The result's core of CHORDS never called the model at step 0."""
    _, trained, _ = train(cores=3, keep=[0])
    assert trained.history.shape == (20, 3)


def test_an_error_at_a_later_item_is_not_hidden() -> None:
    """Only the first item shows whether functions take single items."""
    network, calls = Network(), 0

    def denoise(x: Tensor, sigma: float) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 15:
            raise RuntimeError("the second item")
        return network(x, sigma)

    with pytest.raises(RuntimeError, match="the second item"):
        train(network, denoise=denoise)


def test_the_drift_has_an_entry_for_each_iteration() -> None:
    network, calls = Network(), 0

    def denoise(x: Tensor, sigma: float) -> Tensor:
        nonlocal calls
        calls += 1
        return network(x, sigma) * (float("nan") if calls == 200 else 1.0)

    _, trained, _ = train(network, denoise=denoise, micro_batch=3)
    assert len(trained.drift) == len(trained.history) == 20
    assert [number for number, value in enumerate(trained.drift) if value != value] != []


def test_a_cancel_ends_between_two_kept_steps() -> None:
    network, cancel, calls = Network(), threading.Event(), 0

    def denoise(x: Tensor, sigma: float) -> Tensor:
        nonlocal calls
        calls += torch.is_grad_enabled()
        if calls == 2:
            cancel.set()
        return network(x, sigma)

    with pytest.raises(TrainingCancelled):
        train(network, denoise=denoise, reference=Network(), keep=range(12), cancel=cancel)
    assert calls == 2


def test_a_model_that_breaks_far_from_its_beginning_is_rolled_back() -> None:
    network = Network()

    def fragile(x: Tensor, sigma: float) -> Tensor:
        return network(x, sigma) * (float("nan") if float(network.up.detach().abs().max()) > 0.2 else 1.0)

    _, trained, events = train(network, denoise=fragile, lr=0.1, iterations=30)
    assert any(isinstance(event, RolledBack) for event in events)
    assert float(network.up.abs().max()) <= 0.2 and all(bool(p.isfinite().all()) for p in network.parameters)
    assert trained.history.shape == (30, 3)


def test_an_explosion_is_rolled_back_and_repeated_ones_end_it() -> None:
    """An objective without a bottom that explodes wherever the network moves."""
    network = Network()

    def cliff(x: Tensor) -> Tensor:
        return distance(x) * (1e9 if bool(network.up.detach().any()) and len(seen) > 2 else 1.0)

    seen: list[Any] = []
    _, trained, _ = train(network, objective=cliff, on_event=seen.append, iterations=40)
    assert isinstance(seen[-1], Stopped)
    assert trained.stopped is not None and "rolled back" in trained.stopped
    assert trained.history.shape == (40, 3)


def test_it_ends_when_idle() -> None:
    """An objective that the parameters cannot change. The means of the first six batches of three are of too few items
    to compare them."""
    _, trained, events = train(objective=lambda x: 0 * distance(x) + 3.0, patience=4, hold=0, iterations=50)
    assert trained.stopped is not None and "not improved for 4" in trained.stopped
    assert isinstance(events[-1], Stopped) and events[-1].iteration == 6 + 4
    assert trained.history.shape == (50, 3) and torch.allclose(trained.history, torch.tensor(3.0).double())


def test_a_cancel_keeps_the_best() -> None:
    network, cancel = Network(), threading.Event()

    def listen(event: Any) -> None:
        if isinstance(event, TrainingIterated) and event.iteration == 9:
            cancel.set()

    with pytest.raises(TrainingCancelled) as raised:
        train(network, starts=same_starts, on_event=listen, cancel=cancel)
    best = raised.value.best
    assert best is not None and best.history.shape == (10, 3)
    kept = float(distance(sample(network, starts(0), SIGMAS, method="sequential").x).mean())
    assert kept == pytest.approx(float(best.history.mean(1).min()))
    assert not any(parameter.requires_grad for parameter in network.parameters)


def test_a_cancel_before_the_first_batch_changes_nothing() -> None:
    network = Network()
    with pytest.raises(TrainingCancelled) as raised:
        train(network, cancel=lambda: True)
    assert raised.value.best is None and not bool(network.up.any())


def test_what_belongs_to_the_caller_is_put_back() -> None:
    network = Network()
    network.down.requires_grad_(True)
    network.down.grad = torch.ones_like(network.down)
    train(network)
    assert network.down.requires_grad and not network.up.requires_grad
    assert torch.equal(network.down.grad, torch.ones_like(network.down)) and network.up.grad is None


def test_it_works_in_inference_mode() -> None:
    network = Network()
    with torch.inference_mode():
        train(network)
    assert _judged(network) < _judged(Network())


BAD: list[tuple[str, dict[str, Any]]] = [
    ("denoise", {"denoise": None}),
    ("parameters", {"parameters": []}),
    ("parameters", {"parameters": torch.zeros(3)}),
    ("parameters[0]", {"parameters": [torch.arange(3)]}),
    ("parameters[0]", {"parameters": [torch.full((2,), float("nan"))]}),
    ("parameters[0]", {"parameters": [torch.zeros(2, requires_grad=True) * 2]}),
    ("starts", {"starts": None}),
    ("sigmas", {"sigmas": torch.tensor([1.0, 2.0])}),
    ("objective", {"objective": 3}),
    ("iterations", {"iterations": 0}),
    ("lr", {"lr": float("nan")}),
    ("gradient", {"gradient": "half"}),
    ("keep", {"keep": 12}),
    ("keep", {"keep": []}),
    ("keep", {"keep": [1, 1]}),
    ("keep", {"keep": "last"}),
    ("keep", {"keep": [True]}),
    ("solver", {"solver": "eular"}),
    ("tolerance", {"tolerance": 2.0}),
    ("tolerance", {"tolerance": 0.01, "gradient": "full"}),
    ("hold", {"hold": -1}),
    ("hold", {"hold": float("inf")}),
    ("micro_batch", {"micro_batch": 0}),
    ("patience", {"patience": 0}),
    ("checkpoint", {"checkpoint": 1}),
    ("cores", {"cores": 0}),
    ("pool", {"pool": 3}),
    ("conditions", {"conditions": 3}),
    ("conditions", {"conditions": lambda i: [1, 2, 3], "pool": InlinePool(MODEL)}),
    ("reference", {"reference": 3}),
    ("cancel", {"cancel": 3}),
    ("on_event", {"on_event": 3}),
]


@pytest.mark.parametrize(("name", "options"), BAD, ids=case_name)
def test_bad_arguments_are_refused_before_any_call(name: str, options: dict[str, Any]) -> None:
    model = Counted(Network())
    with pytest.raises(InvalidInput) as raised:
        train(Network(), **{"denoise": model, **options})
    assert raised.value.name == name
    assert model.calls == 0


LATER: list[tuple[str, dict[str, Any]]] = [
    ("starts", {"starts": lambda i: torch.arange(3)}),
    ("starts", {"starts": lambda i: torch.zeros(0, SIZE)}),
    ("starts", {"starts": lambda i: noise(3 + i, SIZE)}),
    ("conditions", {"conditions": lambda i: [1]}),
    ("denoise", {"denoise": MODEL}),
    ("denoise", {"denoise": lambda x, sigma: MODEL(x, sigma) + torch.zeros(SIZE, requires_grad=True)}),
    ("denoise", {"gradient": "full", "denoise": lambda x, sigma: x + torch.zeros(SIZE, requires_grad=True)}),
    ("denoise", {"denoise": lambda x, sigma: x[:, :2]}),
    ("objective", {"objective": lambda x: x.mean()}),
    ("objective", {"objective": lambda x: distance(x).detach()}),
    ("objective", {"objective": lambda x: distance(x) * float("nan")}),
]


@pytest.mark.parametrize(("name", "options"), LATER, ids=case_name)
def test_what_cannot_be_trained_is_refused_by_name(name: str, options: dict[str, Any]) -> None:
    network = Network()
    with pytest.raises(InvalidInput) as raised:
        train(network, hold=0, **options)
    assert raised.value.name == name
    assert not any(parameter.requires_grad for parameter in network.parameters)


def test_a_model_that_is_broken_at_first_is_reported_with_its_step() -> None:
    with pytest.raises(NonFiniteDenoised):
        train(Network(), denoise=lambda x, sigma: x * float("nan"))


def test_the_contract() -> None:
    """The positional arguments and the fields of the result."""
    network = Network()
    trained = optimize_parameters(network, iter(network.parameters), starts, SIGMAS, distance, iterations=2)
    assert trained.history.shape == (2, 3) and trained.evaluations > 24 and trained.best in (0, 1, 2)
