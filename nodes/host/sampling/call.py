"""One call of a sampler function by the host."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.model_sampling
import comfy.samplers
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class SamplerCall:
    """What the host hands to a sampler function.

    Attributes:
        model: the host's KSamplerX0Inpaint, or what another node made of it.
        x: the noisy latent at ``sigmas[0]``.
        sigmas: steps + 1 values.
        extra_args: the further arguments of a model call.
        callback: called after each step, or None.
        disable: whether to hide the progress bar of the console.
        stock_options: further options, for the host's own sampler.
    """

    model: Any
    x: Tensor
    sigmas: Tensor
    extra_args: dict[str, Any]
    callback: Callable[[dict[str, Any]], None] | None
    disable: bool | None
    stock_options: dict[str, Any]

    @property
    def steps(self) -> int:
        """The number of steps."""
        return max(0, len(self.sigmas) - 1)

    @property
    def plain(self) -> bool:
        """Whether model and arguments are as the host's own nodes make them. The other properties need that."""
        return type(self.model) is comfy.samplers.KSamplerX0Inpaint and "model_options" in self.extra_args

    @property
    def guider(self) -> Any:
        """The host's guider."""
        return self.model.inner_model

    @property
    def base_model(self) -> Any:
        """The host's BaseModel."""
        return self.guider.inner_model

    @property
    def primary(self) -> torch.device:
        """The device that holds the model."""
        device: torch.device = self.guider.model_patcher.load_device
        return device

    @property
    def model_options(self) -> dict[str, Any]:
        """The model options of this run."""
        options: dict[str, Any] = self.extra_args["model_options"]
        return options

    @property
    def prediction(self) -> str:
        """What the states are: "flow", (1 - sigma) x0 + sigma eps, or "eps", x0 + sigma eps."""
        return "flow" if isinstance(self.base_model.model_sampling, comfy.model_sampling.CONST) else "eps"

    def to_latent(self, x: Tensor) -> Tensor:
        """A state at the last sigma as the samples of a LATENT, as the host converts a sampler's result."""
        model, sigma = self.base_model, self.sigmas[-1]
        x = model.model_sampling.inverse_noise_scaling(sigma, x.to(sigma.device))
        latent: Tensor = model.process_latent_out(x.to(torch.float32))
        return latent.cpu()
