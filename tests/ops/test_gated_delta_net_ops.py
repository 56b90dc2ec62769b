"""The kernels of the gated delta net against the formulas."""

from __future__ import annotations

import numpy as np
import pytest
from device_arrays import random_array
from runs import RecurrenceInputs, run_convolve, run_decay, run_recurrence, run_split

import reference
from moeflux._core import Device
from moeflux.ops.operands import DeltaNetShape
from moeflux.quant import Dtype
from reference import decode, encode
from tolerance import assert_close

SHAPES = {
    "smallest": DeltaNetShape(1, 1, 1, 1, 4),
    "odd": DeltaNetShape(3, 6, 7, 5, 4),
    "one value head per key head": DeltaNetShape(4, 4, 16, 24, 4),
    "qwen3": DeltaNetShape(4, 8, 128, 128, 4),
}
by_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())


def recurrence_inputs(shape: DeltaNetShape, n_tokens: int) -> RecurrenceInputs:
    uniform = np.random.default_rng(7).uniform
    heads = n_tokens, shape.n_value_heads
    return RecurrenceInputs(
        shape,
        qkv=random_array(0, n_tokens, shape.channels),
        decay=uniform(0.5, 1, heads).astype(np.float32),
        beta=uniform(0, 1, heads).astype(np.float32),
        state=random_array(1, shape.n_value_heads, shape.value_dim, shape.key_dim),
    )


@by_shape
@pytest.mark.parametrize("n_tokens", [1, 6])
def test_split(device: Device, shape: DeltaNetShape, n_tokens: int) -> None:
    qkvz = random_array(0, n_tokens, shape.channels + shape.value_width)
    ba = random_array(1, n_tokens, 2 * shape.n_value_heads)
    heads = shape.n_key_heads, shape.n_value_heads, shape.key_dim, shape.value_dim
    wanted = reference.split_projections(qkvz, ba, *heads)
    for got, part in zip(run_split(device, shape, qkvz, ba, [n_tokens]), wanted, strict=True):
        assert np.array_equal(got, part)


@pytest.mark.parametrize("dtype", Dtype)
@pytest.mark.parametrize("kernel_size", [2, 4, 11])
@pytest.mark.parametrize(("n_tokens", "channels"), [(1, 1), (2, 19), (7, 600)])
def test_convolution(
    device: Device, dtype: Dtype, kernel_size: int, n_tokens: int, channels: int
) -> None:
    x, weight = random_array(0, n_tokens, channels), random_array(1, channels, kernel_size)
    state = random_array(2, kernel_size - 1, channels)
    out, new_state = run_convolve(device, x, weight, dtype, state, [n_tokens])
    meaning = decode(encode(weight, dtype), dtype)
    wanted, wanted_state = reference.convolve(x.astype(np.float64), meaning, state)
    assert_close(out, wanted, dtype)
    assert np.array_equal(new_state, wanted_state.astype(np.float32))


@pytest.mark.parametrize("a_log_dtype", Dtype)
@pytest.mark.parametrize("dt_bias_dtype", Dtype)
def test_decay_and_beta(device: Device, a_log_dtype: Dtype, dt_bias_dtype: Dtype) -> None:
    a, b = 3 * random_array(0, 9, 37), 3 * random_array(1, 9, 37)
    weights = random_array(2, 37), random_array(3, 37)
    got = run_decay(device, a, b, weights, (a_log_dtype, dt_bias_dtype), [9])
    a_log = decode(encode(weights[0], a_log_dtype), a_log_dtype)
    dt_bias = decode(encode(weights[1], dt_bias_dtype), dt_bias_dtype)
    decay, beta = reference.decay_and_beta(
        a.astype(np.float64), b.astype(np.float64), a_log, dt_bias
    )
    assert_close(got[0], decay)
    assert_close(got[1], beta)


def test_decay_of_large_inputs_neither_overflows_nor_loses_small_rates(device: Device) -> None:
    a = np.array([[-100.0, -20.0, 0.0, 20.0, 100.0]], np.float32)
    zeros = np.zeros(5, np.float32)
    dtypes = Dtype.FLOAT32, Dtype.FLOAT32
    decay, beta = run_decay(device, a, a, (zeros, zeros), dtypes, [1])
    wanted, wanted_beta = reference.decay_and_beta(
        a.astype(np.float64), a.astype(np.float64), zeros, zeros
    )
    assert_close(decay, wanted)
    assert_close(beta, wanted_beta)


@by_shape
@pytest.mark.parametrize("n_tokens", [1, 2, 9])
def test_recurrence(device: Device, shape: DeltaNetShape, n_tokens: int) -> None:
    inputs = recurrence_inputs(shape, n_tokens)
    out, state = run_recurrence(device, inputs, [n_tokens])
    q, k, v = np.split(
        inputs.qkv.astype(np.float64), [shape.key_width, 2 * shape.key_width], axis=-1
    )
    wanted, wanted_state = reference.gated_delta_rule(
        q.reshape(n_tokens, shape.n_key_heads, shape.key_dim),
        k.reshape(n_tokens, shape.n_key_heads, shape.key_dim),
        v.reshape(n_tokens, shape.n_value_heads, shape.value_dim),
        inputs.decay.astype(np.float64),
        inputs.beta.astype(np.float64),
        inputs.state.astype(np.float64),
        1e-6,
    )
    assert_close(out, wanted.reshape(n_tokens, -1))
    assert_close(state, wanted_state)
