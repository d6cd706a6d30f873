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


def main() -> None:
    start(sys.argv[1])
    takes_one = module("compatibility.reading.one_sigma").takes_one_sigma
    answers = {"reasons": reasons(), "one_sigma": {each.__name__: takes_one(each) for each in FUNCTIONS}}
    print(json.dumps({**answers, "tiled": tiled()}))


if __name__ == "__main__":
    main()
