"""What one GPU says about batched cores, lanes on streams, the driver and the guidance split: results/gpu.md.

    .venv/bin/python benchmarks/gpu.py            all of it, on one CUDA device, in about two minutes
    .venv/bin/python benchmarks/gpu.py --small    the same code on tiny models, on the CPU where there is no CUDA

Models have their real shapes and random weights, built by ComfyUI's own classes; only the demo model is a trained one.
Without CUDA, and without ``--small``, it says so and ends. Needs `python scripts/test.py --setup-only` once.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import math
import platform
import statistics
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BEGAN = time.perf_counter()
REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO), str(REPO / "scripts")]

import host
import torch
from torch import Tensor

from benchmarks._plans import planned_starts
from chords_core import Evaluated, InlinePool, ThreadPool, lattice_starts, sample

RESULTS = Path(__file__).parent / "results"
RESERVE = 3.0  # seconds of the limit kept for the end
RUNS = ((20, 4), (20, 8), (50, 4), (50, 8))  # steps and cores that batching is judged by
LANES = (1, 2, 4)
DRIVER_STEPS = 20
SMALL = 0.1  # of the seconds, with --small


# --- what is measured


@dataclass(frozen=True)
class Architecture:
    """``family``: the class in comfy.supported_models; ``config``: what its detection finds in the real checkpoint,
    the names of ComfyUI's own; ``small``: what ``--small`` changes; ``conds``: the shape of a row of each input of the
    model, a text being the name of a number in the config; ``depths``: what is halved until the weights fit."""

    family: str
    dtype: torch.dtype
    config: dict[str, Any]
    small: dict[str, Any]
    conds: dict[str, tuple[int | str, ...]]
    depths: tuple[str, ...] = ()
    file: str = ""  # trained weights instead, with all that is in them


@dataclass(frozen=True)
class Shape:
    """``latent``: of one picture or video; ``small``: the same for ``--small``; ``rows``: batches to time;
    ``guided``: whether such a model runs with guidance as a rule; ``seconds``: for the timed rounds."""

    name: str
    model: str
    latent: tuple[int, ...]
    small: tuple[int, ...]
    rows: tuple[int, ...] = (1, 2, 4, 8, 16)
    guided: bool = True
    seconds: float = 5.0
    lanes: bool = False
    driver: bool = False


UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "use_spatial_transformer": True,
    "use_temporal_attention": False,
    "use_temporal_resblock": False,
    "use_checkpoint": False,
    "legacy": False,
}
ARCHITECTURES = {
    "demo": Architecture(
        family="",
        dtype=torch.float16,
        config={},
        small={},
        conds={"c_crossattn": (12, 1024)},
        file="chords_demo_flow.safetensors",
    ),
    "SD 1.5": Architecture(
        family="SD15",
        dtype=torch.float16,
        config=UNET
        | {
            "adm_in_channels": None,
            "num_res_blocks": [2, 2, 2, 2],
            "channel_mult": [1, 2, 4, 4],
            "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
            "transformer_depth_middle": 1,
            "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
            "use_linear_in_transformer": False,
            "context_dim": 768,
        },
        small={"model_channels": 32, "context_dim": 32},
        conds={"c_crossattn": (77, "context_dim")},
    ),
    "SDXL": Architecture(
        family="SDXL",
        dtype=torch.float16,
        config=UNET
        | {
            "num_classes": "sequential",
            "adm_in_channels": 2816,
            "num_res_blocks": [2, 2, 2],
            "channel_mult": [1, 2, 4],
            "transformer_depth": [0, 0, 2, 2, 10, 10],
            "transformer_depth_middle": 10,
            "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
            "use_linear_in_transformer": True,
            "context_dim": 2048,
        },
        small={
            "model_channels": 32,
            "context_dim": 32,
            "adm_in_channels": 64,
            "transformer_depth": [0, 0, 1, 1, 1, 1],
            "transformer_depth_middle": 1,
            "transformer_depth_output": [0, 0, 0, 1, 1, 1, 1, 1, 1],
        },
        conds={"c_crossattn": (77, "context_dim"), "y": ("adm_in_channels",)},
    ),
    "Flux": Architecture(
        family="Flux",
        dtype=torch.bfloat16,
        config={
            "image_model": "flux",
            "in_channels": 16,
            "out_channels": 16,
            "vec_in_dim": 768,
            "context_in_dim": 4096,
            "hidden_size": 3072,
            "mlp_ratio": 4.0,
            "num_heads": 24,
            "depth": 19,
            "depth_single_blocks": 38,
            "axes_dim": [16, 56, 56],
            "theta": 10000,
            "patch_size": 2,
            "qkv_bias": True,
            "guidance_embed": True,
            "txt_ids_dims": [],
        },
        small={
            "vec_in_dim": 16,
            "context_in_dim": 32,
            "hidden_size": 256,
            "num_heads": 2,
            "depth": 1,
            "depth_single_blocks": 1,
        },
        conds={"c_crossattn": (256, "context_in_dim"), "y": ("vec_in_dim",), "guidance": ()},
        depths=("depth", "depth_single_blocks"),
    ),
    "Wan 2.1 1.3B": Architecture(
        family="WAN21_T2V",
        dtype=torch.float16,
        config={
            "image_model": "wan2.1",
            "model_type": "t2v",
            "dim": 1536,
            "ffn_dim": 8960,
            "num_heads": 12,
            "num_layers": 30,
            "in_dim": 16,
            "out_dim": 16,
            "text_dim": 4096,
            "freq_dim": 256,
            "patch_size": (1, 2, 2),
            "window_size": (-1, -1),
            "qk_norm": True,
            "cross_attn_norm": True,
            "eps": 1e-6,
        },
        small={"dim": 256, "ffn_dim": 256, "num_heads": 2, "num_layers": 1, "text_dim": 32},
        conds={"c_crossattn": (512, "text_dim")},
        depths=("num_layers",),
    ),
}
SHAPES = (
    Shape("demo model, 128x128", "demo", (16, 16, 16), (16, 8, 8), seconds=1.0, lanes=True, driver=True),
    Shape("SD 1.5, 512x512", "SD 1.5", (4, 64, 64), (4, 8, 8), seconds=3.0, lanes=True, driver=True),
    Shape("SDXL, 512x512", "SDXL", (4, 64, 64), (4, 8, 8), seconds=4.0),
    Shape("SDXL, 1024x1024", "SDXL", (4, 128, 128), (4, 16, 16), lanes=True),
    Shape("Flux dev 12B, 1024x1024", "Flux", (16, 128, 128), (16, 8, 8), rows=(1, 2, 4, 8), guided=False),
    Shape("Wan 2.1 1.3B, 832x480, 33 frames", "Wan 2.1 1.3B", (16, 9, 60, 104), (16, 3, 8, 8), rows=(1, 2, 4, 8)),
)


# --- models


class Inputs:
    """``rows`` rows of everything a model call takes; the same row is the same however many there are."""

    def __init__(self, model: Model, latent: tuple[int, ...], rows: int) -> None:
        generator = torch.Generator().manual_seed(1)

        def rand(*shape: int) -> Tensor:
            return torch.randn(rows, *shape, generator=generator).to(model.device)

        levels = torch.linspace(0.9, 0.2, rows) if rows > 1 else torch.tensor([0.9])
        self.sigma = (levels * model.sigma_max).to(model.device)
        self.x = rand(*latent) * self.sigma.view(-1, *[1] * len(latent))
        self.conds = {name: rand(*shape).to(model.dtype) for name, shape in model.conds.items() if shape}
        for name in (name for name, shape in model.conds.items() if not shape):
            self.conds[name] = torch.full((rows,), 3.5, device=model.device)


class Model:
    """A BaseModel of ComfyUI with all its weights on ``device``."""

    def __init__(self, architecture: Architecture, small: bool, device: torch.device) -> None:
        self.device, self.dtype = device, architecture.dtype
        config = architecture.config | (architecture.small if small else {})
        self.notes: list[str] = []
        with torch.no_grad():
            if architecture.file:
                self._model = _trained(architecture, device)
            else:
                config = self._fitting(architecture, config)
                self._model = _untrained(architecture, config, device)
                _randomise(self._model.diffusion_model)
        self._model.to(device)
        self.parameters = sum(weight.numel() for weight in self._model.diffusion_model.parameters())
        self.conds = {
            name: tuple(config[size] if isinstance(size, str) else size for size in shape)
            for name, shape in architecture.conds.items()
        }
        self.sigma_max = float(self._model.model_sampling.sigma_max)

    def _fitting(self, architecture: Architecture, config: dict[str, Any]) -> dict[str, Any]:
        """``config`` with as many layers as fit into 60 % of the device's free memory."""
        if self.device.type != "cuda":
            return config
        room = 0.6 * torch.cuda.mem_get_info(self.device)[0]
        whole = config
        while any(config[name] > 1 for name in architecture.depths):
            empty = _untrained(architecture, config, torch.device("meta")).diffusion_model
            if sum(weight.numel() * weight.element_size() for weight in empty.parameters()) <= room:
                break
            config = config | {name: max(1, config[name] // 2) for name in architecture.depths}
        if config is not whole:
            layers = ", ".join(f"{name} {config[name]} instead of {whole[name]}" for name in architecture.depths)
            self.notes.append(f"REDUCED to fit into the memory that is free: {layers}")
        return config

    @property
    def network(self) -> torch.nn.Module:
        """The diffusion model itself."""
        return self._model.diffusion_model

    def __call__(
        self,
        inputs: Inputs,
        rows: slice,
        x: Tensor | None = None,
        sigma: Tensor | None = None,
        options: dict[str, Any] | None = None,
    ) -> Tensor:
        """Denoised latents of these rows, or of other ``x`` and ``sigma`` with the rows' conditioning.

        ``options``: the call's ``transformer_options``.
        """
        return self._model.apply_model(
            inputs.x[rows] if x is None else x,
            inputs.sigma[rows] if sigma is None else sigma,
            transformer_options=options or {},
            **{name: cond[rows] for name, cond in inputs.conds.items()},
        )


def _untrained(architecture: Architecture, config: dict[str, Any], device: torch.device) -> Any:
    """As the stock loader builds it, whatever memory held for weights."""
    import comfy.supported_models

    model_config = getattr(comfy.supported_models, architecture.family)(config)
    model_config.set_inference_dtype(architecture.dtype, None)
    return model_config.get_model({}, "", device=device)


def _trained(architecture: Architecture, device: torch.device) -> Any:
    """The pack's own file, built and filled as the stock loader does."""
    import comfy.model_detection
    import comfy.utils

    weights = comfy.utils.load_torch_file(str(REPO / "models" / architecture.file))
    model_config = comfy.model_detection.model_config_from_unet(weights, "")
    model_config.set_inference_dtype(architecture.dtype, None)
    model = model_config.get_model(weights, "", device=device)
    model.load_model_weights(weights, "")
    return model


def _randomise(network: torch.nn.Module) -> None:
    """Weights that keep activations near one: matrices by their fan-in, scales near 1, made on the device."""
    torch.manual_seed(0)
    for name, weight in network.named_parameters():
        if weight.ndim > 1:
            weight.normal_(0.0, 0.5 / math.sqrt(max(weight[0].numel(), 1)))
        else:
            weight.normal_(0.0 if name.endswith("bias") else 1.0, 0.1)


# --- time


def left(limit: float) -> float:
    """Seconds until the results have to be there."""
    return limit - RESERVE - (time.perf_counter() - BEGAN)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(device: torch.device, run: Callable[[], Any]) -> float:
    """Wall time of ``run`` with all that it gave the device to do."""
    wait(device)
    began = time.perf_counter()
    run()
    wait(device)
    return time.perf_counter() - began


def median_ms(seconds: list[float]) -> float:
    return 1000 * statistics.median(seconds)


# --- the measurements: each returns what goes into the JSON file


def measure_batches(
    model: Model, shape: Shape, latent: tuple[int, ...], seconds: float, limit: float
) -> dict[str, Any]:
    """Time, memory and bits of one model call at each number of rows."""
    device = model.device
    inputs = Inputs(model, latent, max(shape.rows))
    outputs: dict[int, Tensor] = {}
    estimate: dict[int, float] = {}
    memory: dict[int, float] = {}
    notes: list[str] = []
    for rows in shape.rows:
        before = max(estimate, default=0)
        needed = 4 * (sum(estimate.values()) + estimate.get(before, 0.0) * rows / max(before, 1))
        if needed > left(limit):
            notes.append(f"{rows} rows and more left out: no time left for them")
            break
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        try:
            # The first call picks algorithms; a short one is made again for a better estimate.
            calls = 0
            while calls < 1 or (calls < 3 and estimate[rows] < 0.4):
                began = time.perf_counter()
                outputs[rows] = model(inputs, slice(0, rows))
                wait(device)
                estimate[rows], calls = time.perf_counter() - began, calls + 1
        except torch.OutOfMemoryError:
            outputs.pop(rows, None)
            estimate.pop(rows, None)
            torch.cuda.empty_cache()
            notes.append(f"{rows} rows and more left out: out of memory")
            break
        memory[rows] = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0
    if 1 not in outputs:
        raise RuntimeError("; ".join(notes))
    rounds = min(15, max(3, int(seconds / sum(estimate.values()))))
    times: dict[int, list[float]] = {rows: [] for rows in outputs}
    two_calls: list[float] = []

    def two() -> None:
        model(inputs, slice(0, 1))
        model(inputs, slice(1, 2))

    for done in range(rounds):  # interleaved, so that what drifts drifts for all
        if done and sum(estimate.values()) > left(limit):
            notes.append(f"{done} rounds instead of {rounds}: no time left")
            break
        for rows in outputs:
            times[rows].append(seconds_of(device, lambda rows=rows: model(inputs, slice(0, rows))))
        if 2 in outputs:
            two_calls.append(seconds_of(device, two))
    result = {
        "rows": {
            str(rows): {
                "ms": median_ms(times[rows]),
                "ms_least": 1000 * min(times[rows]),
                "ms_most": 1000 * max(times[rows]),
                "ratio": median_ms(times[rows]) / median_ms(times[1]),
                "memory_gib": memory[rows],
                "finite": bool(torch.isfinite(output).all()),
            }
            for rows, output in outputs.items()
        },
        "two_calls_ms": median_ms(two_calls) if two_calls else None,
        "rounds": len(times[1]),
        "notes": notes,
    }
    result["bits"] = measure_bits(model, inputs, outputs)
    return result


def measure_bits(model: Model, inputs: Inputs, outputs: dict[int, Tensor]) -> dict[str, Any]:
    """Whether a row of a batch has the bits it has alone, or as a pair; and what else they depend on."""

    def compare(found: Tensor, wanted: Tensor, rows: slice) -> float | None:
        """0 for the same bits, else the difference relative to what the model predicts (x - denoised)."""
        if torch.equal(found, wanted):
            return 0.0
        difference = float((found - wanted).double().norm() / (inputs.x[rows] - wanted).double().norm())
        return difference if math.isfinite(difference) else None

    largest = max(outputs)
    chosen = sorted({0} | {rows - 1 for rows in outputs})
    single = {row: model(inputs, slice(row, row + 1)) for row in chosen}
    pairs = {row: model(inputs, slice(row, row + 2)) for row in sorted({0} | {r - 2 for r in outputs if r > 2})}
    result: dict[str, Any] = {"against_one": {}, "against_pair": {}}
    for rows, output in outputs.items():
        if rows > 1:
            found = [compare(output[row : row + 1], single[row], slice(row, row + 1)) for row in sorted({0, rows - 1})]
            result["against_one"][str(rows)] = None if None in found else max(found)
        if rows > 2:
            found = [compare(output[row : row + 2], pairs[row], slice(row, row + 2)) for row in (0, rows - 2)]
            result["against_pair"][str(rows)] = None if None in found else max(found)
    again = min(4, largest)
    result["repeats"] = torch.equal(single[0], outputs[1]) and torch.equal(
        model(inputs, slice(0, again)), outputs[again]
    )
    if again > 1:  # row 0 with other neighbours, in a batch of the same size
        x = torch.cat([inputs.x[:1], inputs.x[1:again].flip(-1)])
        sigma = torch.cat([inputs.sigma[:1], inputs.sigma[1:again] * 0.5])
        result["whatever_the_others"] = torch.equal(
            model(inputs, slice(0, again), x=x, sigma=sigma)[:1], outputs[again][:1]
        )
    return result


def measure_lanes(model: Model, latent: tuple[int, ...], call_seconds: float, limit: float) -> dict[str, Any]:
    """Evaluations a second of threads that share the weights, each with a CUDA stream of its own."""
    device = model.device
    inputs = Inputs(model, latent, max(LANES))
    alone = [model(inputs, slice(lane, lane + 1)) for lane in range(max(LANES))]
    wait(device)
    streams = [torch.cuda.Stream(device) if device.type == "cuda" else None for _ in range(max(LANES))]
    calls = max(3, round(0.2 / call_seconds))
    rates: dict[int, list[float]] = {lanes: [] for lanes in LANES}
    made, same = dict.fromkeys(LANES, 0), dict.fromkeys(LANES, 0)
    for attempt in range(4):  # the first warms up
        if attempt > 1 and sum(LANES) * calls * call_seconds > left(limit):
            break
        for lanes in LANES:
            seconds, found = _threads(model, inputs, streams[:lanes], calls)
            made[lanes] += lanes * calls
            same[lanes] += sum(torch.equal(output, alone[lane]) for lane, own in enumerate(found) for output in own)
            if attempt:
                rates[lanes].append(lanes * calls / seconds)
    medians = {lanes: statistics.median(found) for lanes, found in rates.items()}
    return {
        str(lanes): {
            "per_second": rate,
            "against_one": rate / medians[1],
            "evaluations": made[lanes],
            "same_bits": same[lanes],
        }
        for lanes, rate in medians.items()
    }


def _threads(model: Model, inputs: Inputs, streams: list[Any], calls: int) -> tuple[float, list[list[Tensor]]]:
    """Seconds until all lanes have made ``calls`` evaluations each, waiting for each, and the outputs by lane."""
    found: list[list[Tensor]] = [[] for _ in streams]
    failures: list[Exception] = []
    barrier = threading.Barrier(len(streams) + 1, timeout=60.0)

    def work(lane: int, stream: Any) -> None:
        try:
            with torch.inference_mode(), torch.cuda.stream(stream) if stream else contextlib.nullcontext():
                barrier.wait()
                for _ in range(calls):
                    found[lane].append(model(inputs, slice(lane, lane + 1)))
                    if stream:
                        stream.synchronize()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=item, daemon=True) for item in enumerate(streams)]
    for thread in threads:
        thread.start()
    barrier.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    if failures:
        raise failures[0]
    return seconds, found


