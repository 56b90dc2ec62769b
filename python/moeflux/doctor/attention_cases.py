"""Cases of the kernels of attention."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from moeflux._core import CommandBuffer, Device
from moeflux.doctor import reference
from moeflux.doctor.arrays import Array, DeviceArrays, Tokens
from moeflux.doctor.cases import Case
from moeflux.doctor.stored import random_rows, random_vector
from moeflux.ops import attention
from moeflux.ops.operands import AttentionShape, KeyValueCache
from moeflux.quant import Dtype

ATTENTION_TOKENS = (
    Tokens(1),
    Tokens(1, position=130),
    Tokens(3, position=126),
    Tokens(35, position=64, prefill=True),
)
ATTENTION_SHAPES = (
    AttentionShape(6, 2, 20, 6, output_gate=True),
    AttentionShape(4, 4, 64, 64, output_gate=False),
    AttentionShape(16, 2, 256, 64, output_gate=True),
)
DECODE_TOKENS = ((Tokens(1), 4), (Tokens(1, position=700), 4), (Tokens(3, position=254), 2))
"""With splits of their keys at most."""


def attention_prepare_cases() -> Iterator[Case]:
    for shape, dtype in zip(ATTENTION_SHAPES, Dtype, strict=True):
        for tokens in ATTENTION_TOKENS:
            yield _attention_prepare_case(shape, dtype, tokens)


def _attention_prepare_case(shape: AttentionShape, dtype: Dtype, tokens: Tokens) -> Case:
    n, dim = tokens.count, shape.head_dim
    q_proj = random_rows(1, n, shape.n_heads, shape.q_head_stride)
    k_proj, v_proj = (random_rows(seed, n, shape.n_kv_heads, dim) for seed in (2, 3))
    norms = [random_vector(seed, dim, dtype) for seed in (4, 5)]
    frequencies = random_vector(6, shape.rope_dim // 2, Dtype.FLOAT32, 0.1)
    context = tokens.position + n + 3
    k_cache, v_cache = (random_rows(seed, context, shape.n_kv_heads, dim) for seed in (7, 8))

    def run(device: Device) -> list[Array]:
        arrays = DeviceArrays(device)
        inputs = attention.Projections(*map(arrays.rows, (q_proj, k_proj, v_proj)))
        q_norm, k_norm, angles = map(arrays.vector, (*norms, frequencies))
        head_norms = attention.HeadNorms(q_norm, k_norm, reference.EPSILON, angles)
        cache = KeyValueCache(arrays.floats(k_cache), arrays.floats(v_cache), context)
        q = arrays.unwritten(n, shape.n_heads * dim)

        def encode(encoder: CommandBuffer) -> None:
            attention.prepare(encoder, shape, inputs, head_norms, cache, q)

        arrays.run(tokens, encode)
        return [arrays.read(q), arrays.read(cache.k), arrays.read(cache.v)]

    new = tokens.position + np.arange(n)
    normed = (
        reference.rms_norm(heads, weight.values)
        for heads, weight in zip((q_proj[..., :dim], k_proj), norms, strict=True)
    )
    q, k = (reference.rotate(heads, new, frequencies.values) for heads in normed)
    wanted_k, wanted_v = k_cache.copy(), v_cache.copy()
    wanted_k[new], wanted_v[new] = k, v_proj
    return Case(_attention_detail(shape, tokens), run, [q, wanted_k, wanted_v])


def attention_cases() -> Iterator[Case]:
    for shape in ATTENTION_SHAPES:
        for tokens in ATTENTION_TOKENS:
            yield _attention_case(shape, tokens)


def _attention_case(shape: AttentionShape, tokens: Tokens) -> Case:
    n, dim = tokens.count, shape.head_dim
    context = tokens.position + n + 3
    q, q_proj = (
        random_rows(seed, n, shape.n_heads, width)
        for seed, width in ((1, dim), (2, shape.q_head_stride))
    )
    k, v = (random_rows(seed, context, shape.n_kv_heads, dim) for seed in (3, 4))

    def run(device: Device) -> list[Array]:
        arrays = DeviceArrays(device)
        queries, projected = arrays.rows(q), arrays.rows(q_proj)
        cache = KeyValueCache(arrays.floats(k), arrays.floats(v), context)
        out = arrays.unwritten(n, queries.width)

        def encode(encoder: CommandBuffer) -> None:
            attention.attention(encoder, shape, queries, projected, cache, out)

        arrays.run(tokens, encode)
        return [arrays.read(out)]

    wanted = reference.attention(q, k, v, tokens.position)
    if shape.output_gate:
        wanted = wanted * reference.sigmoid(q_proj[..., dim:])
    return Case(_attention_detail(shape, tokens), run, [wanted])


def attention_decode_cases() -> Iterator[Case]:
    for shape in ATTENTION_SHAPES:
        for tokens, n_splits in DECODE_TOKENS:
            yield _decode_case(shape, tokens, n_splits)


def _decode_case(shape: AttentionShape, tokens: Tokens, n_splits: int) -> Case:
    n, dim = tokens.count, shape.head_dim
    context = tokens.position + n + 3
    q = random_rows(1, n, shape.n_heads, dim)
    k, v = (random_rows(seed, context, shape.n_kv_heads, dim) for seed in (2, 3))
    wanted = reference.attention_partials(q, k, v, tokens.position, n_splits)
    used = np.isfinite(wanted)

    def run(device: Device) -> list[Array]:
        arrays = DeviceArrays(device)
        queries = arrays.rows(q)
        cache = KeyValueCache(arrays.floats(k), arrays.floats(v), context)
        partials = arrays.unwritten(n, n_splits * shape.partial_width)

        def encode(encoder: CommandBuffer) -> None:
            attention.attention_decode(encoder, shape, queries, cache, partials)

        arrays.run(tokens, encode)
        return [arrays.read(partials).reshape(used.shape)[used]]

    return Case(_splits_detail(shape, tokens, n_splits), run, [wanted[used]])


def attention_merge_cases() -> Iterator[Case]:
    for shape in ATTENTION_SHAPES:
        for tokens, n_splits in DECODE_TOKENS:
            yield _merge_case(shape, tokens, n_splits)


def _merge_case(shape: AttentionShape, tokens: Tokens, n_splits: int) -> Case:
    n, dim = tokens.count, shape.head_dim
    q, q_proj = (
        random_rows(seed, n, shape.n_heads, width)
        for seed, width in ((1, dim), (2, shape.q_head_stride))
    )
    context = tokens.position + n
    k, v = (random_rows(seed, context, shape.n_kv_heads, dim) for seed in (3, 4))
    given = reference.attention_partials(q, k, v, tokens.position, n_splits)

    def run(device: Device) -> list[Array]:
        arrays = DeviceArrays(device)
        partials, projected = arrays.rows(given), arrays.rows(q_proj)
        out = arrays.unwritten(n, shape.n_heads * dim)

        def encode(encoder: CommandBuffer) -> None:
            attention.attention_merge(encoder, shape, partials, projected, out)

        arrays.run(tokens, encode)
        return [arrays.read(out)]

    wanted = reference.attention(q, k, v, tokens.position)
    if shape.output_gate:
        wanted = wanted * reference.sigmoid(q_proj[..., dim:])
    return Case(_splits_detail(shape, tokens, n_splits), run, [wanted])


def _splits_detail(shape: AttentionShape, tokens: Tokens, n_splits: int) -> str:
    return f"{_attention_detail(shape, tokens)}, {n_splits} splits"


def _attention_detail(shape: AttentionShape, tokens: Tokens) -> str:
    heads = f"{shape.n_heads}/{shape.n_kv_heads} heads of {shape.head_dim}"
    return f"{heads}, {tokens} from position {tokens.position}"
