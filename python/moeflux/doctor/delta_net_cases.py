"""Cases of the kernels of the gated delta net."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from moeflux._core import CommandBuffer, Device
from moeflux.doctor import reference
from moeflux.doctor.arrays import Array, DeviceArrays, Tokens
from moeflux.doctor.cases import Case
from moeflux.doctor.stored import random_rows, random_vector
from moeflux.ops import gated_delta_net
from moeflux.ops.operands import DeltaNetShape
from moeflux.quant import Dtype

DELTA_NET_TOKENS = (Tokens(1), Tokens(3), Tokens(67, prefill=True))
DELTA_NET_SHAPES = (DeltaNetShape(3, 6, 7, 5, 4), DeltaNetShape(2, 4, 128, 128, 4))


def gated_delta_net_split_cases() -> Iterator[Case]:
    for shape in DELTA_NET_SHAPES:
        for tokens in DELTA_NET_TOKENS:
            yield _split_case(shape, tokens)


def _split_case(shape: DeltaNetShape, tokens: Tokens) -> Case:
    n, n_heads = tokens.count, shape.n_key_heads
    ratio = shape.n_value_heads // n_heads
    widths = [shape.key_dim, shape.key_dim, ratio * shape.value_dim, ratio * shape.value_dim]
    q, k, v, z = (random_rows(i, n, n_heads, width) for i, width in enumerate(widths))
    b, a = (random_rows(seed, n, n_heads, ratio) for seed in (5, 6))
    qkvz, ba = np.concatenate([q, k, v, z], axis=-1), np.concatenate([b, a], axis=-1)

    def run(device: Device) -> list[Array]:
        arrays = DeviceArrays(device)
        fused, fused_ba = arrays.rows(qkvz), arrays.rows(ba)
        widths = shape.channels, shape.value_width, shape.n_value_heads, shape.n_value_heads
        parts = [arrays.unwritten(n, width) for width in widths]
        projected = gated_delta_net.Projected(*parts)

        def encode(encoder: CommandBuffer) -> None:
            gated_delta_net.split(encoder, shape, fused, fused_ba, projected)

        arrays.run(tokens, encode)
        return [arrays.read(part) for part in parts]

    qkv = np.concatenate([part.reshape(n, -1) for part in (q, k, v)], axis=-1)
    return Case(_delta_net_detail(shape, tokens), run, [qkv, z, b, a])


def gated_delta_net_conv_cases() -> Iterator[Case]:
    for dtype, kernel_size, channels in zip(Dtype, (2, 4, 7), (19, 600, 64), strict=True):
        for tokens in DELTA_NET_TOKENS:
            yield _convolution_case(dtype, kernel_size, channels, tokens)


def _convolution_case(dtype: Dtype, kernel_size: int, channels: int, tokens: Tokens) -> Case:
    x, state = random_rows(1, tokens.count, channels), random_rows(2, kernel_size - 1, channels)
    weight = random_vector(3, channels * kernel_size, dtype)

    def run(device: Device) -> list[Array]:
        arrays = DeviceArrays(device)
        rows, taps, history = arrays.rows(x), arrays.vector(weight), arrays.floats(state)
        out = arrays.unwritten(*x.shape)

        def encode(encoder: CommandBuffer) -> None:
            gated_delta_net.convolve(encoder, rows, taps, history, out)

        arrays.run(tokens, encode)
        return [arrays.read(out), arrays.read(history)]

    wanted = reference.convolve(x, weight.values.reshape(channels, kernel_size), state)
    detail = f"{dtype.name.lower()}, {kernel_size} taps, {channels} channels, {tokens}"
    return Case(detail, run, wanted)


def gated_delta_net_decay_cases() -> Iterator[Case]:
    for a_log_dtype in Dtype:
        for dt_bias_dtype in Dtype:
            yield _decay_case(a_log_dtype, dt_bias_dtype)


def _decay_case(a_log_dtype: Dtype, dt_bias_dtype: Dtype) -> Case:
    tokens, n_heads = Tokens(5), 37
    a, b = (3 * random_rows(seed, tokens.count, n_heads) for seed in (1, 2))
    a_log = random_vector(3, n_heads, a_log_dtype)
    dt_bias = random_vector(4, n_heads, dt_bias_dtype)

    def run(device: Device) -> list[Array]:
        arrays = DeviceArrays(device)
        a_rows, b_rows = arrays.rows(a), arrays.rows(b)
        projected = gated_delta_net.Projected(a_rows, a_rows, b_rows, a_rows)
        weights = gated_delta_net.DecayWeights(arrays.vector(a_log), arrays.vector(dt_bias))
        decay, beta = (arrays.unwritten(*a.shape) for _ in range(2))

        def encode(encoder: CommandBuffer) -> None:
            gated_delta_net.decay(encoder, projected, weights, decay, beta)

        arrays.run(tokens, encode)
        return [arrays.read(decay), arrays.read(beta)]

    wanted = reference.decay_and_beta(a, b, a_log.values, dt_bias.values)
    return Case(f"{a_log_dtype.name.lower()} and {dt_bias_dtype.name.lower()}", run, wanted)


def gated_delta_net_cases() -> Iterator[Case]:
    for shape in DELTA_NET_SHAPES:
        for tokens in DELTA_NET_TOKENS:
            yield _recurrence_case(shape, tokens)


def _recurrence_case(shape: DeltaNetShape, tokens: Tokens) -> Case:
    qkv = random_rows(1, tokens.count, shape.channels)
    decay, beta = (
        reference.sigmoid(offset + random_rows(seed, tokens.count, shape.n_value_heads))
        for seed, offset in ((2, 2.0), (3, 0.0))
    )
    decay, beta = (array.astype(np.float32).astype(np.float64) for array in (decay, beta))
    state = random_rows(4, shape.n_value_heads, shape.value_dim, shape.key_dim)

    def run(device: Device) -> list[Array]:
        arrays = DeviceArrays(device)
        inputs = gated_delta_net.DeltaRuleInputs(*map(arrays.rows, (qkv, decay, beta)))
        held, out = arrays.floats(state), arrays.unwritten(tokens.count, shape.value_width)

        def encode(encoder: CommandBuffer) -> None:
            gated_delta_net.recurrence(encoder, shape, inputs, held, out)

        arrays.run(tokens, encode)
        return [arrays.read(out), arrays.read(held)]

    q, k, v = np.split(qkv, [shape.key_width, 2 * shape.key_width], axis=-1)
    wanted = reference.delta_rule(
        q.reshape(tokens.count, shape.n_key_heads, shape.key_dim),
        k.reshape(tokens.count, shape.n_key_heads, shape.key_dim),
        v.reshape(tokens.count, shape.n_value_heads, shape.value_dim),
        decay,
        beta,
        state,
    )
    return Case(_delta_net_detail(shape, tokens), run, wanted)


def _delta_net_detail(shape: DeltaNetShape, tokens: Tokens) -> str:
    heads = f"{shape.n_key_heads}/{shape.n_value_heads} heads"
    return f"{heads} of {shape.key_dim} and {shape.value_dim}, {tokens}"
