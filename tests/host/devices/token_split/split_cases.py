"""Small networks of the host's classes, calls of them, and the comparison of a split call with the whole one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from token_split import Family, Member, SplitCall
from torch import Tensor, nn

REPO = Path(__file__).resolve().parents[4]
CPU = torch.device("cpu")
TIMEOUT = 60.0  # seconds; longer than any test takes on a busy machine
ROUNDING = 1e-5  # relative, in single precision; some processors sum in another order where there are fewer rows
SHOWS = 2e-4  # relative; an error that counts is above it, another order of sums in single precision is at 1e-6
_generator = torch.Generator().manual_seed(1)

Call = Callable[[nn.Module, dict[str, Any], Any], Tensor]
"""``call(network, transformer_options, control)``"""


def rand(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=_generator)


def network_of(
    kind: type[nn.Module], dtype: torch.dtype = torch.float32, without: Sequence[str] = (), **config: Any
) -> nn.Module:
    """A network of the host with every weight random: matrices by their fan-in, scales near 1, all else near 0.

    ``without``: large parts of it that a call does not need.
    """
    import comfy.ops

    with torch.inference_mode(False):
        network = kind(**config, operations=comfy.ops.disable_weight_init, device="cpu", dtype=dtype)
        for name in without:
            delattr(network, name)
        generator = torch.Generator().manual_seed(0)
        saved = set(network.state_dict())
        tensors = [*network.named_parameters(), *(item for item in network.named_buffers() if item[0] in saved)]
        with torch.no_grad():
            for name, weight in tensors:
                if weight.is_floating_point() and weight.numel():
                    _fill(name, weight, generator)
        return network.eval().requires_grad_(False)


def _fill(name: str, weight: Tensor, generator: torch.Generator) -> None:
    noise = torch.randn(weight.shape, generator=generator)
    if weight.ndim > 1:
        weight.copy_(noise * (0.7 / max(weight[0].numel(), 1) ** 0.5))
    else:
        is_scale = "norm" in name.lower() and name.endswith("weight")
        weight.copy_(noise * 0.1 + (1.0 if is_scale else 0.0))


def residuals(count: int, shape: Sequence[int], missing: Sequence[int] = ()) -> list[Tensor | None]:
    """What a ControlNet adds after ``count`` blocks."""
    return [None if index in missing else rand(*shape) * 0.3 for index in range(count)]


@dataclass
class Case:
    """A call that is made whole and split. ``exchanges``: how often the members have to meet.

    ``options``: makes the call's ``transformer_options``; anew for each call, as other nodes' patches can keep state.
    """

    network: nn.Module
    call: Call
    exchanges: int
    options: Callable[[], dict[str, Any]] = dict
    control: Mapping[str, list[Tensor | None]] | None = None
    family: Family | None = None
    found: int = field(default=0, init=False)

    def whole(self) -> Tensor:
        return self.call(self.network, self.options(), self.control)

    def split(self, members: int) -> list[Tensor]:
        """All members' results."""
        options = self.options()

        def run(rank: int, options: dict[str, Any], control: Any) -> Tensor:
            return self.call(self.network, options, control)

        with SplitCall([Member(CPU, self.network)] * members, family=self.family) as split:
            results = split(run, [options] * members, [self.control] * members, timeout=TIMEOUT)
            self.found = split.exchanges
        return results


def assert_same(case: Case, members: Sequence[int] = (2, 3)) -> None:
    """Every member's result is the whole call's apart from rounding, and the members met as often as they had to."""
    whole = case.whole()
    assert whole.isfinite().all() and whole.float().std() > 0.1
    for count in members:
        for rank, result in enumerate(case.split(count)):
            assert is_same(result, whole), f"member {rank} of {count}: off by {difference(result, whole):.1e}"
        assert case.found == case.exchanges, f"{case.found} exchanges of {count} members"


def is_same(found: Tensor, wanted: Tensor) -> bool:
    """Whether a result of a split call is that of the whole one, apart from rounding."""
    limit = max(ROUNDING, 4 * torch.finfo(wanted.dtype).eps)
    same_kind = (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    return same_kind and difference(found, wanted) < limit


def difference(found: Tensor, wanted: Tensor) -> float:
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())


def largest_difference(case: Case, members: int = 2) -> float:
    """Of any member's result to the whole call's."""
    whole = case.whole()
    return max(difference(result, whole) for result in case.split(members))


def without_exchange(family: Family) -> Family:
    """The family, but each member takes its own keys for those of the others: what a lost exchange looks like."""

    class Alone(family):  # type: ignore[misc, valid-type]
        def joined(self, x: Tensor, sent: Sequence[Tensor], dim: int, which: Sequence[int]) -> Tensor:
            if self._inside:
                sent = [_stretched(sent[self.rank], part, dim) for part in sent]
            whole: Tensor = super().joined(x, sent, dim, which)
            return whole

    return Alone


def _stretched(own: Tensor, other: Tensor, dim: int) -> Tensor:
    """The own tokens, as many as the other's."""
    wanted = other.shape[dim]
    return torch.cat([own, own], dim).narrow(dim, 0, wanted)


def skip(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """Another node's block replacement that leaves the block out."""
    return args


def replacing(key: tuple[str, int], replacement: Callable[..., Any]) -> Callable[[], dict[str, Any]]:
    return lambda: {"patches_replace": {"dit": {key: replacement}}}


class Stateful:
    """A patch between blocks that works in place on the first tokens, mixes all of them, and keeps state."""

    def __init__(self, tokens: int) -> None:
        self._tokens, self._calls = tokens, 0

    def __call__(self, args: dict[str, Any]) -> dict[str, Any]:
        self._calls += 1
        img = args["img"]
        assert img.shape[1] == self._tokens
        first = img[:, :60]
        first += first.flip(1) * 0.2 + img.mean((1, 2), keepdim=True) + 0.01 * self._calls
        return args
