"""The samplers: two KSamplers, and a SAMPLER for the custom sampling nodes."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .host.sampling.ksampler import KSamplerInputs, ksample
from .host.sampling.run_record import ChordsRun
from .host.sampling.sampler import chords_sampler
from .inputs import (
    CATEGORY,
    Run,
    ksampler_inputs,
    model_input,
    parallel_inputs,
    parse_parallel,
    sampler_name_input,
    sampling_inputs,
    seed_input,
)

_ALIASES = ["chords", "parallel sampler", "multi gpu"]


def _outputs() -> list[io.Output]:
    return [
        io.Latent.Output(display_name="LATENT", tooltip="The denoised latent."),
        Run.Output(display_name="CHORDS_RUN", tooltip="The record of the run, with every result that it had."),
    ]


def _output(latent: dict[str, Any], run: ChordsRun) -> io.NodeOutput:
    return io.NodeOutput(latent, run, ui={"text": [run.message], "chords": [run.summary()]})


def _without_parallel(inputs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The stock node's inputs, and those of `parallel_inputs`."""
    ours = {given.id for given in parallel_inputs()}
    stock = {name: value for name, value in inputs.items() if name not in ours}
    return stock, {name: value for name, value in inputs.items() if name in ours}


class ChordsKSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChordsKSampler",
            display_name="KSampler (CHORDS)",
            category=CATEGORY,
            description="KSampler that uses all your devices for one picture. It replaces KSampler without any other "
            "change. Fidelity says how near the picture has to be to KSampler's; at auto, one device makes exactly "
            "that.",
            search_aliases=["ksampler", *_ALIASES, "faster", "img2img", "txt2img"],
            inputs=[*ksampler_inputs(), *parallel_inputs()],
            outputs=_outputs(),
        )

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        stock, ours = _without_parallel(inputs)
        return _output(*ksample(KSamplerInputs(**stock), *parse_parallel(**ours)))


class ChordsKSamplerAdvanced(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChordsKSamplerAdvanced",
            display_name="KSampler Advanced (CHORDS)",
            category=CATEGORY,
            description="KSampler Advanced that uses all your devices for one picture, one step range after another.",
            search_aliases=["ksampler advanced", *_ALIASES],
            inputs=[
                model_input(),
                io.Combo.Input(
                    "add_noise",
                    options=["enable", "disable"],
                    advanced=True,
                    tooltip="enable: the noise of the seed is added to the latent first. disable: the latent has its "
                    "noise already, from the sampler before or from an SDO Latent Optimizer.",
                ),
                seed_input("noise_seed"),
                *sampling_inputs(),
                io.Int.Input(
                    "start_at_step",
                    default=0,
                    min=0,
                    max=10000,
                    advanced=True,
                    tooltip="The first step: 0, or the step where the sampler before ended.",
                ),
                io.Int.Input(
                    "end_at_step",
                    default=10000,
                    min=0,
                    max=10000,
                    advanced=True,
                    tooltip="Sampling stops before this step. With a number larger than the last step, it runs to the "
                    "end.",
                ),
                io.Combo.Input(
                    "return_with_leftover_noise",
                    options=["disable", "enable"],
                    advanced=True,
                    tooltip="enable: if sampling stops before the last step, the noise that is left stays in the "
                    "latent, for the next sampler. disable: that noise is removed.",
                ),
                *parallel_inputs(),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def execute(
        cls,
        add_noise: str,
        noise_seed: int,
        start_at_step: int,
        end_at_step: int,
        return_with_leftover_noise: str,
        **inputs: Any,
    ) -> io.NodeOutput:
        stock, ours = _without_parallel(inputs)
        given = KSamplerInputs(
            seed=noise_seed,
            add_noise=add_noise == "enable",
            start_step=start_at_step,
            last_step=end_at_step,
            force_full_denoise=return_with_leftover_noise == "disable",
            **stock,
        )
        return _output(*ksample(given, *parse_parallel(**ours)))


class ChordsSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChordsSampler",
            display_name="CHORDS Sampler",
            category=CATEGORY,
            description="A sampler for SamplerCustom and SamplerCustomAdvanced, in place of KSamplerSelect. It uses "
            "all your devices for one picture, with any guider.",
            search_aliases=["ksamplerselect", *_ALIASES],
            inputs=[sampler_name_input(), *parallel_inputs()],
            outputs=[io.Sampler.Output(tooltip="For SamplerCustom and SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(cls, sampler_name: str, **inputs: Any) -> io.NodeOutput:
        return io.NodeOutput(chords_sampler(sampler_name, *parse_parallel(**inputs)))
