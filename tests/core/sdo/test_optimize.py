"""Optimising a start: the gradients are the formula's, the best is a sampled one, what breaks is rolled back."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chords_core import InvalidInput, NonFiniteDenoised, ThreadPool, sample
from chords_core.sdo.adam import Adam, keep_moments, keep_norm, normalised, rms
from chords_core.sdo.gradients import Kept, full, full_of_condition, shortcut, shortcut_of_condition
from chords_core.sdo.optimize import (
    Improved,
    Iterated,
    OptimizationCancelled,
    Optimized,
    Refreshed,
    RolledBack,
    Stopped,
    optimize_latent,
)
from chords_core.solvers import find_step
from chords_core.solvers.base import Past
from tests.core.problems import STEP_SOLVERS, Counted, Mixture, geometric, karras, noise

SIZE = 6
MODEL = Mixture(SIZE)
TARGET = noise(SIZE, seed=3)
GRIDS = {"to low": karras(8), "to zero": geometric(8, last_zero=True)}


def distance(x: Tensor) -> Tensor:
    """A quadratic objective, one value an item."""
    return (x - TARGET.to(x)).square().flatten(1).mean(1)


def conditioned(x: Tensor, sigma: float, condition: Tensor) -> Tensor:
    """A model whose conditioning [B, SIZE] draws its answer."""
    return MODEL(x, sigma) + 0.3 * torch.tanh(condition * x / (1 + sigma)) + 0.1 * condition


def model32(x: Tensor, sigma: float) -> Tensor:
    """The ideal model in the state's own precision."""
    return MODEL(x.double(), sigma).to(x)


def sequential(denoise: Any, x: Tensor, sigmas: Tensor, solver: str = "euler") -> Tensor:
    """What the sequential sampler gives."""
    return sample(denoise, x, sigmas, method="sequential", solver=solver).x


def plain_loop(denoise: Any, x: Tensor, sigmas: Tensor, solver: str) -> Tensor:
    """The sampler written out."""
    past = None
    for sigma, sigma_next in zip(sigmas, sigmas[1:], strict=False):
        denoised = denoise(x, float(sigma))
        x, past = find_step(solver)(x, denoised, sigma, sigma_next, past), Past(sigma, denoised)
    return x


def slopes(value: Any, x: Tensor, h: float = 1e-5) -> Tensor:
    """Central differences of ``value`` (a number) at ``x``."""
    found = torch.zeros_like(x)
    for place in range(x.numel()):
        bump = torch.zeros_like(x)
        bump.view(-1)[place] = h
        found.view(-1)[place] = (value(x + bump) - value(x - bump)) / (2 * h)
    return found


# gradients


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), sigma=st.floats(0.2, 8), ratio=st.sampled_from([0.0, 0.3, 0.9]))
def test_shortcut_is_the_formula(seed: int, sigma: float, ratio: float) -> None:
    """(I + h df/dx)^T dJ/dx_N, with the Jacobian written out, for the Euler step."""
    x = noise(1, SIZE, seed=seed)
    high, low = torch.tensor(sigma).double(), torch.tensor(sigma * ratio).double()
    found = shortcut(MODEL, Kept(x, high, low), find_step("euler"), distance)
    drift = torch.autograd.functional.jacobian(lambda v: ((v - MODEL(v, float(high))) / high)[0], x)[:, 0]
    h = low - high
    end = x + h * (x - MODEL(x, float(high))) / high
    slope = 2 * (end - TARGET) / SIZE
    expected = (torch.eye(SIZE).double() + h * drift).T @ slope[0]
    assert torch.allclose(found.gradient[0], expected, rtol=1e-9, atol=1e-12)
    assert torch.allclose(found.sample, end, rtol=1e-12)
    assert torch.allclose(found.values, distance(end), rtol=1e-12)


