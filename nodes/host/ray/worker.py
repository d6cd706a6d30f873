"""The work of a Ray actor for this pack: it loads ComfyUI and the model by itself, and calls the guider."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sampler_helpers
import comfy.samplers
import comfyui_version
import folder_paths
import torch
from comfy.cli_args import args
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ....chords_core import Worker
from ....chords_core.execution.ray.actor import WrongSetup
from ..devices.lanes import lane_denoiser
from ..devices.run_state import RunState
from ..devices.thread_context import thread_context
from ..devices.thread_state import end_process_state
from .model_files import PACK
from .pack_modules import PackModules
from .serialization import unpacked

_PACK_NAME = __name__.removesuffix(".nodes.host.ray.worker")  # the host names a pack's module after its folder

# The host's options that decide how a model computes. The others are about one machine or its server.
_ABOUT_COMPUTING = (
    *("force_fp", "unet", "cross_attention", "sage_attention", "flash_attention", "xformers", "upcast"),
    *("channels_last", "deterministic", "fast", "supports_fp8", "fp16_intermediates"),
)
_COMPUTING_CODE = (
    "devices/lanes.py",
    "devices/run_state.py",
    "devices/thread_context.py",
    "devices/thread_state.py",
    "devices/waiting.py",
    "ray/model_files.py",
    "ray/pack_modules.py",
    "ray/serialization.py",
    "ray/worker.py",
    "tree.py",
)

Setup = dict[str, Any]


def setup_here() -> Setup:
    """What a worker has to know about the sender's machine, and the versions that must be the same on both."""
    named = args.extra_model_paths_config or []
    return {
        "host": str(Path(folder_paths.__file__).resolve().parent),
        "pack_name": _PACK_NAME,
        "pack_folder": str(PACK),
        "extra_paths": [str(Path(path).resolve()) for group in named for path in group],
        "arguments": {
            name: value for name, value in vars(args).items() if any(word in name for word in _ABOUT_COMPUTING)
        },
        "versions": _VERSIONS,
    }


def _versions() -> dict[str, str]:
    code = b"".join((Path(__file__).parents[1] / name).read_bytes() for name in _COMPUTING_CODE)
    return {
        "ComfyUI": comfyui_version.__version__,
        # Without the name of its build: this machine may have a CPU build, and the worker a CUDA one.
        "torch": torch.__version__.split("+")[0],
        "ComfyUI-CHORDS": hashlib.sha256(code).hexdigest()[:12],
    }


_VERSIONS = _versions()  # of the code that is imported, even if the files change later


def worker_factory(setup: Setup) -> Callable[[], Worker]:
    """Makes the worker in the actor's process, which at first has neither ComfyUI nor this pack."""

    def make() -> Worker:  # sent by value: it may use only names of this module that are sent by value too
        import importlib
        import os
        import socket
        import sys
        import types
        from pathlib import Path

        import ray

        folders = [setup["host"], os.environ.get("COMFYUI_PATH", "")]
        host = next((folder for folder in folders if folder and (Path(folder) / "comfy").is_dir()), None)
        if host is None:
            raise WrongSetup(
                f"the machine {socket.gethostname()} has no ComfyUI in {setup['host']}; install it there, or set "
                "COMFYUI_PATH to where it is before Ray is started"
            )
        sys.path.insert(0, host)
        cli = importlib.import_module("comfy.cli_args")
        vars(cli.args).update(setup["arguments"])
        cli.args.cpu = not ray.get_gpu_ids()

        # Stub packages, so that only the modules that a worker needs are imported, not the nodes.
        name = setup["pack_name"]
        place = Path(setup["pack_folder"])
        if not (place / "nodes").is_dir():
            place = Path(host) / "custom_nodes" / place.name
        for package, folder in ((name, place), (f"{name}.nodes", place / "nodes")):
            module = types.ModuleType(package)
            module.__path__ = [str(folder)]
            sys.modules.setdefault(package, module)
        try:
            module = importlib.import_module(f"{name}.nodes.host.ray.worker")
        except ModuleNotFoundError as error:
            raise WrongSetup(f"the machine {socket.gethostname()} lacks {error.name}") from error
        return module.HostWorker(setup, host)

    return make


class HostWorker:
    """The `Worker`. ``load`` takes the bytes of a model payload, and ``begin`` a run payload; see `serialization`."""

    def __init__(self, setup: Setup, host: str) -> None:
        _check_versions(setup["versions"])
        _read_extra_paths(host, setup["extra_paths"])
        self._modules = PackModules(setup["host"], host)
        self._device = comfy.model_management.get_torch_device()
        self._base: ModelPatcher | None = None
        self._base_key = ""
        self._patches: dict[str, Any] = {}
        self._run = ExitStack()  # what `end` undoes
        self._denoise: Callable[[Tensor, float], Tensor] | None = None
        self._context = thread_context([self._device])

    def load(self, model: bytes) -> None:
        with torch.inference_mode():
            content = unpacked(model, None, self._modules)
            if content["base_key"] != self._base_key:
                self._base, self._base_key = None, ""
                comfy.model_management.unload_all_models()
                gc.collect()
                comfy.model_management.soft_empty_cache()
                self._base = content["recipe"].load(PACK)
                self._base_key = content["base_key"]
            self._patches = {name: content[name] for name in ("patches", "patches_uuid")}

    def begin(self, run: bytes) -> None:
        self.end()
        comfy.model_management.interrupt_current_processing(False)
        assert self._base is not None, "call load first"
        with torch.inference_mode(), self._context(0):
            replica = self._base.clone()
            content = unpacked(run, replica, self._modules)
            for name, value in {**content["patcher"], **self._patches}.items():
                setattr(replica, name, value)
            model = content["model"]
            memory, least = comfy.sampler_helpers.estimate_memory(replica, content["shape"], model.inner_model.conds)
            comfy.model_management.load_models_gpu([replica], memory_required=memory, minimum_memory_required=least)
            replica.pre_run()
            self._run.callback(replica.cleanup)
            state = RunState(**content["state"])
            if (reason := state.reason_against(replica.model)) is not None:
                raise RuntimeError(reason)
            self._run.enter_context(state.set_on(replica.model, self._device))
            self._denoise = lane_denoiser(model, content["extra_args"], self._device, replica)

    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        assert self._denoise is not None, "call begin first"
        with torch.inference_mode(), self._context(0):
            return self._denoise(x, sigma)

    def end(self) -> None:
        self._run.close()
        self._denoise = None
        end_process_state()

    def stop(self) -> None:
        comfy.model_management.interrupt_current_processing(True)


def _check_versions(there: dict[str, str]) -> None:
    """Raises WrongSetup naming what differs."""
    for name, here in _VERSIONS.items():
        if here != there[name]:
            raise WrongSetup(
                f"this machine has {name} {here}, but the graph runs with {there[name]}; install the same everywhere"
            )


def _read_extra_paths(host: str, named: list[str]) -> None:
    """Read this machine's model folders, as the host does when it starts."""
    from utils.extra_config import load_extra_path_config

    for path in (str(Path(host) / "extra_model_paths.yaml"), *named):
        if Path(path).is_file():
            load_extra_path_config(path)
