"""Messages to and from the child process: a header and bytes, and nothing that can run code."""

from __future__ import annotations

import io
import json
import pickle
import struct

import pytest
import torch

from chords_core.execution.ray.messages import (
    Malformed,
    decode,
    encode,
    line,
    read,
    tensor_data,
    tensor_from,
    tensor_header,
)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("shape", [(2, 3, 4), (1,), (), (0, 3)])
def test_a_tensor_arrives_unchanged(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).mul(9).to(dtype)
    for sent in (x, x.mT) if x.ndim > 1 else (x,):
        header, data = decode(encode(tensor_header(sent), tensor_data(sent)))
        found = tensor_from(header, data)
        assert found.dtype == dtype and found.shape == sent.shape and torch.equal(found, sent)
        found.zero_()
        assert not data or any(data)  # its memory was its own


def test_messages_follow_each_other_in_a_stream() -> None:
    sent = [({"op": "one"}, b""), ({"name": "\N{SNOWMAN}\ud800"}, b"data"), ({}, bytes(3_000_000))]
    stream = io.BytesIO(b"".join(encode(*message) for message in sent))
    assert [read(stream) for _ in sent] == sent
    assert read(stream) is None


def test_a_stream_that_ends_within_a_message_has_no_more() -> None:
    message = encode({"op": "one"}, b"data")
    for length in range(len(message)):
        assert read(io.BytesIO(message[:length])) is None


class Bomb:
    """Fails the test if it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return pytest.fail, ("unpickled",)


MALFORMED = {
    "a pickle": pickle.dumps(Bomb()),
    "a pickle for a header": struct.pack("<IQ", len(pickle.dumps(Bomb())), 0) + pickle.dumps(Bomb()),
    "a list for a header": struct.pack("<IQ", 2, 0) + b"[]",
    "a deep header": struct.pack("<IQ", 100_000, 0) + b"[" * 100_000,
    "a huge header": struct.pack("<IQ", 2**32 - 1, 0),
    "huge data": struct.pack("<IQ", 2, 2**63) + b"{}",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_bytes_that_are_not_a_message_are_refused(name: str) -> None:
    with pytest.raises(Malformed):
        decode(MALFORMED[name])
    with pytest.raises(Malformed):
        assert read(io.BytesIO(MALFORMED[name]), max_data=1000) is None
        raise Malformed("the stream ended first")


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"dtype": "float32"},
        {"dtype": "float32", "shape": [3]},
        {"dtype": "float32", "shape": [-1, -2]},
        {"dtype": "float32", "shape": [2.0]},
        {"dtype": "float32", "shape": [True, 2]},
        {"dtype": "float32", "shape": "2"},
        {"dtype": "float64", "shape": [2]},
        {"dtype": "nn", "shape": [2]},
        {"dtype": "os", "shape": [2]},
        {"dtype": ["float32"], "shape": [2]},
    ],
)
def test_a_header_that_is_not_a_tensors_is_refused(header: dict[str, object]) -> None:
    with pytest.raises(Malformed):
        tensor_from(json.loads(json.dumps(header)), bytes(8))


def test_a_text_from_another_machine_becomes_one_short_printable_line() -> None:
    assert line("\n one\x1b[31m\x00 \ntwo") == "one[31m "
    assert len(line("x" * 100_000)) < 600
    assert line(None) == "None" and line("") == ""
