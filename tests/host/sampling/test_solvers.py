"""The solvers are ComfyUI's samplers of the same name, bit for bit, on the host's own code."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from chords_core import SOLVERS, sample


@pytest.fixture(scope="module")
def stock(comfy_host: Path):
    """The host's sampler functions by name, imported into this process."""
    sys.path.insert(0, str(comfy_host))
    try:
        from comfy.cli_args import args

        args.cpu = True
        from comfy.extra_samplers import uni_pc
        from comfy.k_diffusion import sampling
    finally:
        sys.path.remove(str(comfy_host))
    return {name: getattr(sampling, f"sample_{name}") for name in ("euler", "dpmpp_2m", "res_multistep")} | {
        "uni_pc": uni_pc.sample_unipc,
        "uni_pc_bh2": uni_pc.sample_unipc_bh2,
    }


class _Model:
    """A nonlinear denoiser behind the interface the host's samplers expect."""

    class inner_model:  # noqa: N801
        class model_patcher:  # noqa: N801
            @staticmethod
            def get_model_object(name: str) -> object:
                return object()

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, **kwargs: object) -> torch.Tensor:
        scale = sigma.reshape(-1, *[1] * (x.ndim - 1))
        return torch.tanh(x / (1 + scale)) * 0.9 + 0.05 * torch.sin(7 * x)


def _schedules() -> dict[str, torch.Tensor]:
    karras = torch.linspace(80 ** (1 / 7), 0.002 ** (1 / 7), 20) ** 7
    t = torch.linspace(1, 0, 21)
    return {
        "karras": torch.cat([karras, karras.new_zeros(1)]),
        "flow": 3 * t / (1 + 2 * t),
        "tail left noisy": (3 * t / (1 + 2 * t))[:12],
        "one step": torch.tensor([0.9, 0.0]),
        "two steps": torch.tensor([0.9, 0.4, 0.0]),
    }


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("schedule", _schedules())
@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (1, 16, 3, 8, 8), (9, 4, 5, 7)], ids=["images", "video", "odd"])
def test_one_core_and_exact_equal_the_host_bit_for_bit(
    stock, solver: str, schedule: str, shape: tuple[int, ...]
) -> None:
    if SOLVERS[solver].last_sigma and schedule == "one step":
        pytest.skip("the host's makes no step there, and gives the noise back; the nodes leave that to it")
    sigmas = _schedules()[schedule]
    model = _Model()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * sigmas[0]
    # A schedule of its own: the host's uni_pc writes its last sigma into what it is given.
    expected = stock[solver](model, x, sigmas.clone(), extra_args={}, disable=True)

    def denoise(x: torch.Tensor, sigma: float) -> torch.Tensor:
        return model(x, x.new_full((x.shape[0],), sigma))

    assert torch.equal(sample(denoise, x, sigmas, solver=solver).x, expected)
    assert torch.equal(sample(denoise, x, sigmas, solver=solver, cores=4, accept="exact").x, expected)
