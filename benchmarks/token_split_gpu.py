"""What one GPU says about the token split: the time of one member's share of a call, against the whole call.

    .venv/bin/python benchmarks/token_split_gpu.py            all of it, on one CUDA device, in about six minutes
    .venv/bin/python benchmarks/token_split_gpu.py --small    the same code on tiny models, on the CPU without CUDA

A member computes its own queries against everybody's keys. Here it is alone on the device: the keys and values of the
other members are there already and cost nothing, so its time is the least that a split call can take. The exchange is
then added for links of several speeds. Models have their real shapes and random weights. At the end two members, as
threads with a stream each, compute calls together on this one GPU, and the results are compared with the whole call's.

Without CUDA, and without ``--small``, it says so and ends. Writes token_split_gpu.json and token_split_gpu.md.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import random
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

BEGAN = time.perf_counter()
REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO / "benchmarks"), str(REPO / "nodes" / "host" / "devices")]

import torch
from _token_split_report import report_lines
from gpu import ARCHITECTURES, Architecture, Inputs, Model, facts_of, median_ms, seconds_of, start_comfy, wait
from token_split import Member, SplitCall, find_family
from token_split.exchange import ThreadExchange
from token_split.hooks import acting_as, hook, unhook
from token_split.transfer import ByReference, DeviceTransfer, SentTensor, Transfer
from torch import Tensor

RESULTS = Path(__file__).parent / "results"
MEMBERS = (2, 4, 8)
REPEATS = 20  # split calls of each kind on one GPU, whose results are compared
TIMEOUT = 60.0  # seconds for an exchange

QWEN = Architecture(
    family="QwenImage",
    dtype=torch.bfloat16,
    config={
        "image_model": "qwen_image",
        "in_channels": 64,
        "num_layers": 60,
        "num_attention_heads": 24,
        "joint_attention_dim": 3584,
    },
    small={"num_layers": 2, "num_attention_heads": 2, "joint_attention_dim": 32},
    conds={"c_crossattn": (256, "joint_attention_dim")},
    depths=("num_layers",),
)
WAN = ARCHITECTURES["Wan 2.1 1.3B"]
WAN_14B = replace(WAN, config=WAN.config | {"dim": 5120, "ffn_dim": 13824, "num_heads": 40, "num_layers": 40})
FLUX = ARCHITECTURES["Flux"]


@dataclass(frozen=True)
class Case:
    """``latent``: of one picture or video, whose tokens (and the text's) 8 divides; ``small``: the same for
    ``--small``; ``rounds``: timed calls of each kind."""

    name: str
    architecture: Architecture
    latent: tuple[int, ...]
    small: tuple[int, ...]
    rounds: int = 5


CASES = (
    Case("Flux dev 12B, 1024x1024", FLUX, (16, 128, 128), (16, 16, 16)),
    Case("Wan 2.1 1.3B, 832x480, 33 frames", WAN, (16, 9, 60, 104), (16, 3, 16, 16)),
    Case("Wan 2.1 1.3B, 832x480, 81 frames", WAN, (16, 21, 60, 104), (16, 3, 16, 16), rounds=3),
    Case("Qwen-Image 20B, 1328x1328", QWEN, (16, 1, 160, 160), (16, 1, 16, 16), rounds=3),
    Case("Wan 2.1 14B, 832x480, 81 frames", WAN_14B, (16, 21, 60, 104), (16, 3, 16, 16), rounds=2),
    Case("Wan 2.1 14B, 1280x720, 81 frames", WAN_14B, (16, 21, 90, 160), (16, 3, 16, 16), rounds=1),
)
TINY = {3: (16, 16, 16), 4: (16, 1, 16, 16)}  # latents so small that a call takes as long as launching its kernels


# --- one member's share


class Alone:
    """The exchange of member 0 whose other members have sent everything already: nothing is waited for or copied.

    Their tensors have the shapes of this member's own, so shares have to be equal. ``received``: bytes since `reset`.
    """

    def __init__(self, members: int) -> None:
        self.members = members
        self._others: dict[Any, list[Tensor]] = {}
        self.reset()

    def reset(self) -> None:
        self.received = self.exchanges = 0

    def all_gather(self, rank: int, tensors: Sequence[Tensor]) -> list[list[Tensor]]:
        self.exchanges += 1
        own = [tensor.contiguous() for tensor in tensors]  # as for sending
        gathered: list[list[Tensor]] = [own] + [[] for _ in range(self.members - 1)]
        for place, tensor in enumerate(own):
            key = place, tensor.shape, tensor.dtype
            if key not in self._others:
                self._others[key] = [tensor.clone() for _ in range(self.members - 1)]
            for member, other in enumerate(self._others[key], 1):
                gathered[member].append(other)
            self.received += (self.members - 1) * tensor.numel() * tensor.element_size()
        return gathered

    def broadcast(self, rank: int, tensors: dict[str, Tensor] | None) -> dict[str, Tensor] | None:
        return tensors


class Share:
    """Calls of one member alone."""

    def __init__(self, model: Model, members: int) -> None:
        self.exchange = Alone(members)
        family = find_family(model.network)
        if family is None:
            raise RuntimeError(f"no family for {type(model.network).__name__}")
        self._model, self.family = model, family

    def __call__(self, inputs: Inputs) -> Tensor:
        self.exchange.reset()
        adapter = self.family(self.exchange, 0, self._model.network)
        with acting_as(adapter):
            return self._model(inputs, slice(0, 1), options=adapter.transformer_options)


def measure(case: Case, model: Model, small: bool, left: Callable[[], float]) -> dict[str, Any]:
    """Times of the whole call and of a share, at each number of members."""
    inputs = Inputs(model, case.small if small else case.latent, 1)
    rank = len(case.latent)
    tiny = Inputs(model, TINY[rank], 1)
    calls: dict[int, Callable[[Inputs], Tensor]] = {1: lambda inputs: model(inputs, slice(0, 1))}
    calls |= {members: Share(model, members) for members in MEMBERS}
    estimate = {members: seconds_of(model.device, lambda call=call: call(inputs)) for members, call in calls.items()}
    times: dict[int, list[float]] = {members: [] for members in calls}
    rounds = 0
    while rounds < case.rounds and (not rounds or sum(estimate.values()) < left()):
        for members, call in calls.items():  # interleaved, so that what drifts drifts for all
            times[members].append(seconds_of(model.device, lambda call=call: call(inputs)))
        rounds += 1
    found: dict[str, Any] = {
        "parameters": model.parameters,
        "dtype": str(model.dtype).removeprefix("torch."),
        "rounds": rounds,
        "notes": model.notes,
        "members": {},
    }
    for members, call in calls.items():
        traffic = {}
        if isinstance(call, Share):
            traffic = {"received_mb": call.exchange.received / 1e6, "exchanges": call.exchange.exchanges}
        issue = min(seconds_of(model.device, lambda call=call: call(tiny)) for _ in range(1 if small else 4))
        found["members"][members] = {
            "ms": median_ms(times[members]),
            "ms_all": [1000 * seconds for seconds in times[members]],
            "issue_ms": 1000 * issue,
            "issue_together_ms": 1000 * issue_together(model, call, tiny, members, 1 if small else 4),
            "launches": launches_of(model.device, lambda call=call: call(tiny)),
            **traffic,
        }
    return found


def issue_together(model: Model, call: Callable[[Inputs], Any], tiny: Inputs, members: int, rounds: int) -> float:
    """Seconds until so many threads of this process, each on a stream of its own, have launched a call each.

    PyTorch lets go of Python's lock within each operation, so it takes less than all launches in turn.
    """
    device = model.device
    if device.type != "cuda" or members == 1:
        return min(seconds_of(device, lambda: call(tiny)) for _ in range(rounds))
    streams = [torch.cuda.Stream(device) for _ in range(members)]
    start, end = threading.Barrier(members + 1), threading.Barrier(members + 1)

    def work(stream: torch.cuda.Stream) -> None:
        share = Share(model, members)
        with torch.inference_mode(), torch.cuda.stream(stream):
            for _ in range(rounds + 1):
                start.wait()
                share(tiny)
                stream.synchronize()
                end.wait()

    threads = [threading.Thread(target=work, args=(stream,)) for stream in streams]
    for thread in threads:
        thread.start()
    seconds = []
    for _ in range(rounds + 1):
        start.wait()
        began = time.perf_counter()
        end.wait()
        seconds.append(time.perf_counter() - began)
    for thread in threads:
        thread.join()
    return min(seconds[1:])


def launches_of(device: torch.device, run: Callable[[], Any]) -> int | None:
    """How many kernels and copies ``run`` has the device do; None where that cannot be seen."""
    if device.type != "cuda":
        return None
    try:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            run()
            wait(device)
        kind = torch.autograd.DeviceType.CUDA
        return sum(event.device_type == kind for event in profile.events())
    except RuntimeError:
        return None


# --- two members on this one GPU


class WithDelays:
    """A transfer in which members' streams are held up at random, so that a missing wait shows as a wrong result."""

    def __init__(self, transfer: Transfer, seed: int) -> None:
        self._transfer = transfer
        self._random = random.Random(seed)

    def _hold_up(self) -> None:
        torch.cuda._sleep(self._random.choice((0, 0, 20_000, 200_000)))

    def send(self, rank: int, tensor: Tensor) -> SentTensor:
        self._hold_up()
        return self._transfer.send(rank, tensor * 1)  # a tensor made after the delay, and dropped right away

    def receive(self, rank: int, item: SentTensor) -> Tensor:
        received = self._transfer.receive(rank, item)
        self._hold_up()
        return received


def transfers(device: torch.device) -> dict[str, Transfer]:
    """The ways of an exchange that one GPU can try."""
    if device.type == "cpu":
        return {"by reference": ByReference()}
    pair = [device, device]
    found: dict[str, Transfer] = {
        "by reference, with events": DeviceTransfer(pair),
        "copied on side streams": DeviceTransfer(pair, always_copy=True),
        "through pinned memory": DeviceTransfer(pair, always_copy=True, through_host=True),
    }
    return found | {f"{name}, delayed": WithDelays(item, 1) for name, item in found.items()}


def together(model: Model, latent: tuple[int, ...], repeats: int) -> dict[str, Any]:
    """Differences of calls that two members make on one device, each on a stream of its own, to the whole call."""
    device = model.device
    inputs = Inputs(model, latent, 1)
    whole = model(inputs, slice(0, 1))
    wait(device)
    streams = [torch.cuda.Stream(device) for _ in range(2)] if device.type == "cuda" else []

    def context(rank: int) -> Any:
        return torch.cuda.stream(streams[rank]) if streams else nullcontext()

    def run(rank: int, options: dict[str, Any], control: Any) -> Tensor:
        return model(inputs, slice(0, 1), options=options)

    found: dict[str, Any] = {}
    for name, transfer in transfers(device).items():
        errors, same = [], 0
        members = [Member(device, model.network)] * 2
        with SplitCall(members, context, transfer) as split:
            for _ in range(repeats):
                with context(0):
                    results = split(run, [{}, {}], timeout=TIMEOUT)
                wait(device)
                errors += [_error(result, whole, inputs.x) for result in results]
                same += sum(torch.equal(result, results[0]) for result in results[1:])
        found[name] = {"largest": max(errors), "smallest": min(errors), "same_as_each_other": same, "calls": repeats}
    found["without an exchange"] = {"largest": _error(_unexchanged(model, inputs), whole, inputs.x)}
    found["the whole call again"] = {"largest": _error(model(inputs, slice(0, 1)), whole, inputs.x)}
    return found


def _unexchanged(model: Model, inputs: Inputs) -> Tensor:
    """What a member gets that takes its own keys for those of the other: the size of an error that counts."""
    share = Share(model, 2)
    hook(model.network, share.family)
    try:
        return share(inputs)
    finally:
        unhook(model.network)


def _error(found: Tensor, whole: Tensor, x: Tensor) -> float:
    """Relative to what the model predicts, x - denoised."""
    error = float((found - whole).double().norm() / (x - whole).double().norm())
    return error if math.isfinite(error) else math.inf


def correctness(device: torch.device, small: bool) -> dict[str, Any]:
    """Small models of three families, in single and in half precision."""
    shapes = {
        "Flux": (FLUX, {"hidden_size": 1024, "num_heads": 8, "depth": 3, "depth_single_blocks": 6}, (16, 64, 64)),
        "Wan": (WAN, {"dim": 1024, "ffn_dim": 4096, "num_heads": 8, "num_layers": 6}, (16, 5, 32, 32)),
        "Qwen-Image": (QWEN, {"num_layers": 6, "num_attention_heads": 8}, (16, 1, 64, 64)),
    }
    found: dict[str, Any] = {}
    for name, (architecture, smaller, latent) in shapes.items():
        for dtype in (torch.float32, torch.bfloat16):
            config = architecture.config | smaller
            with torch.inference_mode(False):
                model = Model(replace(architecture, config=config, dtype=dtype), small, device)
            latent = (*latent[:-2], 16, 16) if small else latent
            found[f"{name}, {str(dtype).removeprefix('torch.')}"] = together(model, latent, 2 if small else REPEATS)
    return found


def exchange_seconds(device: torch.device, rounds: int) -> dict[str, float]:
    """Of one exchange of two small tensors between two threads, while the device has nothing else to do."""
    found = {}
    for name, transfer in transfers(device).items():
        if name.endswith("delayed"):
            continue
        exchange = ThreadExchange([device, device], TIMEOUT, transfer=transfer)

        def work(rank: int, exchange: ThreadExchange = exchange) -> None:
            with torch.inference_mode():
                tensors = [torch.zeros(1, 8, 16, 64, device=device) for _ in range(2)]
                for _ in range(rounds):
                    exchange.all_gather(rank, tensors)

        other = threading.Thread(target=work, args=(1,))
        began = time.perf_counter()
        other.start()
        work(0)
        other.join()
        wait(device)
        found[name] = (time.perf_counter() - began) / rounds
    return found


def host_link(device: torch.device) -> dict[str, float]:
    """GB/s between pinned memory and the device, each way: what there is without peer access."""
    if device.type != "cuda":
        return {}
    pinned = torch.empty(2**28, dtype=torch.uint8, pin_memory=True)
    there = torch.empty(2**28, dtype=torch.uint8, device=device)

    def rate(target: Tensor, source: Tensor) -> float:
        seconds = min(seconds_of(device, lambda: target.copy_(source, non_blocking=True)) for _ in range(5))
        return source.numel() / seconds / 1e9

    return {"to the device": rate(there, pinned), "from the device": rate(pinned, there)}


# --- main


class Report:
    """What is known so far; written after each part, so that a run that is cut off leaves something."""

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        self._folder = folder
        self.content: dict[str, Any] = {
            "facts": facts,
            "cases": {},
            "together": {},
            "exchange_seconds": {},
            "host_link": {},
            "failures": [],
        }

    def section(self, what: str, run: Callable[[], None]) -> None:
        """A part whose failure is reported, and stops nothing else."""
        print(f"{time.perf_counter() - BEGAN:6.1f} s  {what}", flush=True)
        try:
            run()
        except Exception as error:
            traceback.print_exc()
            said = (str(error).strip().splitlines() or [""])[0].replace(str(REPO), ".")[:200]
            self.content["failures"].append(f"{what}: {type(error).__name__}: {said}")
        self.save()

    def save(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self.content["facts"]["seconds"] = round(time.perf_counter() - BEGAN, 1)
        content = json.loads(json.dumps(self.content))  # members' numbers are names there
        (self._folder / "token_split_gpu.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        text = "\n".join(report_lines(content)) + "\n"
        (self._folder / "token_split_gpu.md").write_text(text, encoding="utf-8")


def run_cases(report: Report, device: torch.device, small: bool, limit: float) -> None:
    """All cases, each model built once."""
    model: Model | None = None
    built: Architecture | None = None

    def left() -> float:
        return limit - (time.perf_counter() - BEGAN)

    for case in CASES:
        if left() < 0:
            report.content["failures"].append(f"{case.name}: left out, no time left")
            continue

        def run(case: Case = case) -> None:
            nonlocal model, built
            if built is not case.architecture:
                if model is not None:
                    unhook(model.network)
                model = built = None
                gc.collect()
                if device.type == "cuda":
                    torch.cuda.empty_cache()
                with torch.inference_mode(False):
                    model, built = Model(case.architecture, small, device), case.architecture
                family = find_family(model.network)
                assert family is not None
                hook(model.network, family)
            assert model is not None
            report.content["cases"][case.name] = measure(case, model, small, left)

        report.section(case.name, run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="tiny models, to check that all of it runs")
    parser.add_argument("--out", type=Path, help="folder for the results (default benchmarks/results; output/)")
    parser.add_argument("--limit", type=float, default=330.0, help="seconds after which no case begins (default 330)")
    parser.add_argument("--comfyui", type=Path, help="a ComfyUI that runs on this Python (default that of .host)")
    arguments = parser.parse_args()
    if not torch.cuda.is_available() and not arguments.small:
        print("NOT MEASURED: torch sees no CUDA device here. --small checks the code on the CPU.")
        return
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)
    facts = facts_of(device, arguments) | start_comfy(device, arguments.comfyui)
    facts["command"] = "python benchmarks/token_split_gpu.py" + (" --small" if arguments.small else "")
    folder = arguments.out or (REPO / "output" / "token-split-small" if arguments.small else RESULTS)
    report = Report(folder, facts)

    def check() -> None:
        report.content["together"] = correctness(device, arguments.small)

    def costs() -> None:
        report.content["exchange_seconds"] = exchange_seconds(device, 50 if arguments.small else 2000)
        report.content["host_link"] = host_link(device)

    with torch.inference_mode():
        report.section("two members on one device", check)
        report.section("what an exchange costs", costs)
        run_cases(report, device, arguments.small, arguments.limit)
    print((folder / "token_split_gpu.md").read_text(encoding="utf-8"))
    print(f"written to {folder}")


if __name__ == "__main__":
    main()