@pytest.mark.parametrize("solver", STEP_SOLVERS)
@pytest.mark.parametrize("index", [0, 3, 7])
def test_shortcut_by_finite_differences(solver: str, index: int) -> None:
    """Any kept step, with its history and what follows held constant."""
    grid = GRIDS["to low"]
    x, rest = noise(2, SIZE, seed=1), noise(2, SIZE, seed=2)
    past = Past(grid[index - 1], noise(2, SIZE, seed=4)) if index else None
    kept = Kept(x, grid[index], grid[index + 1], past, rest)
    found = shortcut(MODEL, kept, find_step(solver), distance)

    def value(v: Tensor) -> float:
        end = find_step(solver)(v, MODEL(v, float(grid[index])), grid[index], grid[index + 1], past) + rest
        return float(distance(end).sum())

    assert torch.allclose(found.gradient, slopes(value, x), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("checkpoint", [True, False])
@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m"])
@pytest.mark.parametrize("grid", GRIDS)
def test_full_is_autograd_through_the_loop(solver: str, grid: str, checkpoint: bool) -> None:
    """The same numbers as backpropagation through the plain loop, and as finite differences."""
    sigmas, x = GRIDS[grid], noise(2, SIZE, scale=10.0)
    found = full(MODEL, x, sigmas, find_step(solver), distance, checkpoint=checkpoint)
    leaf = x.clone().requires_grad_()
    end = plain_loop(MODEL, leaf, sigmas, solver)
    (expected,) = torch.autograd.grad(distance(end).sum(), leaf)
    assert torch.allclose(found.gradient, expected, rtol=1e-12, atol=1e-15)
    assert torch.equal(found.sample, end.detach())
    numeric = slopes(lambda v: float(distance(plain_loop(MODEL, v, sigmas, solver)).sum()), x)
    assert torch.allclose(found.gradient, numeric, rtol=1e-4, atol=1e-8)


def test_one_step_makes_both_the_same() -> None:
    """With one step there is nothing to cut short."""
    x, sigmas = noise(2, SIZE), geometric(1)
    step = find_step("euler")
    short = shortcut(MODEL, Kept(x, sigmas[0], sigmas[1]), step, distance)
    assert torch.equal(short.gradient, full(MODEL, x, sigmas, step, distance).gradient)


@pytest.mark.parametrize("checkpoint", [True, False])
def test_gradients_of_a_conditioning(checkpoint: bool) -> None:
    """The same two for a conditioning, by finite differences."""
    sigmas, x, condition = geometric(4), noise(2, SIZE, scale=10.0), noise(2, SIZE, seed=5)
    step = find_step("euler")
    found = full_of_condition(conditioned, condition, x, sigmas, step, distance, checkpoint=checkpoint)

    def through_all(c: Tensor) -> float:
        return float(distance(plain_loop(lambda v, s: conditioned(v, s, c), x, sigmas, "euler")).sum())

    assert torch.allclose(found.gradient, slopes(through_all, condition), rtol=1e-4, atol=1e-8)
    kept = Kept(x, sigmas[2], sigmas[3], rest=noise(2, SIZE, seed=6))
    short = shortcut_of_condition(conditioned, condition, kept, step, distance)

    def through_one(c: Tensor) -> float:
        return float(distance(kept.end(step, conditioned(x, float(sigmas[2]), c))).sum())

    assert torch.allclose(short.gradient, slopes(through_one, condition), rtol=1e-5, atol=1e-8)


def test_parameters_are_left_alone() -> None:
    """No gradient is put into the model's parameters."""
    layer = torch.nn.Linear(SIZE, SIZE).double()
    optimize_latent(lambda x, s: layer(x), noise(1, SIZE), geometric(3), distance, iterations=2)
    assert all(parameter.grad is None for parameter in layer.parameters())


# descent


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.sampled_from([1e-30, 1e-6, 1.0, 1e20]))
def test_pieces_of_the_descent(seed: int, size: float) -> None:
    """A normalised gradient has RMS 1 whatever its size; norm and moments are kept; items are independent."""
    x, start = noise(3, 4, 5, seed=seed), noise(3, 4, 5, seed=seed + 1)
    assert torch.allclose(rms(normalised(x.float() * size)), torch.ones(3))
    assert torch.equal(normalised(torch.zeros(2, 3)), torch.zeros(2, 3))
    assert torch.allclose(rms(keep_norm(x, start)), rms(start))
    kept = keep_moments(x, start).flatten(1)
    assert torch.allclose(kept.mean(1), start.flatten(1).mean(1))
    assert torch.allclose(kept.std(1), start.flatten(1).std(1))
    assert torch.equal(keep_norm(x, start)[1:2], keep_norm(x[1:2], start[1:2]))