def measure_driver(
    model: Model, latent: tuple[int, ...], call_seconds: float, seconds: float, limit: float
) -> dict[str, Any]:
    """A run of one core through the driver against a plain Euler loop, as k-diffusion has it, of the same model."""
    device = model.device
    inputs = Inputs(model, latent, 1)
    levels = torch.linspace(model.sigma_max, model.sigma_max / DRIVER_STEPS, DRIVER_STEPS)
    sigmas = torch.cat([levels, torch.zeros(1)]).to(device)
    one = slice(0, 1)

    def denoise(x: Tensor, sigma: float) -> Tensor:
        return model(inputs, one, x=x, sigma=torch.full((1,), sigma, device=device))

    def plain() -> Tensor:
        x, ones = inputs.x, inputs.x.new_ones(1)
        for i in range(DRIVER_STEPS):
            denoised = model(inputs, one, x=x, sigma=sigmas[i] * ones)
            drift = (x - denoised) / sigmas[i]
            x = x + drift * (sigmas[i + 1] - sigmas[i])
        return x

    with ThreadPool([denoise]) as threads:
        runs: dict[str, Callable[[], Tensor]] = {
            "plain loop": plain,
            "inline": lambda: sample(None, inputs.x, sigmas, pool=InlinePool(denoise)).x,
            "one lane, a thread": lambda: sample(None, inputs.x, sigmas, pool=threads).x,
        }
        once = len(runs) * DRIVER_STEPS * call_seconds
        if 2 * once > left(limit):
            raise RuntimeError("left out, no time left")
        results = {name: run() for name, run in runs.items()}
        wait(device)
        rounds = min(15, max(3, int(seconds / once)))
        times: dict[str, list[float]] = {name: [] for name in runs}
        for done in range(rounds):
            if done and once > left(limit):
                break
            for name in list(runs) if done % 2 else list(runs)[::-1]:
                times[name].append(seconds_of(device, runs[name]))
    base = times["plain loop"]
    return {
        name: {
            "ms": median_ms(values),
            "ratio": statistics.median(value / loop for value, loop in zip(values, base, strict=True)),
            "ms_more_an_evaluation": (median_ms(values) - median_ms(base)) / DRIVER_STEPS,
            "same_bits": torch.equal(results[name], results["plain loop"]),
            "rounds": len(values),
        }
        for name, values in times.items()
    }


