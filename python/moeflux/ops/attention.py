"""Softmax attention over a key/value cache, and what prepares its queries and keys."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from moeflux._core import Encoder
from moeflux.ops.checks import check_length, check_multiple, check_nbytes, check_width
from moeflux.ops.operands import Activations, AttentionShape, KeyValueCache, Vector
from moeflux.quant import Dtype

_ATTENTION_PREPARE = struct.Struct("=IIIIIIf")
_ATTENTION = struct.Struct("=IIIIIf")
_ATTENTION_DECODE = struct.Struct("=IIIIIf")
_ATTENTION_MERGE = struct.Struct("=IIIII")


@dataclass(frozen=True)
class Projections:
    """Outputs of the projections: q [T, H * q_head_stride], k and v [T, Hkv * Dh]."""

    q: Activations
    k: Activations
    v: Activations


@dataclass(frozen=True)
class HeadNorms:
    """RMS norms of every query and key head, [Dh] each, and the rotary angles per position."""

    q: Vector
    k: Vector
    epsilon: float
    rope_frequencies: Vector  # float32 [rope_dim / 2]


def prepare(
    encoder: Encoder,
    shape: AttentionShape,
    projections: Projections,
    norms: HeadNorms,
    cache: KeyValueCache,
    q: Activations,
) -> None:
    """Normalise and rotate queries into q [T, H * Dh] and keys into the cache; append values.

    Keys and values go to the positions of the step; beyond the cache's context the command buffer
    fails. The first rope_dim values of a head are rotated in pairs (i, i + rope_dim / 2)
    (Su et al., RoFormer). Raises ValueError if the shapes do not fit or the norms differ in dtype.
    """
    kv_width = shape.n_kv_heads * shape.head_dim
    check_width("q projection", projections.q, shape.n_heads * shape.q_head_stride)
    check_width("k projection", projections.k, kv_width)
    check_width("v projection", projections.v, kv_width)
    check_length("q_norm", norms.q, shape.head_dim)
    check_length("k_norm", norms.k, shape.head_dim, norms.q.dtype)
    if shape.rope_dim % 2 or not 2 <= shape.rope_dim <= shape.head_dim:
        raise ValueError(
            f"rope_dim needs an even number from 2 to head_dim {shape.head_dim}, "
            f"got {shape.rope_dim}"
        )
    check_length("rope_frequencies", norms.rope_frequencies, shape.rope_dim // 2, Dtype.FLOAT32)
    check_width("q", q, shape.n_heads * shape.head_dim)
    _check_cache(shape, cache)
    pipeline = encoder.device.pipeline("attention_prepare", norm_dtype=int(norms.q.dtype))
    params = _ATTENTION_PREPARE.pack(
        shape.n_heads,
        shape.n_kv_heads,
        shape.head_dim,
        shape.rope_dim,
        shape.q_head_stride,
        cache.context,
        norms.epsilon,
    )
    buffers = [
        projections.q.buffer,
        projections.k.buffer,
        projections.v.buffer,
        norms.q.buffer,
        norms.k.buffer,
        norms.rope_frequencies.buffer,
        q.buffer,
        cache.k,
        cache.v,
    ]
    encoder.dispatch(pipeline, buffers, params)


def attention(
    encoder: Encoder,
    shape: AttentionShape,
    q: Activations,
    q_projection: Activations,
    cache: KeyValueCache,
    out: Activations,
) -> None:
    """Compute out[t] = softmax(q k / sqrt(Dh)) v over positions 0 .. position + t, per head.

    (Vaswani et al., Attention Is All You Need.) q, out: [T, H * Dh]; head h reads key/value head
    h // (H / Hkv). Where the shape has an output gate, out is multiplied by the sigmoid of the
    second half of every head of q_projection [T, H * 2 * Dh].
    Raises ValueError if the shapes do not fit.
    """
    check_multiple("n_heads", shape.n_heads, "n_kv_heads", shape.n_kv_heads)
    check_width("q", q, shape.n_heads * shape.head_dim)
    check_width("q projection", q_projection, shape.n_heads * shape.q_head_stride)
    check_width("out", out, shape.n_heads * shape.head_dim)
    _check_cache(shape, cache)
    pipeline = encoder.device.pipeline("attention", output_gate=int(shape.output_gate))
    params = _ATTENTION.pack(
        shape.n_heads,
        shape.n_kv_heads,
        shape.head_dim,
        shape.q_head_stride,
        cache.context,
        shape.head_dim**-0.5,
    )
    buffers = [q.buffer, cache.k, cache.v, q_projection.buffer, out.buffer]
    encoder.dispatch(pipeline, buffers, params)


def attention_decode(
    encoder: Encoder,
    shape: AttentionShape,
    q: Activations,
    cache: KeyValueCache,
    partials: Activations,
) -> None:
    """The first half of attention where tokens are few: many threads share the keys of each.

    partials [T, S * shape.partial_width] get what attention_merge needs of up to S splits of the
    keys (Dao et al., Flash-Decoding). Raises ValueError if the shapes do not fit.
    """
    check_multiple("n_heads", shape.n_heads, "n_kv_heads", shape.n_kv_heads)
    check_width("q", q, shape.n_heads * shape.head_dim)
    _check_cache(shape, cache)
    pipeline = encoder.device.pipeline("attention_decode")
    params = _ATTENTION_DECODE.pack(
        shape.n_heads,
        shape.n_kv_heads,
        shape.head_dim,
        cache.context,
        _n_splits(shape, partials),
        shape.head_dim**-0.5,
    )
    encoder.dispatch(pipeline, [q.buffer, cache.k, cache.v, partials.buffer], params)


def attention_merge(
    encoder: Encoder,
    shape: AttentionShape,
    partials: Activations,
    q_projection: Activations,
    out: Activations,
) -> None:
    """The second half: out [T, H * Dh] as of attention, from the splits of attention_decode.

    Raises ValueError if the shapes do not fit.
    """
    check_multiple("n_heads", shape.n_heads, "n_kv_heads", shape.n_kv_heads)
    check_width("q projection", q_projection, shape.n_heads * shape.q_head_stride)
    check_width("out", out, shape.n_heads * shape.head_dim)
    pipeline = encoder.device.pipeline("attention_merge", output_gate=int(shape.output_gate))
    params = _ATTENTION_MERGE.pack(
        shape.n_heads,
        shape.n_kv_heads,
        shape.head_dim,
        shape.q_head_stride,
        _n_splits(shape, partials),
    )
    encoder.dispatch(pipeline, [partials.buffer, q_projection.buffer, out.buffer], params)


def _n_splits(shape: AttentionShape, partials: Activations) -> int:
    check_multiple("width of partials", partials.width, "those of a split", shape.partial_width)
    return partials.width // shape.partial_width


def _check_cache(shape: AttentionShape, cache: KeyValueCache) -> None:
    nbytes = 4 * cache.context * shape.n_kv_heads * shape.head_dim
    check_nbytes("key cache", cache.k, nbytes)
    check_nbytes("value cache", cache.v, nbytes)
