"""What the pack says of rows in one model call, in a process of its own with the host's modules.

Argument: the ComfyUI folder. Writes a JSON object: ``reasons`` against conditions of a batch of three, by name;
``one_sigma``: whether a function takes one sigma, by name; ``tiled``: whether rows of three items each with its own
noise, mask and condition are what single calls give.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import types
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent.parent


def module(name: str) -> Any:
    """A module of the pack, without the pack's entry, which needs a server."""
    return importlib.import_module(f"pack.nodes.host.{name}")


def start(host: str) -> None:
    sys.argv = ["main.py", "--cpu"]
    sys.path.insert(0, host)
    os.chdir(host)
    importlib.import_module("utils")  # first, as in main.py: `nodes` puts a folder with another utils on the path
    importlib.import_module("comfy.options").enable_args_parsing()
    for name, folder in {"pack": REPO, "pack.nodes": REPO / "nodes"}.items():
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(folder)]


def reasons() -> dict[str, list[str]]:
    import comfy.conds as kinds
    import torch

    class Unknown(kinds.CONDRegular):
        pass

    zeros = torch.zeros
    cases: dict[str, dict[str, Any]] = {
        "one for all, and one for each": {
            "text": kinds.CONDCrossAttn(zeros(1, 7, 8)),
            "size": kinds.CONDRegular(zeros(3, 4)),
            "strength": kinds.CONDConstant(3.5),
            "several": kinds.CONDList([zeros(1, 4), zeros(3, 4)]),
        },
        "two": {"size": kinds.CONDRegular(zeros(2, 4))},
        "five in a list": {"size": kinds.CONDList([zeros(1, 4), zeros(5, 4)])},
        "a constant for each": {"size": kinds.CONDConstant([zeros(3)])},
        "frames": {"num_video_frames": kinds.CONDConstant(14)},
        "parts": {"latent_shapes": kinds.CONDConstant([(1, 2), (1, 3)])},
        "unknown": {"size": Unknown(zeros(1))},
    }
    conds = {name: {"model_conds": values} for name, values in cases.items()}
    conds["a mask"] = {"model_conds": {}, "mask": zeros(1, 8, 8)}
    conds["two masks"] = {"model_conds": {}, "mask": zeros(2, 8, 8)}
    conds["a part of the steps"] = {"model_conds": {}, "timestep_end": 0.5}
    against = module("compatibility.rows")._reasons_in_conds
    return {
        name: list(against(types.SimpleNamespace(conds={"positive": [cond], "negative": None}), 3))
        for name, cond in conds.items()
    }


def of_each(args: dict[str, Any]) -> Any:
    sigma = args["sigma"]
    sigma = sigma.view(sigma.shape[:1] + (1,) * 3)
    return args["x"] * sigma


def of_each_if_there_is_one(args: dict[str, Any]) -> Any:
    return args["x"] if args["sigma"] is None else args["sigma"]


def the_first(args: dict[str, Any]) -> Any:
    return args["sigma"][0]


def a_number(args: dict[str, Any]) -> Any:
    return float(args["timestep"])


def the_largest(args: dict[str, Any]) -> Any:
    sigmas = args["sigma"]
    return sigmas.max()


def from_a_sigma_on(args: dict[str, Any]) -> Any:
    now = args["sigma"]
    return args["x"] if (now > 0.5).all() else None


FUNCTIONS = (of_each, of_each_if_there_is_one, the_first, a_number, the_largest, from_a_sigma_on)


