"""One member's part in one call: what all families have in common.

A model call is a chain of blocks between an embedding and a head. Every member runs the host's own forward
function. Before its first block the adapter cuts the member's share out of the tokens. At each self-attention it puts
the keys and values of all members together, and after the last block all tokens. It does so by the host's own means:
block replacements (``patches_replace["dit"]``), the attention override, and, where these do not reach, hooks on the
blocks' modules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn

from .errors import CannotSplit
from .exchange import Exchange
from .shares import Layout, Segment, own_rows

BlockKey = tuple[str, int]
"""As in the host's ``patches_replace["dit"]``: the kind of block and its index."""

Arguments = dict[str, Any]

_BETWEEN_BLOCKS = ("double_block", "noise_refiner")  # other nodes' patches that run after a block


class Adapter:
    """One member's part in one call of a network.

    Args:
        exchange: shared by all members of the call.
        rank: the member's number.
        network: the member's own replica of the diffusion model; with CPU threads it can be the same for all.
        options: the call's ``transformer_options`` on the member's device. They are not changed.
        control: the residuals of ControlNets on the member's device, as the host gives them to the network, or None.
    """

    name: ClassVar[str]
    """The family's, for the user."""
    networks: ClassVar[tuple[str, ...]] = ()
    """The classes of the host that the adapter fits, by module and name; not their subclasses."""
    blocks: ClassVar[tuple[tuple[str, str], ...]] = ()
    """The kinds of blocks that the host lets others replace, each with its module list; in the order of the call."""
    hooked: ClassVar[tuple[str, ...]] = ()
    """Modules and module lists whose arguments the adapter changes by hooks."""
    head: ClassVar[str | None] = None
    """The module before which all tokens are put together, where the last block is not the place."""
    first_only: ClassVar[bool] = False
    """Only the first attention of a block is self-attention; the others have the prompt's keys."""
    watched: ClassVar[tuple[str, ...]] = ()
    """Attention modules of a block with the shared tokens' keys, where counting attentions is not enough."""
    residuals: ClassVar[Mapping[str, str]] = {}
    """By kind of block: the list in ``control`` that is added after it."""
    patches: ClassVar[frozenset[str]] = frozenset()
    """The kinds of other nodes' patches that this family's calls can have and be split."""

    def __init__(
        self,
        exchange: Exchange,
        rank: int,
        network: nn.Module,
        options: Mapping[str, Any] | None = None,
        control: Mapping[str, list[Tensor | None]] | None = None,
    ) -> None:
        self.exchange, self.rank, self.network = exchange, rank, network
        self.given, self._given_control = dict(options or {}), control
        self.control: Any = control
        if control is not None and self.residuals:
            self.control = {name: [] for name in ("input", "middle", "output")}  # filled when the layout is known
        self.layout = Layout((), exchange.members, rank)
        self.picture = 0
        self.active = False  # between the first block and where all tokens are put together
        self._inside = False  # within a block, or within a watched attention
        self._gathered: tuple[Tensor, list[Tensor]] | None = None  # the block's keys, and what they became
        self.keys = self._block_keys()

    def _block_keys(self) -> list[BlockKey]:
        """The blocks of the call that are replaced, in order."""
        return [(kind, index) for kind, name in self.blocks for index in range(len(getattr(self.network, name)))]

    @property
    def transformer_options(self) -> dict[str, Any]:
        """The options for this member's call: the given ones, with the adapter's around other nodes' patches."""
        options = dict(self.given)
        replaced = options.get("patches_replace", {})
        theirs = replaced.get("dit", {})
        if self.keys:
            ours = {key: partial(self._replace, key, theirs.get(key, _original)) for key in self.keys}
            options["patches_replace"] = {**replaced, "dit": {**theirs, **ours}}
        override = options.get("optimized_attention_override", _direct)
        options["optimized_attention_override"] = partial(self._attention, override)
        patches = options.get("patches", {})
        between = {name: [partial(self._patch, patch) for patch in patches.get(name, ())] for name in _BETWEEN_BLOCKS}
        options["patches"] = {**patches, **{name: wrapped for name, wrapped in between.items() if wrapped}}
        return options

    # --- what a family says

    def enter(self, kind: str, args: Arguments) -> Arguments:
        """The arguments of a replaced block for this member, from the host's. The first call has to `begin`."""
        raise NotImplementedError

    def leave(self, kind: str, output: Arguments) -> Arguments:
        """The output of the last replaced block, with all tokens put together."""
        return output

    def before(self, name: str, index: int, arguments: Arguments) -> Arguments:
        """As `enter`, for a hooked module."""
        return arguments

    def after(self, name: str, index: int, output: Any) -> Any:
        """As `leave`, for a hooked module."""
        return output

    def patched(self) -> Mapping[str, int]:
        """What a patch between blocks may read and change, each with its segment."""
        return {"img": self.picture}

    # --- shares

    def begin(self, segments: Sequence[Segment], picture: int | None = None) -> None:
        """From here on this member has its share of a sequence of these segments.

        Args:
            segments: in the order of the joint sequence.
            picture: the index of the picture's segment; the last one by default.

        Raises:
            CannotSplit: if the picture has fewer tokens than there are members.
        """
        self.picture = len(segments) - 1 if picture is None else picture
        members, tokens = self.exchange.members, segments[self.picture].tokens
        if tokens < members:
            raise CannotSplit(f"a picture of {tokens} tokens cannot be shared by {members} devices")
        first = not self.layout.segments
        self.layout, self.active = Layout.of(segments, members, self.rank, self.picture), True
        if first and self.residuals and self._given_control is not None:
            self._cut_residuals(self._given_control)

    def own(self, x: Tensor, dim: int = 1, segment: int | None = None) -> Tensor:
        """This member's share of one whole segment, the picture's by default."""
        return self.layout.own(x, dim, self.picture if segment is None else segment)

    def take(self, x: Tensor, segment: int | None = None) -> Tensor:
        """As `own`, for tokens [b, n, d] that go through the blocks. It is in one piece, as the whole is: with a batch,
        a linear layer rounds differently for a tensor with gaps."""
        return self.own(x, 1, segment).contiguous()

    def gather(self, x: Tensor, dim: int = 1, which: Sequence[int] | None = None) -> Tensor:
        """All tokens of the segments ``which`` (all by default), in their original order."""
        return self.gather_all([x], [dim], self.layout.all if which is None else which)[0]

    def gather_all(self, tensors: Sequence[Tensor], dims: Sequence[int], which: Sequence[int]) -> list[Tensor]:
        """As `gather`, for several tensors in one exchange. The first is sent first."""
        sent = [self.layout.sent(x, dim, which) for x, dim in zip(tensors, dims, strict=True)]
        received = self.exchange.all_gather(self.rank, sent)
        return [
            self.joined(x, [parts[number] for parts in received], dim, which)
            for number, (x, dim) in enumerate(zip(tensors, dims, strict=True))
        ]

    def joined(self, x: Tensor, sent: Sequence[Tensor], dim: int, which: Sequence[int]) -> Tensor:
        """What the members sent, in the original order; see `Layout.joined`."""
        return self.layout.joined(x, sent, dim, which)

    def _cut_residuals(self, control: Mapping[str, list[Tensor | None]]) -> None:
        """Give this member its share of each residual. After the last block all tokens are back, so its residual stays
        whole; one that is shorter than the picture (references follow it) ends within a share, or before it."""
        first, end = self.layout.bounds(self.picture)
        for kind, name in self.residuals.items():
            for index, residual in enumerate(control.get(name) or ()):
                whole = residual is None or (kind, index) == self.keys[-1]
                self.control[name].append(residual if whole or residual is None else residual[:, first:end])

    # --- blocks

    def _replace(self, key: BlockKey, theirs: Callable[..., Arguments], args: Arguments, extra: Arguments) -> Arguments:
        """Our replacement is the outermost: another node's (one that skips a layer, say) sees this member's share."""
        args = self.enter(key[0], dict(args))
        self._open(not self.watched)
        output = theirs(args, extra)
        self._open(False)
        if key == self.keys[-1]:
            output = self.leave(key[0], output)
            self.active = self.head is not None
        return output

    def _open(self, inside: bool) -> None:
        self._inside, self._gathered = inside, None

    def before_module(self, name: str, index: int, arguments: Arguments) -> Arguments:
        """What the hook before a module calls."""
        if "." in name:  # a watched attention
            self._open(self.active)
            return arguments
        if name == self.head:
            first = next(iter(arguments))
            arguments[first] = self.finish(arguments[first])
            return arguments
        arguments = self.before(name, index, arguments)
        if not self._replaces(name):
            self._open(True)
        return arguments

    def after_module(self, name: str, index: int, output: Any) -> Any:
        """What the hook behind a module calls."""
        if name == self.head:
            return output
        if "." in name or not self._replaces(name):
            self._open(False)
        return output if "." in name else self.after(name, index, output)

    def _replaces(self, name: str) -> bool:
        """Whether the blocks of a module list are replaced, so that `_replace` knows when a block begins."""
        return any(name == blocks for _, blocks in self.blocks)

    def finish(self, x: Tensor) -> Tensor:
        """All tokens for the head."""
        whole, self.active = self.gather(x), False
        return whole

    # --- other nodes' patches between blocks

    def _patch(self, theirs: Callable[[Arguments], Arguments], args: Arguments) -> Arguments:
        """Another node's patch between blocks sees all tokens. It may keep state, so member 0 alone runs it."""
        segments = {name: segment for name, segment in self.patched().items() if args.get(name) is not None}
        shared = {name: self.active and self.layout.segments[segment].shared for name, segment in segments.items()}
        whole = {name: args[name] for name in segments}
        whole |= {name: self.gather(args[name], which=[segments[name]]) for name in segments if shared[name]}
        changed = None
        if self.rank == 0:
            output = theirs({**args, **whole})
            changed = {name: output.get(name, whole[name]) for name in segments}
        found = self.exchange.broadcast(self.rank, changed)
        assert found is not None
        own = {name: self.take(found[name], segments[name]) for name in segments if shared[name]}
        return {**args, **found, **own}

    # --- attention

    def _attention(
        self, theirs: Callable[..., Tensor], function: Callable[..., Tensor], *args: Any, **kwargs: Any
    ) -> Tensor:
        """Attention of this member's queries to everybody's keys; ``args``: q, k, v, heads, then perhaps the mask."""
        dim = 2 if kwargs.get("skip_reshape") else 1
        k = args[1]
        which = self._segments_of(k.shape[dim])
        again = self._gathered is not None and self._gathered[0] is k
        if which is None or (self.first_only and self._gathered is not None and not again):
            return theirs(function, *args, **kwargs)
        mask = args[4] if len(args) > 4 else kwargs.get("mask")
        if self._gathered is None or not again:
            self._gathered = k, self._whole_keys(k, args[2], mask, dim, which)
        k, v, *masks = self._gathered[1]
        if mask is not None:
            mask = self._own_mask(masks[0] if masks else mask, args[0].shape[dim], which)
            if len(args) > 4:
                args = (*args[:4], mask, *args[5:])
            else:
                kwargs = {**kwargs, "mask": mask}
        return theirs(function, args[0], k, v, *args[3:], **kwargs)

    def _segments_of(self, keys: int) -> tuple[int, ...] | None:
        """The segments that so many local keys are of: all, or the picture alone (SD 3.5 medium); None: not shared."""
        if not self._inside:
            return None
        if keys == self.layout.local_tokens:
            return self.layout.all
        return (self.picture,) if keys == self.layout.lengths[self.picture] else None

    def _whole_keys(self, k: Tensor, v: Tensor, mask: Tensor | None, dim: int, which: Sequence[int]) -> list[Tensor]:
        """All members' keys and values, and the columns of a mask that the block made for its own tokens."""
        tensors, dims = [k, v], [dim, dim]
        if mask is not None and mask.shape[-1] == k.shape[dim] != self.layout.total(which):
            tensors, dims = [*tensors, mask], [*dims, mask.ndim - 1]
        return self.gather_all(tensors, dims, which)

    def _own_mask(self, mask: Tensor, queries: int, which: Sequence[int]) -> Tensor:
        """A mask with the rows of this member's queries."""
        rows = self.layout.total(which)
        own = mask.ndim > 1 and mask.shape[-2] == rows > 1 and queries != rows
        return own_rows(mask, self.layout) if own else mask


def _original(args: Arguments, extra: Arguments) -> Arguments:
    """Where no other node replaces a block."""
    output: Arguments = extra["original_block"](args)
    return output


def _direct(function: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    """Where no other node overrides attention."""
    return function(*args, **kwargs)