def test_adam_is_torchs() -> None:
    """The same path as torch.optim.Adam, and an item that forgets begins anew."""
    x = noise(2, 5)
    parameter = torch.nn.Parameter(x.clone())
    optimizer = torch.optim.Adam([parameter], lr=0.1)
    adam = Adam.start(x)
    for number in range(5):
        parameter.grad = noise(2, 5, seed=10 + number)
        optimizer.step()
        adam, direction = adam.step(parameter.grad)
        x = x + 0.1 * direction
    assert torch.allclose(x, parameter.detach(), rtol=1e-9)
    adam = adam.forget(torch.tensor([True, False]))
    assert adam.count.tolist() == [0, 5] and not adam.mean[0].any() and bool(adam.mean[1].any())


# the whole


def small(**options: Any) -> tuple[Optimized, list[Any]]:
    """A short optimisation with its events."""
    events: list[Any] = []
    arguments: dict[str, Any] = {"iterations": 12, "on_event": events.append, **options}
    denoise = arguments.pop("denoise", MODEL)
    x, sigmas = arguments.pop("x", noise(3, SIZE, scale=10.0)), arguments.pop("sigmas", geometric(8))
    return optimize_latent(denoise, x, sigmas, arguments.pop("objective", distance), **arguments), events


@pytest.mark.parametrize("solver", STEP_SOLVERS)
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"refresh": 1},
        {"refresh": 3, "keep": "spread"},
        {"refresh": "adaptive"},
        {"refresh": "adaptive", "keep": "spread"},
        {"keep": 2},
        {"gradient": "full"},
        {"gradient": "full", "checkpoint": False},
        {"regularise": "moments"},
        {"regularise": "none", "lr": 0.2},
    ],
    ids=str,
)
def test_the_result_is_sampled_and_no_worse(solver: str, how: dict[str, Any]) -> None:
    """The sample is the sequential sampler's from x, bit for bit, its objective true, and no item is worse."""
    x = noise(3, SIZE, scale=10.0)
    found, events = small(solver=solver, **how)
    assert torch.equal(found.sample, sequential(MODEL, found.x, geometric(8), solver))
    assert torch.equal(found.objective, distance(found.sample))
    start = distance(sequential(MODEL, x, geometric(8), solver))
    assert torch.allclose(found.history[0], start)
    assert bool((found.objective <= start).all())
    assert found.history.shape == (12, 3) and len(found.sampled) == 12
    assert sum(isinstance(event, Iterated) for event in events) == 12
    improved = [event for event in events if isinstance(event, Improved)]
    assert bool((improved[-1].objective <= improved[0].objective).all())
    if how.get("regularise", "norm") == "norm":
        assert torch.allclose(rms(found.x), rms(x))


@pytest.mark.parametrize("gradient", ["shortcut", "full"])
def test_the_objective_falls(gradient: str) -> None:
    """On a smooth problem both gradients take most of the objective away."""
    found, _ = small(gradient=gradient, iterations=40, denoise=lambda x, s: 0.5 * x / (1 + s), refresh=5)
    assert float(found.objective.mean()) < 0.5 * float(found.history[0].mean())


def test_items_do_not_disturb_each_other() -> None:
    """An item of a batch takes the path it takes alone."""
    x = noise(3, SIZE, scale=10.0)
    together, _ = small(x=x)
    alone, _ = small(x=x[1:2])
    assert torch.allclose(together.x[1:2], alone.x, rtol=1e-9)
    assert torch.allclose(together.history[:, 1:2], alone.history, rtol=1e-9)


def test_the_same_again() -> None:
    """Two runs give the same bits."""
    first, second = small(refresh="adaptive")[0], small(refresh="adaptive")[0]
    assert torch.equal(first.x, second.x) and torch.equal(first.history, second.history)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_dtype_is_kept(dtype: torch.dtype) -> None:
    """The start comes back in its own precision, and its sample is that one's."""
    x, sigmas = noise(2, SIZE).to(dtype), geometric(4, high=1.0).to(dtype)
    found, _ = small(denoise=model32, x=x, sigmas=sigmas)
    assert found.x.dtype == dtype
    assert torch.equal(found.sample, sequential(model32, found.x, sigmas))


@pytest.mark.parametrize("refresh", [1, 4, 10])
def test_evaluations_are_counted(refresh: int) -> None:
    """A sampling costs the steps, a gradient three more; every call is counted once."""
    model = Counted(MODEL)
    found, events = small(denoise=model, refresh=refresh, iterations=12, x=noise(1, SIZE, scale=10.0))
    samplings = len(range(0, 12, refresh)) + 1
    assert found.evaluations == 8 * samplings + 3 * 12
    assert model.calls == found.evaluations - 2 * 12  # of the three, two are the backward pass
    assert found.sampled == tuple(number % refresh == 0 for number in range(12))
    counts = [event.evaluations for event in events if isinstance(event, Iterated)]
    assert counts == sorted(counts) and counts[-1] <= found.evaluations