def tiled() -> bool:
    import comfy.conds
    import torch

    items = torch.arange(3.0).view(3, 1, 1, 1)

    class Model:
        """As the host's, with a result that shows which noise, mask and condition each item got."""

        noise, latent_image = 7 * items.expand(3, 1, 2, 2), items.expand(3, 1, 2, 2)

        def __call__(self, x: Any, sigma: Any, denoise_mask: Any, model_options: Any = None, seed: Any = None) -> Any:
            cond = comfy.conds.CONDRegular(items).process_cond(batch_size=x.shape[0]).cond
            return x + self.latent_image + self.noise + 10 * sigma.view(-1, 1, 1, 1) + 100 * cond + denoise_mask

    arguments = {"denoise_mask": 1000 * items, "model_options": {}, "seed": 0}
    denoise = module("devices.batched_rows").rows_denoiser(Model(), arguments)
    xs, sigmas = [torch.randn(3, 1, 2, 2) for _ in range(4)], [1.0, 0.7, 0.3, 0.1]
    alone = [denoise([x], [sigma])[0] for x, sigma in zip(xs, sigmas, strict=True)]
    return all(torch.equal(row, one) for row, one in zip(denoise(xs, sigmas), alone, strict=True))


class Network:
    """As much of the host's model, its guider and its patcher as a trial of rows needs, on ``device``."""

    manual_cast_dtype = None
    patches_uuid = "patches"
    conds: dict[str, list[dict[str, Any]]] = {}

    def __init__(self, device: str, coupled: float = 0.0) -> None:
        import torch

        self._coupled, self.cfg = coupled, 8.0
        self.load_device = torch.device(device)
        self.inner_model = self.model = self.model_patcher = self
        self.noise = self.latent_image = torch.zeros(1)

    def get_dtype(self) -> Any:
        return self.noise.dtype

    def get_free_memory(self, device: Any) -> float:
        return 1e12

    def __call__(self, x: Any, sigma: Any, **arguments: Any) -> Any:
        return x / (1 + sigma.view(-1, 1, 1, 1)) * (1 + self._coupled * (x.shape[0] > 1))


def row_calls(coupled: float) -> Any:
    """Calls of rows of a guided model that differ by about this share from calls of one row."""
    import torch

    x = torch.ones(1, 1, 2, 2)
    return module("devices.batched_rows").RowCalls(Network("cpu", coupled), {}, x, torch.linspace(10, 0, 21), True)


def coupled() -> dict[str, str]:
    """What a trial and a check say of rows that differ by 5 % or more of what the network removes, and of rows
    that do not differ."""
    import torch

    found = {}
    for name, share in (("coupled", 0.5), ("apart", 0.0)):
        calls = row_calls(share)
        calls._patcher.manual_cast_dtype = torch.bfloat16
        calls.use({1: 1.0, 8: 1.0})
        usable = calls.check(8)
        found[f"{name}, checked"] = calls.problem
        assert usable == (8 in calls.seconds)
        calls = row_calls(share)
        calls._patcher.manual_cast_dtype = torch.bfloat16
        calls.measure(lambda rows, seconds: True)
        found[f"{name}, tried"] = calls.problem
    return found


def coupled_controls() -> list[bool]:
    """Whether rows can be used with a ControlNet, and then, of the same model, with one whose network couples them."""
    import torch

    class Other:
        """Another kind."""

    network, found = Network("cpu"), []
    for share, kind in ((0.0, object), (0.5, Other), (0.0, object)):
        network._coupled = share
        network.conds = {"positive": [{"control": types.SimpleNamespace(control_model=kind())}]}
        x, sigmas = torch.ones(1, 1, 2, 2), torch.linspace(10, 0, 21)
        calls = module("devices.batched_rows").RowCalls(network, {}, x, sigmas, True)
        calls.use({1: 1.0, 8: 1.0})
        found.append(bool(calls.check(8)))
    return found


def trial_where_the_device_cannot_wait() -> str:
    """The problem that a trial gives on a device whose module of torch has no ``synchronize`` of this kind."""
    batched_rows = module("devices.batched_rows")
    usual = batched_rows.wait_for_device

    def fails(device: Any) -> None:
        raise TypeError("synchronize() takes 0 positional arguments but 1 was given")

    batched_rows.wait_for_device = fails
    calls = row_calls(0.0)
    assert not calls.measure(lambda rows, seconds: True)
    batched_rows.wait_for_device = usual
    return str(calls.problem)


