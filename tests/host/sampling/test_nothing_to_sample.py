"""Where nothing is sampled, the latent goes through as the stock node lets it: in the host's precision, and whole."""

from __future__ import annotations

from typing import Any

import pytest
from graphs import Graph, Node, demo, settings

STEPS = 6


def _latent(graph: Graph, kind: str) -> Node:
    if kind != "two parts":
        return graph.add("TestLatentOfType", dtype=kind)
    picture, sound = graph.add("TestLatentOfType", dtype="float16"), graph.add("TestSoundLatent")
    return graph.add("LTXVConcatAVLatent", video_latent=picture, audio_latent=sound)


def _ksampler(graph: Graph, inputs: dict[str, Any], latent: Node, ours: bool) -> Node:
    return graph.add(
        "ChordsKSampler" if ours else "KSampler",
        **inputs,
        **settings(steps=STEPS, denoise=0.0),
        latent_image=latent,
    )


def _advanced(start: int, end: int, add_noise: str = "enable", **changes: Any) -> Any:
    def sampled(graph: Graph, inputs: dict[str, Any], latent: Node, ours: bool) -> Node:
        rest = {key: value for key, value in settings(steps=STEPS).items() if key not in ("seed", "denoise")}
        rest |= {"noise_seed": 7, "add_noise": add_noise, "start_at_step": start, "end_at_step": end}
        rest |= {"return_with_leftover_noise": "disable", **changes}
        name = "KSamplerAdvanced"
        return graph.add(f"Chords{name}" if ours else name, **inputs, **rest, latent_image=latent)

    return sampled


def _custom(advanced: bool, one_sigma: bool, sampler_name: str = "euler") -> Any:
    """A SamplerCustom without sigmas, or with the last one only."""

    def sampled(graph: Graph, inputs: dict[str, Any], latent: Node, ours: bool) -> Node:
        denoise = 1.0 if one_sigma else 0.0
        sigmas = graph.add("BasicScheduler", model=inputs["model"], scheduler="simple", steps=STEPS, denoise=denoise)
        if one_sigma:
            sigmas = Node(graph.add("SplitSigmas", sigmas=sigmas, step=STEPS).name)[1]
        sampler = graph.add("ChordsSampler" if ours else "KSamplerSelect", sampler_name=sampler_name)
        rest = {"sampler": sampler, "sigmas": sigmas, "latent_image": latent}
        if not advanced:
            return graph.add("SamplerCustom", **inputs, **rest, add_noise=True, noise_seed=7, cfg=3.5)
        guider = graph.add("CFGGuider", **inputs, cfg=3.5)
        return graph.add("SamplerCustomAdvanced", noise=graph.add("RandomNoise", noise_seed=7), guider=guider, **rest)

    return sampled


WAYS = {
    "denoise 0": _ksampler,
    "start is end": _advanced(3, 3),
    "start after end": _advanced(5, 2),
    "end at 0": _advanced(0, 0),
    "start after the last": _advanced(STEPS, 10000),
    "start far after the last": _advanced(1000, 10000, return_with_leftover_noise="enable"),
    "without noise": _advanced(4, 4, add_noise="disable"),
    "custom, no sigmas": _custom(False, False),
    "custom, one sigma": _custom(False, True),
    "custom, one sigma, dpmpp_2m": _custom(False, True, "dpmpp_2m"),
    "custom, one sigma, euler_ancestral": _custom(False, True, "euler_ancestral"),
    "guider, no sigmas": _custom(True, False),
    "guider, one sigma": _custom(True, True),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_latent_is_that_of_the_stock_node(client, way: str) -> None:
    graph = Graph()
    inputs = demo(graph)
    kinds = ["float16", "bfloat16", "float64"] if "one sigma" in way else ["float16", "float64", "two parts"]
    shown: dict[tuple[str, bool], str] = {}
    for kind in kinds:
        latent = _latent(graph, kind)
        for ours in (False, True):
            shown[kind, ours] = graph.add("TestShowLatent", latent=WAYS[way](graph, inputs, latent, ours)).name
    outputs = client.run(graph.nodes).outputs
    for kind in kinds:
        assert outputs[shown[kind, True]] == outputs[shown[kind, False]], kind
        if way in ("denoise 0", "start is end"):
            assert {part[0] for part in outputs[shown[kind, True]]["parts"]} == {"torch.float32"}