@pytest.mark.parametrize(("checkpoint", "cost"), [(True, 4), (False, 3)])
def test_evaluations_of_full_backpropagation(checkpoint: bool, cost: int) -> None:
    """Three a step, four with checkpointing; the samplings at both ends are forward ones."""
    found, _ = small(gradient="full", checkpoint=checkpoint, iterations=5, x=noise(1, SIZE, scale=10.0))
    assert found.evaluations - 5 * 8 * cost in (2 * 8, 3 * 8)


@pytest.mark.parametrize("keep", ["last", "spread"])
def test_saved_bytes_do_not_depend_on_the_steps(keep: str) -> None:
    """The shortcut holds the graph of one evaluation, however many steps there are."""

    def saved(steps: int, **options: Any) -> int:
        count = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal count
            count += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            small(sigmas=geometric(steps), iterations=1, **options)
        return count

    assert saved(5, keep=keep) == saved(40, keep=keep)
    full_bytes = {"gradient": "full", "checkpoint": False}
    assert saved(40, **full_bytes) > 30 * saved(40, keep=keep)


def test_adaptive_refresh_follows_the_predictions() -> None:
    """Where carrying is exact it is carried ever longer; where it deceives, each iteration samples."""
    drift = noise(SIZE, seed=8)
    exact, events = small(denoise=lambda x, s: x - s * drift, refresh="adaptive", iterations=31, patience=None, lr=0.01)
    intervals = [event.interval for event in events if isinstance(event, Refreshed)]
    assert intervals[:4] == [2, 4, 8, 16]
    assert sum(exact.sampled) <= 6

    def turned(x: Tensor, sigma: float) -> Tensor:  # what is added to the start comes out with the other sign
        return x + 2.0 * x if sigma > 5 else x - sigma * drift

    _, events = small(denoise=turned, refresh="adaptive", iterations=8, patience=None)
    assert all(event.interval <= 2 for event in events if isinstance(event, Refreshed))


def test_a_deceiving_prediction_is_not_believed() -> None:
    """Carried values that fall while the sampled ones rise: the start stays the best."""
    found, _ = small(denoise=lambda x, s: 3.0 * x if s > 5 else x - 0.0 * x * s, refresh=4, iterations=8)
    assert torch.equal(found.objective, distance(found.sample))
    assert bool((found.objective <= found.history[0]).all())


def test_early_stop() -> None:
    """Nothing improves at the optimum: it ends, says so, and the history's rest is the best."""
    found, events = small(
        objective=lambda x: 0.0 * x.sum(1) + 1.0, refresh=1, patience=3, iterations=30, x=noise(2, SIZE)
    )
    stops = [event for event in events if isinstance(event, Stopped)]
    assert len(stops) == 1 and stops[0].iteration == 3
    assert found.stopped == stops[0].reason
    assert found.history.shape == (30, 2) and len(found.sampled) == 4
    assert bool((found.history == 1).all())


