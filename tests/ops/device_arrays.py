"""Arrays on a device, and what runs ops over them chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from moeflux._core import Buffer, CommandBuffer, Device, Step
from moeflux.ops.operands import Activations, Matrix, Vector
from moeflux.quant import Dtype
from reference import StoredMatrix, encode

Single = npt.NDArray[np.float32]


def random_array(seed: int, *shape: int) -> Single:
    """Normally distributed float32."""
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def upload(device: Device, data: bytes, *, misalignment: int = 0) -> Buffer:
    """A copy of the bytes that starts `misalignment` bytes after an aligned address."""
    return device.upload(bytes(misalignment) + data).view(misalignment, len(data))


def activations(device: Device, array: npt.NDArray[np.generic]) -> Activations:
    """Rows along the first axis."""
    single = np.ascontiguousarray(array, np.float32)
    return Activations(device.upload(single.tobytes()), single[0].size)


def empty_activations(device: Device, rows: int, width: int) -> Activations:
    """Rows of NaN, so that a value that no kernel writes is seen."""
    return activations(device, np.full((rows, width), np.nan))


def vector(
    device: Device, array: npt.NDArray[np.generic], dtype: Dtype, misalignment: int = 0
) -> Vector:
    data = encode(array, dtype).tobytes()
    return Vector(upload(device, data, misalignment=misalignment), array.size, dtype)


def matrix(device: Device, stored: StoredMatrix, *, misalignment: int = 0) -> Matrix:
    parts = [
        upload(device, part, misalignment=misalignment) if part else None
        for part in (stored.weight, stored.scales, stored.biases)
    ]
    assert parts[0] is not None
    return Matrix(stored.rows, stored.cols, stored.format, parts[0], parts[1], parts[2])


def host_array(device: Device, array: npt.NDArray[np.generic]) -> Buffer:
    buffer = device.buffer(array.nbytes, host=True)
    np.frombuffer(buffer, array.dtype)[:] = array.reshape(-1)
    return buffer


def read(device: Device, buffer: Buffer) -> Single:
    return np.frombuffer(device.download(buffer), np.float32)


def read_rows(device: Device, rows: Activations) -> Single:
    return read(device, rows.buffer).reshape(rows.capacity, rows.width)


class Prompt(int):
    """A chunk of so many tokens that is part of a prompt."""


def run(
    device: Device,
    chunks: Sequence[int],
    encode_chunk: Callable[[CommandBuffer, int, int], None],
    position: int = 0,
) -> None:
    """Run encode_chunk(encoder, first token, n_tokens) for consecutive chunks of tokens.

    A chunk is a Prompt or else tokens to be decoded.
    """
    queue, first = device.queue(), 0
    for n_tokens in chunks:
        command_buffer = queue.command_buffer(
            Step(position + first, n_tokens, prefill=isinstance(n_tokens, Prompt))
        )
        encode_chunk(command_buffer, first, n_tokens)
        command_buffer.commit()
        command_buffer.wait()
        first += n_tokens
