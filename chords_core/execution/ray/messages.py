"""Messages between this process, the child process that uses Ray, and the actors: a JSON header and raw bytes.

No part of a message is unpickled, so a message cannot run code. A tensor is sent as its bytes, and the receiver knows
which dtype and shape it must have. Ray sends this module by value, together with `actor`. So the module imports only
the standard library; functions import torch.
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from torch import Tensor

Header = dict[str, Any]

_SIZES = "<IQ"  # bytes of the header, bytes of the data; as text, because a Struct cannot be pickled
_SIZES_BYTES = struct.calcsize(_SIZES)
_MAX_HEADER = 1 << 20  # bytes
_MAX_LINE = 500  # characters


class Malformed(ValueError):
    """Bytes that are no message, or not the expected message."""


def encode(header: Header, data: bytes = b"") -> bytes:
    """One message."""
    text = json.dumps(header).encode()
    return b"".join((struct.pack(_SIZES, len(text), len(data)), text, data))


def decode(message: bytes) -> tuple[Header, bytes]:
    """The header and the data of a message.

    Raises:
        Malformed: if it is not a message.
    """
    if len(message) < _SIZES_BYTES:
        raise Malformed("a message that is too short")
    head, data = _sizes(message[:_SIZES_BYTES], len(message))
    if len(message) != _SIZES_BYTES + head + data:
        raise Malformed("a message of another length than its header says")
    return _header(message[_SIZES_BYTES : _SIZES_BYTES + head]), message[_SIZES_BYTES + head :]


def read(stream: BinaryIO, max_data: int | None = None) -> tuple[Header, bytes] | None:
    """The next message of a stream, or None at its end. ``max_data``: bytes of data that are accepted.

    Raises:
        Malformed: if it is not a message, or too large.
    """
    sizes = _exactly(stream, _SIZES_BYTES)
    if sizes is None:
        return None
    head, data = _sizes(sizes, max_data)
    text, body = _exactly(stream, head), _exactly(stream, data)
    return None if text is None or body is None else (_header(text), body)


def tensor_header(x: Tensor) -> Header:
    """The dtype and the shape of a tensor."""
    return {"dtype": str(x.dtype).removeprefix("torch."), "shape": list(x.shape)}


def tensor_data(x: Tensor) -> bytes:
    """The bytes of a tensor of any device, dtype and shape."""
    import torch

    flat = x.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()


def tensor_from(header: Header, data: bytes) -> Tensor:
    """The tensor of `tensor_header` and `tensor_data`, on the CPU, with memory of its own.

    Raises:
        Malformed: if the header has no dtype and shape, or the data has another size.
    """
    import torch

    name, shape = header.get("dtype"), header.get("shape")
    dtype = getattr(torch, name, None) if isinstance(name, str) else None
    if not isinstance(dtype, torch.dtype) or not isinstance(shape, list):
        raise Malformed("a tensor without dtype and shape")
    size = dtype.itemsize
    for length in shape:
        if type(length) is not int or length < 0:
            raise Malformed("a tensor whose shape is not valid")
        size *= length
    if size != len(data):
        raise Malformed("a tensor of another size than its header says")
    if size == 0:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(data), dtype=dtype).reshape(shape)


def line(text: object) -> str:
    """The first line of a text from another machine, for a message: only printable characters, and not too long."""
    lines = str(text).strip().splitlines()
    shown = "".join(letter for letter in lines[0] if letter.isprintable()) if lines else ""
    return shown if len(shown) <= _MAX_LINE else shown[:_MAX_LINE] + "..."


def _sizes(packed: bytes, max_data: int | None) -> tuple[int, int]:
    head, data = struct.unpack(_SIZES, packed)
    if head > _MAX_HEADER or (max_data is not None and data > max_data):
        raise Malformed("a message that is larger than expected")
    return head, data


def _header(text: bytes) -> Header:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Malformed("a message whose header is not JSON") from error
    if not isinstance(header, dict):
        raise Malformed("a message without a header")
    return header


def _exactly(stream: BinaryIO, size: int) -> bytes | None:
    """The next ``size`` bytes, or None if the stream ends before."""
    parts, left = [], size
    while left:
        part = stream.read(min(left, 1 << 20))  # in parts, so that no memory is reserved for bytes that never come
        if not part:
            return None
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
