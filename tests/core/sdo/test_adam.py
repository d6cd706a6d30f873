"""Adam, the normalised gradient, and the constraints on the noise."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chords_core.sdo.adam import Adam, normalised
from chords_core.sdo.batch import rms
from chords_core.sdo.noise_constraints import keep_moments, keep_norm
from tests.core.problems import noise


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.sampled_from([1e-30, 1e-6, 1.0, 1e20]))
def test_pieces_of_the_descent(seed: int, size: float) -> None:
    """A normalised gradient has RMS 1 whatever its size; norm and moments are kept; items are independent."""
    x, initial = noise(3, 4, 5, seed=seed), noise(3, 4, 5, seed=seed + 1)
    assert torch.allclose(rms(normalised(x.float() * size)), torch.ones(3))
    assert torch.equal(normalised(torch.zeros(2, 3)), torch.zeros(2, 3))
    assert torch.allclose(rms(keep_norm(x, initial)), rms(initial))
    kept = keep_moments(x, initial).flatten(1)
    assert torch.allclose(kept.mean(1), initial.flatten(1).mean(1))
    assert torch.allclose(kept.std(1), initial.flatten(1).std(1))
    assert torch.equal(keep_norm(x, initial)[1:2], keep_norm(x[1:2], initial[1:2]))


def test_adam_is_torchs() -> None:
    """The same path as torch.optim.Adam, and an item that is reset begins again."""
    x = noise(2, 5)
    parameter = torch.nn.Parameter(x.clone())
    optimizer = torch.optim.Adam([parameter], lr=0.1)
    adam = Adam.initial(x)
    for number in range(5):
        parameter.grad = noise(2, 5, seed=10 + number)
        optimizer.step()
        adam, direction = adam.step(parameter.grad)
        x = x + 0.1 * direction
    assert torch.allclose(x, parameter.detach(), rtol=1e-9)
    adam = adam.reset(torch.tensor([True, False]))
    assert adam.count.tolist() == [0, 5] and not adam.mean[0].any() and bool(adam.mean[1].any())
