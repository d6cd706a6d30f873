"""The samplers: drop-in KSamplers, and a SAMPLER for the custom sampling nodes."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .host.devices.request import DeviceRequest
from .host.sampling.ksampler import ksample
from .host.sampling.options import EVERY_STEP, SamplerOptions
from .host.sampling.run_record import ChordsRun
from .host.sampling.sampler import chords_sampler, sampler_names, scheduler_names
from .inputs import CATEGORY, Run, parallel_inputs

_SEED_MAX = 0xFFFFFFFFFFFFFFFF


def _sampling_inputs() -> list[io.Input]:
    return [
        io.Int.Input("steps", default=20, min=1, max=10000, tooltip="Steps of the denoising process."),
        io.Float.Input(
            "cfg",
            default=8.0,
            min=0.0,
            max=100.0,
            step=0.1,
            round=0.01,
            tooltip="Classifier-free guidance: higher follows the prompt more closely.",
        ),
        io.Combo.Input(
            "sampler_name",
            options=sampler_names(),
            tooltip="euler, ddim, dpmpp_2m and res_multistep run in parallel, uni_pc and uni_pc_bh2 only with a method "
            "that is named; others run as in KSampler.",
        ),
        io.Combo.Input("scheduler", options=scheduler_names(), tooltip="How noise is removed over the steps."),
        io.Conditioning.Input("positive", tooltip="The conditioning describing what should be in the picture."),
        io.Conditioning.Input("negative", tooltip="The conditioning describing what should not be in it."),
        io.Latent.Input("latent_image", tooltip="The latent to denoise."),
    ]


def _seed_input(name: str) -> io.Input:
    return io.Int.Input(
        name,
        default=0,
        min=0,
        max=_SEED_MAX,
        control_after_generate=True,
        tooltip="The seed of the noise. The same seed and cores give the same picture on any devices.",
    )


def _outputs() -> list[io.Output]:
    return [
        io.Latent.Output(display_name="LATENT", tooltip="The denoised latent."),
        Run.Output(display_name="CHORDS_RUN", tooltip="The record of the run, with every result on the way."),
    ]


def _output(latent: dict[str, Any], run: ChordsRun) -> io.NodeOutput:
    return io.NodeOutput(latent, run, ui={"text": [run.message], "chords": [run.summary()]})


class ChordsKSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChordsKSampler",
            display_name="KSampler (CHORDS)",
            category=CATEGORY,
            description="KSampler that uses all your devices for one picture. Replaces KSampler without any other "
            "change; where several devices gain nothing it does exactly what KSampler does.",
            search_aliases=[
                "ksampler",
                "chords",
                "parallel sampler",
                "multi gpu",
                "faster",
                "img2img",
                "txt2img",
            ],
            inputs=[
                io.Model.Input("model", tooltip="The model that denoises the latent."),
                _seed_input("seed"),
                *_sampling_inputs(),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How much of the latent is replaced; below 1 keeps the structure of the picture put in.",
                ),
                *parallel_inputs(),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        positive: Any,
        negative: Any,
        latent_image: dict[str, Any],
        denoise: float,
        cores: int = 0,
        accept: str = "auto",
        calls: str = EVERY_STEP,
        method: str = "auto",
        devices: DeviceRequest | None = None,
        preview_vae: Any = None,
    ) -> io.NodeOutput:
        latent, run = ksample(
            model,
            seed,
            steps,
            cfg,
            sampler_name,
            scheduler,
            positive,
            negative,
            latent_image,
            denoise=denoise,
            setting=SamplerOptions(cores, accept, calls, method),
            devices=devices,
            preview_vae=preview_vae,
        )
        return _output(latent, run)


class ChordsKSamplerAdvanced(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChordsKSamplerAdvanced",
            display_name="KSampler Advanced (CHORDS)",
            category=CATEGORY,
            description="KSampler Advanced that uses all your devices for one picture, step range by step range.",
            search_aliases=["ksampler advanced", "chords", "parallel sampler", "multi gpu"],
            inputs=[
                io.Model.Input("model", tooltip="The model that denoises the latent."),
                io.Combo.Input(
                    "add_noise",
                    options=["enable", "disable"],
                    advanced=True,
                    tooltip="enable: noise of the seed is added to the latent first. disable: the latent has its noise "
                    "already, from the sampler before or from an SDO Latent Optimizer.",
                ),
                _seed_input("noise_seed"),
                *_sampling_inputs(),
                io.Int.Input(
                    "start_at_step",
                    default=0,
                    min=0,
                    max=10000,
                    advanced=True,
                    tooltip="The step to begin with: 0, or where the sampler before ended.",
                ),
                io.Int.Input(
                    "end_at_step",
                    default=10000,
                    min=0,
                    max=10000,
                    advanced=True,
                    tooltip="The step to stop before. Anything beyond the last one means all that are left.",
                ),
                io.Combo.Input(
                    "return_with_leftover_noise",
                    options=["disable", "enable"],
                    advanced=True,
                    tooltip="enable: where it stops early, the noise that is left stays in the latent, for the next "
                    "sampler. disable: it is taken away.",
                ),
                *parallel_inputs(),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        add_noise: str,
        noise_seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        positive: Any,
        negative: Any,
        latent_image: dict[str, Any],
        start_at_step: int,
        end_at_step: int,
        return_with_leftover_noise: str,
        cores: int = 0,
        accept: str = "auto",
        calls: str = EVERY_STEP,
        method: str = "auto",
        devices: DeviceRequest | None = None,
        preview_vae: Any = None,
    ) -> io.NodeOutput:
        latent, run = ksample(
            model,
            noise_seed,
            steps,
            cfg,
            sampler_name,
            scheduler,
            positive,
            negative,
            latent_image,
            add_noise=add_noise == "enable",
            start_step=start_at_step,
            last_step=end_at_step,
            force_full_denoise=return_with_leftover_noise == "disable",
            setting=SamplerOptions(cores, accept, calls, method),
            devices=devices,
            preview_vae=preview_vae,
        )
        return _output(latent, run)


class ChordsSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChordsSampler",
            display_name="CHORDS Sampler",
            category=CATEGORY,
            description="A sampler for SamplerCustom and SamplerCustomAdvanced, in place of KSamplerSelect: it uses "
            "all your devices for one picture, under any guider.",
            search_aliases=["ksamplerselect", "chords", "parallel sampler", "multi gpu"],
            inputs=[
                io.Combo.Input(
                    "sampler_name",
                    options=sampler_names(),
                    tooltip="euler, ddim, dpmpp_2m and res_multistep run in parallel, uni_pc and uni_pc_bh2 only with "
                    "a method that is named; others run unchanged.",
                ),
                *parallel_inputs(),
            ],
            outputs=[io.Sampler.Output(tooltip="For SamplerCustom and SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(
        cls,
        sampler_name: str,
        cores: int = 0,
        accept: str = "auto",
        calls: str = EVERY_STEP,
        method: str = "auto",
        devices: DeviceRequest | None = None,
        preview_vae: Any = None,
    ) -> io.NodeOutput:
        return io.NodeOutput(
            chords_sampler(sampler_name, SamplerOptions(cores, accept, calls, method), devices, preview_vae)
        )
