"""How a tensor of one member reaches another one's device: by reference, from device to device, or through the host.

Nothing here waits for a device. The order of the work is kept by events: a copy begins after the sender's kernels that
make the tensor, and the receiver's next kernels begin after the copy. A copy runs on streams of its own, beside the
computations of both devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class SentTensor:
    """A tensor on its way. ``ready``: the event after which it can be read; None where the host's order is enough."""

    tensor: Tensor
    sender: int
    ready: Any = None
    on_host: Tensor | None = None
    on_host_ready: Any = None


class Transfer(Protocol):
    """Carries tensors between members. `send` and `receive` are called in the thread of the member they name."""

    def send(self, rank: int, tensor: Tensor) -> SentTensor:
        """Prepare a tensor for all others. It must not be changed afterwards."""

    def receive(self, rank: int, item: SentTensor) -> Tensor:
        """The tensor on the device of member ``rank``, for reading, in the order of its current stream."""


class ByReference:
    """Members in one memory, such as a CPU's: the tensor itself is handed over."""

    def send(self, rank: int, tensor: Tensor) -> SentTensor:
        return SentTensor(tensor, rank)

    def receive(self, rank: int, item: SentTensor) -> Tensor:
        return item.tensor


class DeviceTransfer:
    """Members on accelerators of one type (CUDA, ROCm, XPU).

    Between two devices with peer access a tensor is copied directly. Without it the sender copies it into pinned
    memory once, and each receiver copies it from there. Members on one device read the sender's tensor itself.

    The caching allocator may use a tensor's memory again as soon as the stream that made it is past its end, so
    whatever is read on another stream is recorded there (`Tensor.record_stream`).

    Args:
        devices: by rank; all of one type.
        always_copy: copy also between members on one device, as if they were on two. For tests on one GPU.
        through_host: copy through pinned memory also where there is peer access. For tests.
    """

    def __init__(
        self, devices: Sequence[torch.device], *, always_copy: bool = False, through_host: bool = False
    ) -> None:
        self._devices = list(devices)
        self._module = torch.get_device_module(devices[0].type)
        self._always_copy = always_copy
        self._streams: dict[tuple[int, torch.device], Any] = {}
        self._direct = {
            (source, target): source == target or (not through_host and self._has_peer_access(source, target))
            for source in set(devices)
            for target in set(devices)
        }
        if through_host and always_copy:
            self._direct = dict.fromkeys(self._direct, False)

    def _has_peer_access(self, source: torch.device, target: torch.device) -> bool:
        ask = getattr(self._module, "can_device_access_peer", None)
        return ask is not None and bool(ask(target, source))

    def _stream(self, rank: int, device: torch.device) -> Any:
        """The copy stream of a member on a device; used by that member's thread only."""
        found = self._streams.get((rank, device))
        if found is None:
            found = self._streams[rank, device] = self._module.Stream(device)
        return found

    def _event(self, stream: Any) -> Any:
        event = self._module.Event()
        event.record(stream)
        return event

    def _copies(self, source: int, target: int) -> bool:
        return source != target and (self._always_copy or self._devices[source] != self._devices[target])

    def send(self, rank: int, tensor: Tensor) -> SentTensor:
        device = self._devices[rank]
        tensor = tensor.contiguous()  # here, once: a copy of a strided tensor would make a temporary one a receiver
        ready = self._event(self._module.current_stream(device))
        through_host = any(
            self._copies(rank, other) and not self._direct[device, self._devices[other]]
            for other in range(len(self._devices))
        )
        if not through_host:
            return SentTensor(tensor, rank, ready)
        stream = self._stream(rank, device)
        on_host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        with self._module.stream(stream):
            stream.wait_event(ready)
            on_host.copy_(tensor, non_blocking=True)
            tensor.record_stream(stream)
        return SentTensor(tensor, rank, ready, on_host, self._event(stream))

    def receive(self, rank: int, item: SentTensor) -> Tensor:
        if item.sender == rank:
            return item.tensor
        source, device = self._devices[item.sender], self._devices[rank]
        current = self._module.current_stream(device)
        if not self._copies(item.sender, rank):
            current.wait_event(item.ready)
            item.tensor.record_stream(current)
            return item.tensor
        stream = self._stream(rank, device)
        if self._direct[source, device]:
            copy = self._copied_directly(item, self._stream(rank, source), stream)
        else:
            copy = self._copied_from_host(item, stream)
        done = self._event(stream)
        copy.record_stream(current)
        current.wait_event(done)
        return copy

    def _copied_directly(self, item: SentTensor, at_source: Any, at_target: Any) -> Tensor:
        """PyTorch copies on the source device's current stream, and has the target's current stream wait for it."""
        with self._module.stream(at_source), self._module.stream(at_target):
            at_source.wait_event(item.ready)
            if at_source.device == at_target.device:
                at_target.wait_event(item.ready)
            copy = torch.empty_like(item.tensor, device=at_target.device)
            copy.copy_(item.tensor, non_blocking=True)
            item.tensor.record_stream(at_source)
        return copy

    def _copied_from_host(self, item: SentTensor, stream: Any) -> Tensor:
        with self._module.stream(stream):
            assert item.on_host is not None
            stream.wait_event(item.on_host_ready)
            copy = torch.empty_like(item.tensor, device=stream.device)
            copy.copy_(item.on_host, non_blocking=True)
        return copy


def transfer_between(devices: Sequence[torch.device]) -> Transfer:
    """The transfer for members on these devices.

    Raises:
        ValueError: if they are of several types. The message is the reason, for the user.
    """
    types = {device.type for device in devices}
    if len(types) > 1:
        raise ValueError(f"one call cannot be shared by devices of several types ({', '.join(sorted(types))})")
    if types == {"cpu"}:
        return ByReference()
    return DeviceTransfer(devices)
