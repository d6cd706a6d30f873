"""CHORDS Scheduler: sigmas with which fewer steps are as accurate."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from graphs import Graph, Node, demo, empty_latent, settings
from torch import Tensor

SHIFT = 3.0


def _shown(client, graph: Graph, sigmas: Node) -> list[float]:
    node = graph.add("TestShowSigmas", sigmas=sigmas)
    return client.run(graph.nodes).outputs[node.name]["sigmas"]


def test_a_flow_models_times_crowd_at_the_end_under_its_shift(client) -> None:
    graph = Graph()
    sigmas = _shown(client, graph, graph.add("ChordsScheduler", model=demo(graph)["model"], steps=10, denoise=1.0))
    times = [(1 - j / 10) ** 2 for j in range(11)]
    assert sigmas == pytest.approx([SHIFT * t / (1 + (SHIFT - 1) * t) for t in times], abs=1e-6)


def test_another_models_are_even_in_log_sigma_down_to_0(client) -> None:
    graph = Graph()
    model = graph.add("ModelSamplingDiscrete", model=demo(graph)["model"], sampling="eps", zsnr=False)
    sigmas = torch.tensor(_shown(client, graph, graph.add("ChordsScheduler", model=model, steps=10, denoise=1.0)))
    assert (len(sigmas), float(sigmas[-1])) == (11, 0.0)
    gaps = sigmas[:-1].log().diff()
    assert float(sigmas[0]) > 10
    assert float(gaps.max()) < 0
    assert torch.allclose(gaps, gaps.mean(), rtol=1e-3)


@pytest.mark.parametrize(("denoise", "count"), [(1.0, 9), (0.5, 9), (0.0, 0)])
def test_denoise_takes_the_last_part_of_a_longer_schedule(client, denoise: float, count: int) -> None:
    graph = Graph()
    model = demo(graph)["model"]
    sigmas = _shown(client, graph, graph.add("ChordsScheduler", model=model, steps=8, denoise=denoise))
    assert len(sigmas) == count
    if denoise == 0.5:
        whole = _shown(client, graph, graph.add("ChordsScheduler", model=model, steps=16, denoise=1.0))
        assert sigmas == whole[8:]


def test_twenty_steps_come_closer_to_the_solution_than_with_the_usual_schedule(run_graph) -> None:
    """The solution is what very many steps come to."""
    graph = Graph()
    inputs = demo(graph) | settings(seed=4) | {"latent_image": empty_latent(graph)}
    shared: dict[str, Any] = {name: inputs[name] for name in ("model", "positive", "negative", "cfg", "latent_image")}
    shared |= {"add_noise": True, "noise_seed": 4}
    model = inputs["model"]
    cases = {
        "solution": ("heun", graph.add("ChordsScheduler", model=model, steps=100, denoise=1.0)),
        "usual": ("dpmpp_2m", graph.add("BasicScheduler", model=model, scheduler="simple", steps=20, denoise=1.0)),
        "ours": ("dpmpp_2m", graph.add("ChordsScheduler", model=model, steps=20, denoise=1.0)),
    }
    for key, (name, sigmas) in cases.items():
        sampler = graph.add("KSamplerSelect", sampler_name=name)
        graph.save(key, graph.add("SamplerCustom", sampler=sampler, sigmas=sigmas, **shared))
    _, latents = run_graph(graph)

    def error(found: Tensor) -> float:
        return float((found - latents["solution"]).norm() / latents["solution"].norm())

    assert error(latents["ours"]) < 0.6 * error(latents["usual"])
