"""The problems on which samplers are judged: nothing is missing, and prompts name what is seen or leave it open."""

from __future__ import annotations

import pytest
import torch

from benchmarks._cells import PROBLEMS, Cell, Pictures, problems_of, prompts
from demo.scenes import parse


def test_both_models_are_judged_without_with_moderate_and_with_strong_guidance() -> None:
    for model in ("demo", "emoji"):
        flow = PROBLEMS[f"{model} flow"]
        assert {(cell.cfg, cell.steps) for cell in flow} == {(cfg, n) for cfg in (1.0, 3.5, 8.0) for n in (20, 50)}
        assert {cell.prediction for cell in flow} == {"flow"}


def test_both_models_are_judged_as_eps_models_on_the_schedules_that_people_use() -> None:
    for model in ("demo", "emoji"):
        eps = PROBLEMS[f"{model} eps"]
        wanted = {
            (cfg, name, solver) for cfg in (4, 7.5) for name in ("normal", "karras") for solver in ("euler", "dpmpp_2m")
        }
        assert {(cell.cfg, cell.schedule, cell.solver) for cell in eps} == wanted
        assert {cell.prediction for cell in eps} == {"eps"}


def test_every_solver_is_judged_at_strong_guidance() -> None:
    strong = {cell.solver for cell in problems_of("demo") if cell.cfg == 8}
    assert strong == {"euler", "dpmpp_2m", "res_multistep", "uni_pc"}


def test_a_cell_has_a_name_of_its_own_and_the_set_it_belongs_to_says_its_model() -> None:
    everything = [cell for cells in PROBLEMS.values() for cell in cells]
    assert len({str(cell) for cell in everything}) == len(everything)
    for name, cells in PROBLEMS.items():
        assert {cell.model for cell in cells} == {name.split()[0]}
    assert [*problems_of("demo"), *problems_of("emoji")] == everything


@pytest.mark.parametrize("cell", [cell for cells in PROBLEMS.values() for cell in cells], ids=str)
def test_the_sigmas_of_a_cell_fall_to_zero(cell: Cell) -> None:
    sigmas = cell.sigmas(cell.steps)
    assert len(sigmas) == cell.steps + 1 and sigmas[-1] == 0 and bool((sigmas.diff() < 0).all())
    # 14.61 is the first sigma of SDXL.
    assert float(sigmas[0]) == pytest.approx(14.61 if cell.prediction == "eps" else 1.0, abs=0.01)


def test_half_of_the_demos_prompts_name_every_place_and_size() -> None:
    scenes = [parse(text) for text in prompts(16, seed=1)]
    for scene in scenes[:8]:
        assert all(thing.place and thing.size for thing in scene.things) and scene.background
    for scene in scenes[8:]:
        assert not any(thing.place or thing.size for thing in scene.things)
    assert prompts(16, seed=1) == prompts(16, seed=1) != prompts(16, seed=2)


def test_an_eps_model_is_the_flow_model_in_other_coordinates() -> None:
    """The same state, once as x = z + sigma noise and once as (1 - t) z + t noise, has the same prediction."""
    with torch.no_grad():
        flow, eps = (Pictures(Cell(kind, "karras", 20, 4.0, "euler"), prompts(2, 1), 1) for kind in ("flow", "eps"))
        generator = torch.Generator().manual_seed(0)
        z, noise = torch.randn(2, 2, 16, 16, 16, generator=generator)
        sigma, both = torch.tensor([0.5, 3.0]), torch.arange(2)
        t = sigma / (1 + sigma)
        mixed = (1 - t).view(-1, 1, 1, 1) * z + t.view(-1, 1, 1, 1) * noise
        predicted = eps.denoise(z + sigma.view(-1, 1, 1, 1) * noise, sigma, both)
        assert torch.allclose(predicted, flow.denoise(mixed, t, both), atol=1e-4)
