"""Plain PyTorch: one sample, made by two threads.

    python docs/examples/two_threads.py

Needs torch and chords_core (`pip install .` in this repository). The model is a mixture of two normal distributions,
whose exact denoiser is known, so there is nothing to download. On GPUs, each thread has a replica of the model on its
own device.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from chords_core import Hit, ThreadPool, sample

STEPS = 50
CENTRES = torch.tensor([[-1.0, 0.5], [1.0, -0.5]])
CALL_SECONDS = 0.02  # what a call takes, as if it were a large network


def denoise(x: Tensor, sigma: float) -> Tensor:
    """The expected clean point for ``x`` = point + sigma * noise [batch, 2]. Points spread by 0.2 at two centres."""
    time.sleep(CALL_SECONDS)
    variance = 0.2**2 + sigma**2
    distances = (x[:, None] - CENTRES).square().sum(-1)
    weights = torch.softmax(-distances / (2 * variance), dim=1)
    nearest = weights @ CENTRES
    return nearest + (x - nearest) * (0.2**2 / variance)


def main() -> None:
    sigmas = torch.cat([torch.logspace(1.0, -2.0, STEPS), torch.zeros(1)])
    x = sigmas[0] * torch.randn(4, 2, generator=torch.Generator().manual_seed(0))

    began = time.perf_counter()
    one = sample(denoise, x, sigmas)
    alone = time.perf_counter() - began
    print(f"one thread:  {one.depth} calls in a row, {alone:.2f} s")

    with ThreadPool([denoise, denoise]) as pool:
        began = time.perf_counter()
        two = sample(None, x, sigmas, method="secant", cores=2, tolerance=0.01, pool=pool, on_event=show)
        seconds = time.perf_counter() - began
    difference = float((two.x - one.x).norm() / one.x.norm())
    print(f"two threads: {two.depth} calls in a row, {seconds:.2f} s, {difference:.2%} from the result of one thread")


def show(event: object) -> None:
    """Each result on the way arrives while the run goes on."""
    if isinstance(event, Hit) and event.depth % 5 == 0:
        print(f"  after {event.depth:2} calls in a row: ({event.x[0, 0]:.3f}, {event.x[0, 1]:.3f})")


if __name__ == "__main__":
    main()
