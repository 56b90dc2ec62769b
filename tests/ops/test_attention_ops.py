"""The ops of attention against the formulas."""

from __future__ import annotations

import numpy as np
import pytest
from device_arrays import random_array
from runs import AttentionInputs, AttentionOutputs, run_attention

import reference
from moeflux._core import Device
from moeflux.errors import DeviceError
from moeflux.ops.operands import AttentionShape
from moeflux.quant import Dtype
from reference import Cache, decode, encode
from tolerance import assert_close


def attention_inputs(
    shape: AttentionShape, n_tokens: int, position: int, dtype: Dtype = Dtype.FLOAT32
) -> AttentionInputs:
    """Random inputs; the cache holds `position` positions and room for a few more than n_tokens."""
    cache_shape = position + n_tokens + 3, shape.n_kv_heads, shape.head_dim
    return AttentionInputs(
        shape,
        q_proj=random_array(0, n_tokens, shape.n_heads, shape.q_head_stride),
        k_proj=random_array(1, n_tokens, shape.n_kv_heads, shape.head_dim),
        v_proj=random_array(2, n_tokens, shape.n_kv_heads, shape.head_dim),
        norms=(random_array(3, shape.head_dim), random_array(4, shape.head_dim)),
        frequencies=(10000.0 ** -np.linspace(0, 1, shape.rope_dim // 2)).astype(np.float32),
        k_cache=random_array(5, *cache_shape),
        v_cache=random_array(6, *cache_shape),
        position=position,
        norm_dtype=dtype,
    )


def assert_attention(inputs: AttentionInputs, outputs: AttentionOutputs) -> None:
    shape = inputs.shape
    queries = outputs.q.reshape(len(outputs.q), shape.n_heads, shape.head_dim).astype(np.float64)
    cache = Cache(outputs.k_cache.astype(np.float64), outputs.v_cache.astype(np.float64))
    output_gate = inputs.q_proj[..., shape.head_dim :] if shape.output_gate else None
    wanted = reference.attention(queries, cache, inputs.position, output_gate)
    assert_close(outputs.out, wanted.reshape(len(outputs.q), -1))


SHAPES = {
    "one head": AttentionShape(1, 1, 8, 8, output_gate=False),
    "odd": AttentionShape(6, 2, 20, 6, output_gate=True),
    "two rotated values": AttentionShape(3, 3, 5, 2, output_gate=False),
    "many heads per key head": AttentionShape(22, 2, 48, 16, output_gate=True),
    "qwen3": AttentionShape(16, 2, 256, 64, output_gate=True),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize(
    ("n_tokens", "position"), [(1, 0), (1, 127), (1, 128), (3, 126), (5, 300), (17, 0), (40, 120)]
)
def test_attention(device: Device, shape: AttentionShape, n_tokens: int, position: int) -> None:
    inputs = attention_inputs(shape, n_tokens, position)
    outputs = run_attention(device, inputs, [n_tokens])
    assert_attention(inputs, outputs)


# A split is 128 keys, or twice that where 128 are too few for them all, or three times ...
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize(
    ("n_tokens", "position", "n_splits"),
    [(1, 0, 1), (1, 127, 4), (1, 128, 4), (3, 126, 2), (2, 511, 4), (1, 800, 3), (4, 300, 1)],
)
def test_attention_in_splits(
    device: Device, shape: AttentionShape, n_tokens: int, position: int, n_splits: int
) -> None:
    inputs = attention_inputs(shape, n_tokens, position)
    assert_attention(inputs, run_attention(device, inputs, [n_tokens], n_splits))


@pytest.mark.parametrize("dtype", Dtype)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_attention_prepare(device: Device, shape: AttentionShape, dtype: Dtype) -> None:
    n_tokens, position = 4, 9
    inputs = attention_inputs(shape, n_tokens, position, dtype)
    outputs = run_attention(device, inputs, [n_tokens])
    q, cache = reference.attention_prepare(
        inputs.q_proj.astype(np.float64),
        inputs.k_proj.astype(np.float64),
        inputs.v_proj.astype(np.float64),
        (
            decode(encode(inputs.norms[0], dtype), dtype),
            decode(encode(inputs.norms[1], dtype), dtype),
        ),
        inputs.frequencies.astype(np.float64),
        Cache(inputs.k_cache.astype(np.float64), inputs.v_cache.astype(np.float64)),
        position,
        1e-6,
    )
    assert_close(outputs.q, q.reshape(n_tokens, -1), dtype)
    assert_close(outputs.k_cache, cache.k, dtype)
    assert np.array_equal(outputs.v_cache, cache.v.astype(np.float32))


def test_rotation_at_a_far_position(device: Device) -> None:
    """The angle is a float32 product, as the models were trained with."""
    shape = AttentionShape(1, 1, 8, 8, output_gate=False)
    inputs = attention_inputs(shape, 1, 30011)
    outputs = run_attention(device, inputs, [1])
    normed = reference.rms_norm(inputs.q_proj.astype(np.float64), inputs.norms[0], 1e-6)
    wanted = reference.rope(normed, np.array([30011]), inputs.frequencies)
    assert_close(outputs.q, wanted.reshape(1, -1))


@pytest.mark.parametrize("n_splits", [0, 2])
def test_attention_to_one_dominant_key_does_not_overflow(device: Device, n_splits: int) -> None:
    inputs = attention_inputs(AttentionShape(1, 1, 4, 2, output_gate=False), 1, 200)
    inputs.k_cache[:] *= 1e4
    assert_attention(inputs, run_attention(device, inputs, [1], n_splits))


@pytest.mark.parametrize("n_splits", [0, 2])
def test_positions_beyond_the_cache_fail_the_command_buffer(device: Device, n_splits: int) -> None:
    inputs = attention_inputs(SHAPES["odd"], 4, 0)
    with pytest.raises(DeviceError, match=r"4 tokens at position 5 .* 7 positions"):
        run_attention(device, AttentionInputs(**{**vars(inputs), "position": 5}), [4], n_splits)
