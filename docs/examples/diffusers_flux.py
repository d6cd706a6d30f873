"""A diffusers pipeline: Flux, sampled by several cores in place of the pipeline's own loop.

    python docs/examples/diffusers_flux.py

Needs torch, and chords_core with the extra ``diffusers`` (`pip install .[diffusers]` in this repository). The networks
are tiny and have random weights, so nothing is downloaded. With `FluxPipeline.from_pretrained(...)` in place of
`tiny_pipeline`, and `pipeline.encode_prompt(...)` in place of random embeddings, the rest stays as it is.
"""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from torch import Tensor

from chords_core import Denoise, InlinePool, ThreadPool, sample

SIZE = 128  # pixels
STEPS = 20


def tiny_pipeline() -> FluxPipeline:
    """Flux's own classes in small, with random weights; text encoders are left out, for embeddings are given."""
    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
    )
    vae = AutoencoderKL(
        block_out_channels=(4,),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.0609,
        scaling_factor=1.5035,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    return FluxPipeline(scheduler, vae, None, None, None, None, transformer)


def flow_sigmas(pipeline: FluxPipeline, steps: int, tokens: int) -> Tensor:
    """The sigmas [steps + 1] that the pipeline itself uses for so many picture tokens; they end at 0."""
    config = pipeline.scheduler.config
    names = "base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift"
    shift = calculate_shift(tokens, *(config[name] for name in names))
    pipeline.scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=shift)
    return pipeline.scheduler.sigmas.clone()


def denoiser(transformer: FluxTransformer2DModel, text: Tensor, pooled: Tensor, ids: Tensor) -> Denoise:
    """``denoise(x, sigma)`` for chords_core: Flux predicts the velocity v, and the clean sample is x - sigma * v.

    For several GPUs, make one of these a device, with a copy of the transformer and of the inputs there.
    """
    text_ids = torch.zeros(text.shape[1], 3)

    @torch.no_grad()
    def denoise(x: Tensor, sigma: float) -> Tensor:
        velocity = transformer(
            hidden_states=x,
            timestep=torch.full((x.shape[0],), sigma),
            pooled_projections=pooled,
            encoder_hidden_states=text,
            txt_ids=text_ids,
            img_ids=ids,
            return_dict=False,
        )[0]
        return x - sigma * velocity

    return denoise


def main() -> None:
    pipeline = tiny_pipeline()
    text, pooled = torch.randn(1, 8, 32), torch.randn(1, 32)
    noise = torch.Generator().manual_seed(7)
    channels = pipeline.transformer.config.in_channels // 4
    latents, ids = pipeline.prepare_latents(1, channels, SIZE, SIZE, torch.float32, "cpu", noise)

    pipeline.set_progress_bar_config(disable=True)
    stock = pipeline(
        prompt_embeds=text,
        pooled_prompt_embeds=pooled,
        latents=latents,
        height=SIZE,
        width=SIZE,
        num_inference_steps=STEPS,
        output_type="latent",
    ).images

    sigmas = flow_sigmas(pipeline, STEPS, latents.shape[1])
    denoise = denoiser(pipeline.transformer, text, pooled, ids)
    one = sample(denoise, latents, sigmas, pool=InlinePool(denoise))
    print(f"one core:  {one.depth} calls in a row, {off(one.x, stock):.1e} from the pipeline's own latents")

    with ThreadPool([denoise, denoise]) as pool:
        two = sample(None, latents, sigmas, method="secant", cores=2, tolerance=0.01, pool=pool)
    print(f"two cores: {two.depth} calls in a row, {off(two.x, stock):.1e} from the pipeline's own latents")

    unpacked = pipeline._unpack_latents(two.x, SIZE, SIZE, pipeline.vae_scale_factor)
    with torch.no_grad():
        picture = pipeline.vae.decode(unpacked / pipeline.vae.config.scaling_factor + pipeline.vae.config.shift_factor)
    print(f"a picture of {tuple(picture.sample.shape)}")


def off(x: Tensor, reference: Tensor) -> float:
    """The relative RMS difference of two latents."""
    return float((x - reference).norm() / reference.norm())


if __name__ == "__main__":
    main()