def untried() -> list[str]:
    """The types of devices on which nothing is tried: without a look at the model."""
    placed_in_rows = module("sampling.opened_rows").placed_in_rows
    found = []
    for kind in ("cpu", "mps", "privateuseone", "cuda", "xpu"):
        call = types.SimpleNamespace(primary=types.SimpleNamespace(type=kind))
        try:
            assert placed_in_rows("placed", call, None, None, None, None) == ("placed", None)
            found.append(kind)
        except AttributeError:  # it looked at the model
            pass
    return found


class Patched:
    """A MODEL that only keeps what a node of the host sets around guidance."""

    def __init__(self) -> None:
        self.model_options: dict[str, Any] = {}
        self.model = self

    def clone(self) -> Patched:
        return self

    def get_model_object(self, name: str) -> Any:
        return self

    def set_model_sampler_cfg_function(self, function: Any, **options: Any) -> None:
        self.model_options["sampler_cfg_function"] = function

    def set_model_sampler_post_cfg_function(self, function: Any, **options: Any) -> None:
        self.model_options["sampler_post_cfg_function"] = [function]

    def set_model_sampler_pre_cfg_function(self, function: Any, **options: Any) -> None:
        self.model_options["sampler_pre_cfg_function"] = [function]


def around_guidance() -> dict[str, list[str]]:
    """The reasons against what nodes of the host set around guidance, against their guiders, and against patches that
    are not known; by name."""
    from comfy.samplers import CFGGuider
    from comfy_extras import (
        nodes_cfg,
        nodes_custom_sampler,
        nodes_mahiro,
        nodes_model_advanced,
        nodes_perpneg,
        nodes_tcfg,
        nodes_video_model,
    )

    found: dict[str, list[str]] = {}
    usual = CFGGuider.__new__(CFGGuider)
    against = module("compatibility.rows")._reasons_around_guidance
    for kind in (CFGGuider, nodes_custom_sampler.Guider_Basic, nodes_custom_sampler.Guider_DualCFG):
        found[kind.__name__] = list(against(kind.__new__(kind), {}))
    found["Guider_PerpNeg"] = list(against(nodes_perpneg.Guider_PerpNeg.__new__(nodes_perpneg.Guider_PerpNeg), {}))
    patched = {
        "RescaleCFG": lambda model: nodes_model_advanced.RescaleCFG().patch(model, 0.7),
        "CFGNorm": lambda model: nodes_cfg.CFGNorm.execute(model, 1.0),
        "CFGZeroStar": lambda model: nodes_cfg.CFGZeroStar.execute(model),
        "TCFG": lambda model: nodes_tcfg.TCFG.execute(model),
        "Mahiro": lambda model: nodes_mahiro.Mahiro.execute(model),
        "VideoLinearCFGGuidance": lambda model: nodes_video_model.VideoLinearCFGGuidance().patch(model, 1.0),
        "unknown": lambda model: model.set_model_sampler_post_cfg_function(lambda args: args["denoised"]),
    }
    for name, patch in patched.items():
        model = Patched()
        patch(model)
        assert model.model_options, name
        found[name] = list(against(usual, model.model_options))
    found["of the prompts"] = list(against(usual, {"sampler_calc_cond_batch_function": of_each}))
    return found


def main() -> None:
    start(sys.argv[1])
    takes_one = module("compatibility.reading.one_sigma").takes_one_sigma
    answers = {"reasons": reasons(), "one_sigma": {each.__name__: takes_one(each) for each in FUNCTIONS}}
    answers["around_guidance"] = around_guidance()
    answers |= {"coupled": coupled(), "coupled_controls": coupled_controls()}
    answers |= {"untried": untried(), "cannot_wait": trial_where_the_device_cannot_wait()}
    print(json.dumps({**answers, "tiled": tiled()}))


if __name__ == "__main__":
    main()