# --- what it means


def cores_at_work(steps: int, starts: tuple[int, ...]) -> list[int]:
    """How many cores evaluate in each round of a run to the first hit with a batch for all cores."""
    rounds: Counter[int] = Counter()

    def count(event: object) -> None:
        if isinstance(event, Evaluated):
            rounds[event.depth] += 1

    sample(lambda x, sigma: x, torch.zeros(1), torch.linspace(1.0, 0.0, steps + 1), starts=starts, on_event=count)
    return [rounds[depth] for depth in sorted(rounds)]


def candidates() -> list[tuple[int, int, tuple[int, ...], str]]:
    """(steps, cores, starts, whose): the nodes' plan, and the lattice rule where that is another."""
    found = []
    for steps, cores in RUNS:
        nodes, lattice = planned_starts(steps, cores, cores), tuple(lattice_starts(steps, cores))
        found.append((steps, cores, tuple(nodes), "the nodes' plan"))
        if lattice != nodes:
            found.append((steps, cores, lattice, "lattice rule"))
    return found


def milliseconds_at(rows: dict[str, dict[str, Any]], wanted: int) -> float | None:
    """The time of a call with so many rows, between two that were measured on the line through them."""
    known = sorted((int(n), entry["ms"]) for n, entry in rows.items())
    for (low, at_low), (high, at_high) in zip(known, known[1:], strict=False):
        if low <= wanted <= high:
            return at_low + (at_high - at_low) * (wanted - low) / (high - low)
    return known[0][1] if wanted == known[0][0] else None