def test_nan_objective_is_rolled_back() -> None:
    """An item whose objective breaks on the way goes on from its best; the other is not disturbed."""
    calls = 0

    def objective(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        values = distance(x)
        return values * torch.tensor([float("nan"), 1.0]).double() if calls == 5 else values

    x = noise(2, SIZE, scale=10.0)
    found, events = small(objective=objective, x=x, refresh=1)
    broken = [event for event in events if isinstance(event, RolledBack)]
    assert [(event.iteration, event.items) for event in broken] == [(4, (0,))]
    assert "NaN" in broken[0].reason
    assert bool(torch.isfinite(found.objective).all()) and bool((found.objective <= found.history[0]).all())
    undisturbed, _ = small(x=x, refresh=1)
    assert torch.allclose(found.x[1], undisturbed.x[1])


def test_broken_model_is_rolled_back() -> None:
    """A model that gives NaN where an item strays does not end the run."""
    x = noise(2, SIZE, scale=10.0)
    start = x.clone()

    def fragile(state: Tensor, sigma: float) -> Tensor:
        denoised = MODEL(state, sigma)
        strayed = (state[:1] - start[:1]).abs().amax() > 1.0
        if sigma == float(geometric(8)[0]) and bool(strayed):
            denoised = torch.cat((denoised[:1] * float("nan"), denoised[1:]))
        return denoised

    found, events = small(denoise=fragile, x=x, refresh=1)
    broken = [event for event in events if isinstance(event, RolledBack)]
    assert broken and all(event.items == (0,) for event in broken)
    assert bool(torch.isfinite(found.sample).all())
    assert bool((found.objective <= found.history[0]).all())


def test_exploding_objective_is_rolled_back() -> None:
    """An objective that shoots up is not followed."""
    calls = 0

    def objective(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return distance(x) * (1e6 if calls == 6 else 1.0)

    found, events = small(objective=objective, refresh=1)
    (broken,) = [event for event in events if isinstance(event, RolledBack)]
    assert broken.iteration == 5 and broken.items == (0, 1, 2) and "exploded" in broken.reason
    assert bool((found.objective <= found.history[0]).all())


@pytest.mark.parametrize("gradient", ["shortcut", "full"])
def test_cancel_keeps_the_best(gradient: str) -> None:
    """Cancelled on the way, the best so far hangs on the exception; before the first sample there is none."""
    cancel = threading.Event()

    def listen(event: Any) -> None:
        if isinstance(event, Iterated) and event.iteration == 4:
            cancel.set()

    with pytest.raises(OptimizationCancelled) as raised:
        small(on_event=listen, cancel=cancel, gradient=gradient)
    best = raised.value.best
    assert best is not None and best.history.shape == (5, 3)
    assert torch.equal(best.sample, sequential(MODEL, best.x, geometric(8)))
    with pytest.raises(OptimizationCancelled) as raised:
        small(cancel=lambda: True)
    assert raised.value.best is None


def test_cancel_during_sampling_stops_within_an_evaluation() -> None:
    """No further model call once cancel is true."""
    model = Counted(MODEL)
    with pytest.raises(OptimizationCancelled):
        small(denoise=model, cancel=lambda: model.calls >= 5)
    assert model.calls == 5


@pytest.mark.parametrize("gradient", ["shortcut", "full"])
def test_cancel_between_any_two_calls(gradient: str) -> None:
    """Wherever it comes, at most the evaluation under way is finished."""
    for calls in range(0, 60, 7):
        model = Counted(MODEL)
        try:
            small(denoise=model, cancel=lambda m=model, n=calls: m.calls >= n, gradient=gradient, iterations=3)
        except OptimizationCancelled:
            assert model.calls <= calls + (gradient == "shortcut")


@pytest.mark.parametrize("keep", ["last", "spread"])
@pytest.mark.parametrize("cores", [1, 3])
def test_sampling_on_lanes(cores: int, keep: str) -> None:
    """Trajectories on the way may come from CHORDS on several lanes; the result is still the sequential one."""
    with ThreadPool([MODEL] * 2) as pool:
        found, _ = small(pool=pool, cores=cores, keep=keep, refresh=3, sigmas=geometric(12))
    assert torch.equal(found.sample, sequential(MODEL, found.x, geometric(12)))
    assert torch.equal(found.objective, distance(found.sample))
    assert bool((found.objective <= found.history[0] * (1 + 1e-12)).all())


@pytest.mark.parametrize("gradient", ["shortcut", "full"])
def test_a_conditioning_is_optimised(gradient: str) -> None:
    """The conditioning moves, x stays, and the sample is that of the two."""
    x, condition = noise(2, SIZE, scale=10.0), noise(2, SIZE, seed=5)
    found, _ = small(denoise=conditioned, x=x, condition=condition, gradient=gradient, refresh=3, iterations=20)
    best = found.condition
    assert best is not None and torch.equal(found.x, x)
    assert torch.equal(found.sample, sequential(lambda v, s: conditioned(v, s, best), x, geometric(8)))
    assert bool((found.objective < found.history[0]).all())


def test_inference_mode_outside() -> None:
    """A host may call from inference mode, with inference tensors."""
    with torch.inference_mode():
        found, _ = small(x=noise(2, SIZE, scale=10.0), sigmas=geometric(8))
    assert bool((found.objective < found.history[0]).any())


# bad input

BAD: list[tuple[str, dict[str, Any]]] = [
    ("x", {"x": torch.arange(4)}),
    ("x", {"x": torch.tensor(1.0)}),
    ("x", {"x": torch.zeros(0, 3)}),
    ("x", {"x": torch.full((1, 3), float("nan"))}),
    ("x", {"x": [1.0]}),
    ("sigmas", {"sigmas": torch.tensor([1.0, 2.0])}),
    ("sigmas", {"sigmas": torch.tensor([1.0])}),
    ("iterations", {"iterations": 0}),
    ("iterations", {"iterations": 2.5}),
    ("iterations", {"iterations": True}),
    ("lr", {"lr": 0}),
    ("lr", {"lr": -0.1}),
    ("lr", {"lr": float("nan")}),
    ("lr", {"lr": "fast"}),
    ("gradient", {"gradient": "half"}),
    ("refresh", {"refresh": 0}),
    ("refresh", {"refresh": "often"}),
    ("refresh", {"refresh": 1.5}),
    ("solver", {"solver": "eular"}),
    ("regularise", {"regularise": "size"}),
    ("patience", {"patience": 0}),
    ("keep", {"keep": 8}),
    ("keep", {"keep": "first"}),
    ("keep", {"keep": -1}),
    ("keep", {"keep": 0, "cores": 2}),
    ("keep", {"keep": 9, "gradient": "full"}),
    ("cores", {"cores": 0}),
    ("condition", {"condition": noise(2, SIZE)}),
    ("condition", {"condition": torch.arange(3)}),
    ("condition", {"condition": noise(3, SIZE), "cores": 2}),
    ("objective", {"objective": None}),
]


@pytest.mark.parametrize(("name", "wrong"), BAD, ids=lambda value: str(value)[:40])
def test_refused_by_name_before_any_call(name: str, wrong: dict[str, Any]) -> None:
    """InvalidInput names the argument and the model was never called."""
    model = Counted(MODEL)
    with pytest.raises(InvalidInput, match=f"^{name}: .") as raised:
        small(denoise=model, **wrong)
    assert raised.value.name == name
    assert model.calls == 0


@pytest.mark.parametrize("gradient", ["shortcut", "full"])
@pytest.mark.parametrize(
    ("objective", "problem"),
    [
        (lambda x: distance(x).mean(), r"returned shape \(\)"),
        (lambda x: x, r"returned shape \(3, 6\)"),
        (lambda x: distance(x).detach(), "not differentiable"),
        (lambda x: (x > 0).double().mean(1), "not differentiable"),
        (lambda x: torch.ones(3, requires_grad=True) * 2, "not differentiable"),
        (lambda x: distance(x) * float("nan"), "at the start"),
        (lambda x: distance(x).sqrt() * 0 + (x[:, 0] * 0).sqrt(), "gradient is NaN"),
        (lambda x: 3.0, "not float"),
        (lambda x: torch.ones(3, dtype=torch.int64), "floating-point"),
    ],
)
def test_unusable_objectives_are_named(objective: Any, problem: str, gradient: str) -> None:
    """What only a call shows of an objective is said in its name."""
    with pytest.raises(InvalidInput, match=f"^objective: .*{problem}"):
        small(objective=objective, gradient=gradient)


@pytest.mark.parametrize("gradient", ["shortcut", "full"])
def test_unusable_models_are_named(gradient: str) -> None:
    """A model without gradient, of another shape, or broken from the start."""
    with pytest.raises(InvalidInput, match="^denoise: .*no gradient"):
        small(denoise=torch.no_grad()(MODEL), gradient=gradient)
    with pytest.raises(InvalidInput, match="^denoise: returned shape"):
        small(denoise=lambda x, s: x[:1], gradient=gradient)
    with pytest.raises(NonFiniteDenoised, match="step 1 of 8"):
        small(denoise=lambda x, s: x * float("nan"), gradient=gradient)


@pytest.mark.parametrize("size", [1.0, 1e-6])
def test_gradients_in_half_precision_survive_small_objectives(size: float) -> None:
    """A mean over a large picture times a small last step is below what half precision can tell from zero."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 64, generator=generator) / 8
    x = torch.randn(2, 64, generator=generator)

    def gradient(dtype: torch.dtype) -> Tensor:
        def denoise(state: Tensor, sigma: float) -> Tensor:
            hidden = torch.tanh(state.to(dtype) @ weight.to(dtype))
            return (hidden @ weight.to(dtype)).to(state)

        kept = Kept(x, torch.tensor(0.03), torch.tensor(0.0))
        step = find_step("euler")
        return shortcut(denoise, kept, step, lambda sample: size * (sample - 1).square().mean(1)).gradient

    wanted, found = gradient(torch.float32), gradient(torch.float16)
    assert float((found - wanted).norm() / wanted.norm()) < 0.02
