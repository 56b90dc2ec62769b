"""The arithmetic of requantisation, against the formula and an independent packing of bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from moeflux.checkpoint.requantise import (
    decode_elements,
    decode_rows,
    encode_elements,
    encode_rows,
    pack_codes,
    split_rows,
    unpack_codes,
)
from moeflux.errors import CheckpointError
from moeflux.quant import AFFINE_BITS, GROUP_SIZES, Dtype, MatrixFormat
from stored_tensors import Float32, decode, encode, pack
from stored_tensors import dequantise as dequantise_stored

NAMES = {Dtype.BFLOAT16: "BF16", Dtype.FLOAT16: "F16", Dtype.FLOAT32: "F32"}
ROUNDOFF = {Dtype.BFLOAT16: 2.0**-8, Dtype.FLOAT16: 2.0**-11, Dtype.FLOAT32: 2.0**-24}
SMALLEST = {Dtype.BFLOAT16: 2.0**-133, Dtype.FLOAT16: 2.0**-24, Dtype.FLOAT32: 2.0**-149}


def random_rows(seed: int, rows: int, cols: int, scale: float = 1.0) -> Float32:
    normal = np.random.default_rng(seed).standard_normal((rows, cols), dtype=np.float32)
    return normal * np.float32(scale)


@pytest.mark.parametrize("bits", AFFINE_BITS)
def test_packed_codes_are_a_bit_stream_lowest_first(bits: int) -> None:
    codes = np.random.default_rng(bits).integers(0, 2**bits, 256).astype(np.uint8)
    packed = pack_codes(codes, bits)
    assert packed.tobytes() == pack(codes, bits).tobytes()
    np.testing.assert_array_equal(unpack_codes(packed.data, bits), codes)


@pytest.mark.parametrize("dtype", list(Dtype))
def test_elements_are_rounded_to_nearest_even(dtype: Dtype) -> None:
    values = random_rows(0, 1, 1000)[0]
    stored = encode(values, NAMES[dtype])
    encoded = encode_elements(values, dtype)
    assert bytes(encoded) == stored[1].tobytes()
    np.testing.assert_array_equal(decode_elements(encoded, dtype), decode(stored))


def stored_parts(
    parts: tuple[memoryview, ...], dtype: Dtype, rows: int
) -> dict[str, tuple[str, NDArray[np.generic]]]:
    kinds = {"weight": "<u4"} | dict.fromkeys(
        ("scales", "biases"), {"BF16": "<u2", "F16": "<f2", "F32": "<f4"}[NAMES[dtype]]
    )
    return {
        name: (
            NAMES[dtype] if name != "weight" else "U32",
            np.frombuffer(part, kind).reshape(rows, -1),
        )
        for (name, kind), part in zip(kinds.items(), parts, strict=True)
    }


@pytest.mark.parametrize("dtype", list(Dtype))
@pytest.mark.parametrize("group_size", GROUP_SIZES)
@pytest.mark.parametrize("bits", AFFINE_BITS)
def test_decoded_rows_are_code_times_scale_plus_bias(
    bits: int, group_size: int, dtype: Dtype
) -> None:
    matrix_format = MatrixFormat(dtype, bits, group_size)
    parts = encode_rows(random_rows(bits, 3, 256), matrix_format)
    expected = dequantise_stored(stored_parts(parts, dtype, 3), bits, group_size)
    np.testing.assert_array_equal(decode_rows(parts, matrix_format, 256), expected)


def error_bound(rows: Float32, matrix_format: MatrixFormat) -> Float32:
    """Half a step, and what rounding bias and scale moves the two ends of the range by."""
    groups = rows.reshape(-1, matrix_format.group_size).astype(np.float64)
    low, high = groups.min(-1, keepdims=True), groups.max(-1, keepdims=True)
    roundoff, smallest = ROUNDOFF[matrix_format.dtype], SMALLEST[matrix_format.dtype]
    largest_code = 2**matrix_format.bits - 1
    moved = roundoff * (abs(low) + high - low) + (largest_code + 1) * smallest
    half_step = (high - low) / largest_code * (1 + roundoff) / 2 + smallest
    return np.broadcast_to((half_step + moved) * (1 + 1e-5), groups.shape).reshape(rows.shape)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    exponent=st.integers(-12, 8),
    offset=st.floats(-4, 4),
    bits=st.sampled_from(AFFINE_BITS),
    group_size=st.sampled_from(GROUP_SIZES),
    dtype=st.sampled_from(list(Dtype)),
)
def test_no_weight_is_off_by_more_than_half_a_step_and_the_rounding_of_the_ends(
    seed: int, exponent: int, offset: float, bits: int, group_size: int, dtype: Dtype
) -> None:
    rows = (random_rows(seed, 4, 256) + np.float32(offset)) * np.float32(2.0**exponent)
    matrix_format = MatrixFormat(dtype, bits, group_size)
    decoded = decode_rows(encode_rows(rows, matrix_format), matrix_format, 256)
    error = abs(decoded.astype(np.float64) - rows)
    assert (error <= error_bound(rows, matrix_format)).all()


@pytest.mark.parametrize("bits", AFFINE_BITS)
def test_weights_that_are_codes_already_stay_as_they_are(bits: int) -> None:
    matrix_format = MatrixFormat(Dtype.FLOAT32, bits, 64)
    generator = np.random.default_rng(bits)
    codes = generator.integers(0, 2**bits, (4, 2, 64)).astype(np.float32)
    codes[..., 0], codes[..., 1] = 0, 2**bits - 1
    rows = (codes * np.float32(0.125) - np.float32(0.75)).reshape(4, 128)
    once = decode_rows(encode_rows(rows, matrix_format), matrix_format, 128)
    np.testing.assert_array_equal(once, rows)


def test_equal_weights_have_scale_zero_and_the_weight_as_bias() -> None:
    matrix_format = MatrixFormat(Dtype.BFLOAT16, 4, 64)
    codes, scales, biases = encode_rows(np.full((1, 64), 0.375, np.float32), matrix_format)
    assert not any(codes)
    assert decode_elements(scales, Dtype.BFLOAT16).tolist() == [0.0]
    assert decode_elements(biases, Dtype.BFLOAT16).tolist() == [0.375]


@pytest.mark.parametrize("weight", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(weight: float) -> None:
    rows = random_rows(0, 2, 64)
    rows[1, 5] = weight
    with pytest.raises(CheckpointError, match="not finite"):
        encode_rows(rows, MatrixFormat(Dtype.BFLOAT16, 4, 64))


def test_weights_too_far_apart_for_their_element_type_are_refused() -> None:
    rows = np.zeros((1, 64), np.float32)
    rows[0, :2] = -3e38, 3e38
    with pytest.raises(CheckpointError, match="too far apart"):
        encode_rows(rows, MatrixFormat(Dtype.FLOAT32, 4, 64))


@pytest.mark.parametrize("n_rows", [1, 3, 7, 100])
def test_rows_encoded_in_pieces_are_those_encoded_at_once(n_rows: int) -> None:
    source, target = MatrixFormat(Dtype.BFLOAT16, 5, 32), MatrixFormat(Dtype.BFLOAT16, 3, 64)
    parts = encode_rows(random_rows(1, 7, 128), source)
    whole = encode_rows(decode_rows(parts, source, 128), target)
    pieces = [
        encode_rows(decode_rows(piece, source, 128), target)
        for piece in split_rows(parts, source, 128, n_rows)
    ]
    for index, part in enumerate(whole):
        assert b"".join(piece[index] for piece in pieces) == bytes(part)