def batch_gain(
    rows: dict[str, dict[str, Any]], each: int, steps: int, at_work: list[int]
) -> tuple[float, float] | None:
    """N t(1) over the time of the rounds: with the cores at work in each, and with all cores in every round.

    ``each``: rows a core, 2 with guidance.
    """
    one = milliseconds_at(rows, each)
    times = {active: milliseconds_at(rows, active * each) for active in set(at_work)}
    if one is None or None in times.values():
        return None
    sequential = steps * one
    exact = sum(times[active] or 0.0 for active in at_work)
    return sequential / exact, sequential / (len(at_work) * (times[max(at_work)] or 0.0))


# --- the report


@dataclass
class Report:
    """What is known so far; written after each measurement."""

    folder: Path
    facts: dict[str, Any]
    shapes: dict[str, dict[str, Any]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def section(self, what: str) -> Iterator[None]:
        """A part whose failure is reported, and stops nothing else."""
        print(f"{time.perf_counter() - BEGAN:6.1f} s  {what}", flush=True)
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            said = (str(error).strip().splitlines() or [""])[0].replace(str(REPO), ".")[:200]
            self.failures.append(f"{what}: {type(error).__name__}: {said}")
        self.save()

    def save(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.facts["seconds"] = round(time.perf_counter() - BEGAN, 1)
        content = {**self.facts, "shapes": self.shapes, "failures": self.failures}
        (self.folder / "gpu.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        (self.folder / "gpu.md").write_text("\n".join(self.lines()) + "\n", encoding="utf-8")

    def have(self, part: str) -> Iterator[tuple[str, dict[str, Any]]]:
        return ((name, entry) for name, entry in self.shapes.items() if part in entry)

    def lines(self) -> list[str]:
        facts = self.facts
        out = [
            "# On one GPU" if facts["cuda"] else "# On the CPU: a check of the code, no figures to quote",
            f"`{facts['command']}`, {facts['date']}: {facts['device']}; torch {facts['torch']}, CUDA {facts['cuda']}, "
            f"cuDNN {facts['cudnn']}, Python {facts['python']}, {facts['system']}, ComfyUI {facts['comfyui']} "
            f"(attention: {facts['attention']}); {facts['seconds']} s in all.",
            "",
            "Models of the real shapes with random weights, as ComfyUI's classes build them (the demo model is the "
            "trained one), all weights in the device's memory, nothing compiled. Calls go to ComfyUI's "
            "`BaseModel.apply_model`. Wall time of a call with the wait for the device, medians of interleaved rounds.",
        ]
        if facts["small"]:
            out += ["", "**`--small`: tiny models. The figures say nothing about real ones.**"]
        if self.failures:
            out += ["", "**What failed:**", *(f"- {failure}" for failure in self.failures)]
        for part in (self.summary, self.batches, self.gains, self.lanes, self.driver, self.guidance):
            out += ["", *part()]
        return out

    def summary(self) -> list[str]:
        out = ["## In short"]
        gains = [
            (gain[0], f"{name}, {'guided' if each == 2 else 'unguided'}, N = {steps}, {cores} cores")
            for name, each, steps, cores, gain in self.all_gains()
            if gain
        ]
        if gains:
            wins = [item for item in gains if item[0] > 1]
            best = max(gains)
            out.append(
                f"- Batching cores on one GPU is faster than one core in {len(wins)} of {len(gains)} cases; the best: "
                f"{best[0]:.2f} times as fast ({best[1]})."
            )
        for key, than in (("against_one", "alone"), ("against_pair", "in a pair")):
            values = [value for _, entry in self.have("batches") for value in entry["batches"]["bits"][key].values()]
            if values:
                same = sum(value == 0 for value in values)
                out.append(f"- A row of a larger batch has the bits it has {than} in {same} of {len(values)} cases.")
        lanes = [entry["lanes"][str(max(LANES))]["against_one"] for _, entry in self.have("lanes")]
        if lanes:
            out.append(
                f"- {max(LANES)} lanes on streams of one GPU: {min(lanes):.2f} to {max(lanes):.2f} times the "
                "evaluations of one."
            )
        ratios = [entry["driver"]["inline"]["ratio"] for _, entry in self.have("driver")]
        if ratios:
            out.append(f"- One core through the driver: {min(ratios):.3f} to {max(ratios):.3f} times a plain loop.")
        splits = [
            entry["batches"]["rows"]["2"]["ratio"]
            for _, entry in self.have("batches")
            if "2" in entry["batches"]["rows"]
        ]
        if splits:
            out.append(
                f"- Guidance over two equal GPUs gains at most {min(splits):.2f} to {max(splits):.2f} times, by the "
                "model and its shape; 2 would be ideal."
            )
        return out if len(out) > 1 else []

    def batches(self) -> list[str]:
        out = [
            "## 1. Rows in one call",
            "*t(n)/t(1)*: n where a row more costs as much as a call more, 1 where it is free. *As alone*, *as a pair*:"
            " whether the first and the last row of the batch have the bits they have in a call of their own, or in "
            "a call of two (what ComfyUI makes with guidance); else the difference relative to x - denoised.",
            "",
            "| model | weights | rows n | ms | least to most | t(n)/t(1) | GiB at most | as alone | as a pair |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        notes = []
        for name, entry in self.have("batches"):
            found = entry["batches"]
            for n, row in found["rows"].items():
                bits = [_bits(found["bits"][key], n) for key in ("against_one", "against_pair")]
                out.append(
                    f"| {name} | {entry['parameters'] / 1e6:,.0f} M {entry['dtype']} | {n} | {row['ms']:.1f} | "
                    f"{row['ms_least']:.1f} to {row['ms_most']:.1f} | {row['ratio']:.2f} | {row['memory_gib']:.1f} | "
                    f"{bits[0]} | {bits[1]} |"
                )
                if not row["finite"]:
                    notes.append(f"- {name}, {n} rows: NOT FINITE, so the bits say nothing.")
            bits = found["bits"]
            others = {True: "does not depend", False: "DEPENDS", None: "(not tried)"}[bits.get("whatever_the_others")]
            notes.append(
                f"- {name}: {found['rounds']} rounds; the same call again gives "
                f"{'the same' if bits['repeats'] else 'OTHER'} bits; a row of a batch {others} on what the other rows "
                "hold."
            )
            notes += [f"- {name}: {note}." for note in entry["notes"] + found["notes"]]
        return [*out, "", *notes]

    def all_gains(self) -> Iterator[tuple[str, int, int, int, tuple[float, float] | None]]:
        cases = [(steps, cores, cores_at_work(steps, starts)) for steps, cores, starts, _ in candidates()]
        for name, entry in self.have("batches"):
            for each in (2, 1) if entry["guided"] else (1,):
                for steps, cores, at_work in cases:
                    yield name, each, steps, cores, batch_gain(entry["batches"]["rows"], each, steps, at_work)

    def gains(self) -> list[str]:
        cases = candidates()
        heads = [f"N={steps}, K={cores}, depth {len(cores_at_work(steps, s))}" for steps, cores, s, _ in cases]
        out = [
            "## 2. All cores in one batch on one GPU, against one core",
            "How many times as fast the first hit comes as N calls one after the other. First figure: each round a "
            "batch of the cores that are at work in it (times between measured ones on the line through them); in "
            "brackets: each round a batch of all K. Above 1 batching wins, which needs t(K)/t(1) below N/depth "
            "(with guidance t(2K)/t(2)): "
            + "; ".join(
                f"N={steps}, K={cores}, {whose}: {steps / len(cores_at_work(steps, starts)):.2f}"
                for steps, cores, starts, whose in cases
            )
            + ". The solver's own work and the wait for the slowest core are not in it, and the first hit is not what "
            "N steps give.",
            "",
            f"| model | {' | '.join(heads)} |",
            "|---" * (len(heads) + 1) + "|",
        ]
        rows: dict[str, list[str]] = {}
        for name, each, _, _, gain in self.all_gains():
            text = "not measured" if gain is None else f"{gain[0]:.2f} ({gain[1]:.2f})"
            rows.setdefault(f"{name}, {'guided' if each == 2 else 'unguided'}", []).append(
                f"**{text}**" if gain and gain[0] > 1 else text
            )
        return out + [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]

    def lanes(self) -> list[str]:
        out = [
            "## 3. Lanes on one GPU",
            "Threads of one process that share the weights, each with a CUDA stream of its own and waiting for each "
            "of its evaluations. Beside it the same evaluations as one batch (section 1). Processes were not tried.",
            "",
            "| model | lanes | evaluations a second | against one lane | same bits as alone | as one batch |",
            "|---|---|---|---|---|---|",
        ]
        for name, entry in self.have("lanes"):
            rows = entry.get("batches", {}).get("rows", {})
            for lanes, found in entry["lanes"].items():
                batch = f"{1000 * int(lanes) / rows[lanes]['ms']:.1f}" if lanes in rows else "not measured"
                out.append(
                    f"| {name} | {lanes} | {found['per_second']:.1f} | {found['against_one']:.2f} | "
                    f"{_all(found['same_bits'], found['evaluations'])} | {batch} |"
                )
        return out

    def driver(self) -> list[str]:
        out = [
            "## 4. The driver",
            f"{DRIVER_STEPS} Euler steps, one core, against a plain loop of the same model that never waits for the "
            "device (the driver looks at each evaluation for NaN, and so waits). Ratio: median over pairs of runs.",
            "",
            "| model | run | ms | ratio | ms more an evaluation | same bits as the loop | rounds |",
            "|---|---|---|---|---|---|---|",
        ]
        for name, entry in self.have("driver"):
            for run, found in entry["driver"].items():
                out.append(
                    f"| {name} | {run} | {found['ms']:.1f} | {found['ratio']:.3f} | "
                    f"{found['ms_more_an_evaluation']:.3f} | {'yes' if found['same_bits'] else 'NO'} | "
                    f"{found['rounds']} |"
                )
        return out

    def guidance(self) -> list[str]:
        out = [
            "## 5. Guidance split over two GPUs",
            "With guidance one GPU makes a call of two rows, t(2); each of two equal GPUs a call of one, t(1). "
            "*Gain* is t(2)/t(1), what a guidance split can bring at most: the transfer of a latent each way and the wait "
            "for the slower half are not in it. *Two calls*: both sides in turn on one GPU, against t(2).",
            "",
            "| model | t(1), ms | t(2), ms | gain | two calls, ms | two calls / t(2) | latent, KiB |",
            "|---|---|---|---|---|---|---|",
        ]
        for name, entry in self.have("batches"):
            rows, two = entry["batches"]["rows"], entry["batches"]["two_calls_ms"]
            if "2" not in rows or two is None:
                continue
            usual = "" if entry["guided"] else " (as a rule at cfg 1, where there is nothing to split)"
            out.append(
                f"| {name}{usual} | {rows['1']['ms']:.1f} | {rows['2']['ms']:.1f} | **{rows['2']['ratio']:.2f}** | "
                f"{two:.1f} | {two / rows['2']['ms']:.2f} | {entry['latent_kib']:.0f} |"
            )
        return out


def _all(count: int, of: int) -> str:
    return f"all {of}" if count == of else f"{count} of {of}"


def _bits(found: dict[str, float | None], rows: str) -> str:
    if rows not in found:
        return ""
    value = found[rows]
    return "no figure" if value is None else "same bits" if value == 0 else f"{value:.1e}"


# --- main


def start_comfy(device: torch.device, folder: Path | None = None) -> dict[str, Any]:
    """Makes ``comfy`` importable, for this device; returns what the report says of it.

    ``folder``: a ComfyUI that is ready to run on this Python; by default the one of `.host`, prepared if need be.
    """
    folder = host.prepare() if folder is None else folder
    sys.path.insert(1, str(folder))
    from comfy.cli_args import args

    args.cpu = device.type == "cpu"
    import comfy.ldm.modules.attention
    import comfyui_version

    return {
        "comfyui": comfyui_version.__version__,
        "attention": comfy.ldm.modules.attention.optimized_attention.__name__.removeprefix("attention_"),
    }


def facts_of(device: torch.device, arguments: argparse.Namespace) -> dict[str, Any]:
    cuda = device.type == "cuda"
    name = "CPU"
    if cuda:
        properties = torch.cuda.get_device_properties(device)
        name = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    return {
        "command": "python benchmarks/gpu.py" + (" --small" if arguments.small else ""),
        "date": time.strftime("%Y-%m-%d"),
        "device": name,
        "small": arguments.small,
        "torch": torch.__version__,
        "cuda": torch.version.cuda if cuda else None,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def measure(report: Report, shape: Shape, model: Model, small: bool, limit: float) -> None:
    """All sections of one shape."""
    latent = shape.small if small else shape.latent
    entry = report.shapes[shape.name] = {
        "parameters": model.parameters,
        "dtype": str(model.dtype).removeprefix("torch."),
        "latent": latent,
        "latent_kib": 4 * math.prod(latent) / 1024,
        "guided": shape.guided,
        "notes": model.notes,
    }
    with report.section(f"{shape.name}: rows in one call"):
        entry["batches"] = measure_batches(model, shape, latent, shape.seconds * (SMALL if small else 1), limit)
    if "batches" not in entry:
        return
    call_seconds = entry["batches"]["rows"]["1"]["ms"] / 1000
    if shape.lanes:
        with report.section(f"{shape.name}: lanes"):
            entry["lanes"] = measure_lanes(model, latent, call_seconds, limit)
    if shape.driver:
        with report.section(f"{shape.name}: driver"):
            entry["driver"] = measure_driver(model, latent, call_seconds, 0.4 if small else 4.0, limit)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="tiny models, to check that all of it runs")
    parser.add_argument("--out", type=Path, help="folder for gpu.md and gpu.json (default benchmarks/results; output/)")
    parser.add_argument("--limit", type=float, default=138.0, help="seconds after which no part begins (default 138)")
    arguments = parser.parse_args()
    if not torch.cuda.is_available() and not arguments.small:
        print("NOT MEASURED: torch sees no CUDA device here. --small checks the code on the CPU.")
        return
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)
    facts = facts_of(device, arguments) | start_comfy(device)
    report = Report(arguments.out or (REPO / "output" / "gpu-small" if arguments.small else RESULTS), facts)
    model, loaded = None, ""
    with torch.inference_mode():
        for shape in SHAPES:
            if left(arguments.limit) < 0:
                report.failures.append(f"{shape.name}: left out, no time left")
                report.save()
                continue
            if loaded != shape.model:
                model, loaded = None, ""
                with report.section(f"{shape.name}: building the model"), torch.inference_mode(False):
                    gc.collect()
                    if device.type == "cuda":
                        torch.cuda.empty_cache()
                    model, loaded = Model(ARCHITECTURES[shape.model], arguments.small, device), shape.model
            if model is not None:
                measure(report, shape, model, arguments.small, arguments.limit)
    report.save()
    print("\n".join(report.lines()))
    print(f"written to {report.folder}")


if __name__ == "__main__":
    main()
