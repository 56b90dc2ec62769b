"""The specification of every kernel, in NumPy float64, from the formulas. Knows nothing of devices.

Activations are [T, width]. Letters: T tokens, D hidden, H heads, Hkv key/value heads, Dh head dim,
K top_k, F expert FFN width. States are passed in and new ones are returned.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moeflux.quant import Dtype, MatrixFormat

Float = npt.NDArray[np.float64]
Any = npt.NDArray[np.generic]


# --- Element types ---------------------------------------------------------------------------


def encode(values: Any, dtype: Dtype) -> Any:
    """Values rounded to the nearest element of `dtype`, as stored: float32, float16 or uint16."""
    single = np.ascontiguousarray(values, dtype=np.float32)
    if dtype is Dtype.FLOAT32:
        return single
    if dtype is Dtype.FLOAT16:
        return single.astype(np.float16)
    bits = single.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def decode(elements: Any, dtype: Dtype) -> Float:
    """What stored elements mean."""
    if dtype is Dtype.BFLOAT16:
        return (elements.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return elements.astype(np.float64)


# --- Matrices --------------------------------------------------------------------------------


@dataclass(frozen=True)
class StoredMatrix:
    """A matrix as a checkpoint stores it; scales and biases are empty if it is unquantised."""

    rows: int
    cols: int
    format: MatrixFormat
    weight: bytes
    scales: bytes
    biases: bytes
    dense: Float  # [rows, cols], exactly what the bytes mean


def pack_codes(codes: Any, bits: int) -> bytes:
    """Codes as a little-endian bit stream, lowest bit of each code first."""
    lowest_first = np.unpackbits(codes.astype(np.uint8)[..., None], axis=-1, bitorder="little")
    return np.packbits(lowest_first[..., :bits].reshape(-1), bitorder="little").tobytes()


def store_matrix(dense: Any, form: MatrixFormat) -> StoredMatrix:
    """Round or quantise a matrix [rows, cols].

    Affine: per group of columns scale = (max - min) / (2^bits - 1), bias = min, both rounded to the
    format's dtype, code = round((w - bias) / scale), meaning code * scale + bias.
    """
    rows, cols = dense.shape
    if not form.quantised:
        elements = encode(dense, form.dtype)
        meaning = decode(elements, form.dtype)
        return StoredMatrix(rows, cols, form, elements.tobytes(), b"", b"", meaning)
    groups = np.asarray(dense, np.float64).reshape(rows, cols // form.group_size, form.group_size)
    most = 2**form.bits - 1
    smallest = groups.min(axis=-1)
    scales = encode((groups.max(axis=-1) - smallest) / most, form.dtype)
    biases = encode(smallest, form.dtype)
    scale, bias = decode(scales, form.dtype)[..., None], decode(biases, form.dtype)[..., None]
    codes = np.clip(np.rint((groups - bias) / np.where(scale == 0, 1, scale)), 0, most)
    return StoredMatrix(
        rows,
        cols,
        form,
        pack_codes(codes, form.bits),
        scales.tobytes(),
        biases.tobytes(),
        (codes * scale + bias).reshape(rows, cols),
    )


# --- Functions -------------------------------------------------------------------------------


def sigmoid(x: Float) -> Float:
    return 1 / (1 + np.exp(-x))


def silu(x: Float) -> Float:
    return x * sigmoid(x)


def softplus(x: Float) -> Float:
    return np.logaddexp(0, x)


def softmax(x: Float) -> Float:
    weights = np.exp(x - x.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


# --- Kernels ---------------------------------------------------------------------------------


def embedding(table: Float, tokens: Any) -> Float:
    return table[tokens]


def rms_norm(x: Float, weight: Float, epsilon: float) -> Float:
    """x / sqrt(mean(x^2) + epsilon) * weight over the last axis."""
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + epsilon) * weight


def gated_rms_norm(x: Float, z: Float, weight: Float, epsilon: float) -> Float:
    """Per head of len(weight) values: rms_norm(x) * silu(z)."""
    heads = x.reshape(len(x), -1, len(weight))
    return (rms_norm(heads, weight, epsilon) * silu(z.reshape(heads.shape))).reshape(x.shape)


def matmul(weight: Float, x: Float) -> Float:
    return x @ weight.T


def gate_up(gate_proj: Float, up_proj: Float, x: Float) -> Float:
    return silu(matmul(gate_proj, x)) * matmul(up_proj, x)


def rope(heads: Float, positions: Any, frequencies: Float) -> Float:
    """Rotate the pairs (i, i + n) of heads [T, H, Dh], i < n, by position * frequencies[i]."""
    n = len(frequencies)
    # Angles are float32 products, as in the models' reference implementation.
    angles = positions.astype(np.float32)[:, None] * frequencies.astype(np.float32)
    cos, sin = (
        np.cos(angles.astype(np.float64))[:, None],
        np.sin(angles.astype(np.float64))[:, None],
    )
    first, second, rest = heads[..., :n], heads[..., n : 2 * n], heads[..., 2 * n :]
    rotated = [first * cos - second * sin, second * cos + first * sin, rest]
    return np.concatenate(rotated, axis=-1)


@dataclass(frozen=True)
class Cache:
    """Keys and values [context, Hkv, Dh]."""

    k: Float
    v: Float


def attention_prepare(
    q_proj: Float,
    k_proj: Float,
    v_proj: Float,
    norms: tuple[Float, Float],
    frequencies: Float,
    cache: Cache,
    position: int,
    epsilon: float,
) -> tuple[Float, Cache]:
    """Queries [T, H, Dh] from q_proj [T, H, Dh or 2 Dh], and the cache with the new rows."""
    head_dim = cache.k.shape[-1]
    positions = np.arange(position, position + len(q_proj))
    q = rope(rms_norm(q_proj[..., :head_dim], norms[0], epsilon), positions, frequencies)
    k, v = cache.k.copy(), cache.v.copy()
    k[positions] = rope(rms_norm(k_proj, norms[1], epsilon), positions, frequencies)
    v[positions] = v_proj
    return q, Cache(k, v)


def attention(q: Float, cache: Cache, position: int, output_gate: Float | None) -> Float:
    """Causal attention of q [T, H, Dh], times sigmoid of the output gate [T, H, Dh] if any."""
    n_tokens, n_heads, head_dim = q.shape
    heads_per_kv_head = n_heads // cache.k.shape[1]
    out = np.empty_like(q)
    for t in range(n_tokens):
        n_keys = position + t + 1
        for h in range(n_heads):
            kv_head = h // heads_per_kv_head
            scores = cache.k[:n_keys, kv_head] @ q[t, h] / np.sqrt(head_dim)
            out[t, h] = softmax(scores) @ cache.v[:n_keys, kv_head]
    return out if output_gate is None else out * sigmoid(output_gate)


def split_projections(
    qkvz: Float, ba: Float, n_key_heads: int, n_value_heads: int, key_dim: int, value_dim: int
) -> tuple[Float, Float, Float, Float]:
    """Per key head: q, k, its v heads, its z heads; and its b, its a. Gives qkv, z, b, a."""
    n_tokens, ratio = len(qkvz), n_value_heads // n_key_heads
    values = ratio * value_dim
    parts = np.split(
        qkvz.reshape(n_tokens, n_key_heads, 2 * key_dim + 2 * values),
        [key_dim, 2 * key_dim, 2 * key_dim + values],
        axis=-1,
    )
    q, k, v, z = (part.reshape(n_tokens, -1) for part in parts)
    b, a = np.split(ba.reshape(n_tokens, n_key_heads, 2 * ratio), 2, axis=-1)
    return np.hstack([q, k, v]), z, b.reshape(n_tokens, -1), a.reshape(n_tokens, -1)


def convolve(x: Float, weight: Float, state: Float) -> tuple[Float, Float]:
    """Causal depthwise convolution with weight [channels, kernel_size], then SiLU.

    state: the kernel_size - 1 rows before x, oldest first. Gives the result and the new state.
    """
    kernel_size = weight.shape[1]
    rows = np.vstack([state, x])
    sums = sum(weight[:, j] * rows[j : j + len(x)] for j in range(kernel_size))
    return silu(np.asarray(sums)), rows[len(rows) - (kernel_size - 1) :]


def decay_and_beta(a: Float, b: Float, a_log: Float, dt_bias: Float) -> tuple[Float, Float]:
    """exp(-exp(a_log) softplus(a + dt_bias)) and sigmoid(b), each [T, n_value_heads]."""
    return np.exp(-np.exp(a_log) * softplus(a + dt_bias)), sigmoid(b)


def gated_delta_rule(
    q: Float, k: Float, v: Float, decay: Float, beta: Float, state: Float, epsilon: float
) -> tuple[Float, Float]:
    """S = decay S; S += beta (v - S k) k^T; out = S q, per value head and token.

    q, k: [T, n_key_heads, key_dim], normalised here; v: [T, n_value_heads, value_dim];
    decay, beta: [T, n_value_heads]; state: [n_value_heads, value_dim, key_dim].
    Gives out like v and the new state.
    """
    q = q / np.sqrt((q**2).sum(axis=-1, keepdims=True) + epsilon) / np.sqrt(q.shape[-1])
    k = k / np.sqrt((k**2).sum(axis=-1, keepdims=True) + epsilon)
    ratio = v.shape[1] // q.shape[1]
    state, out = state.copy(), np.empty_like(v)
    for t in range(len(v)):
        for h in range(v.shape[1]):
            key, query = k[t, h // ratio], q[t, h // ratio]
            state[h] *= decay[t, h]
            state[h] += beta[t, h] * np.outer(v[t, h] - state[h] @ key, key)
            out[t, h] = state[h] @ query
    return out, state


def router_top_k(logits: Float, top_k: int, *, normalise: bool) -> tuple[Any, Float]:
    """Experts and weights [T, K] of logits [T, E]: the largest of the softmax, ties by index."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True), dtype=np.float64)
    probabilities = shifted / shifted.sum(axis=-1, keepdims=True)
    experts = np.argsort(-probabilities, axis=-1, kind="stable")[:, :top_k]
    weights = np.take_along_axis(probabilities, experts, axis=-1)
    if normalise:
        weights = weights / weights.sum(axis=-1, keepdims=True)
    return experts, weights


def moe_combine(
    h: Float, expert_out: Float, weights: Float, shared: Float | None, shared_gate: Float | None
) -> Float:
    """h [T, D] + sum_k weights[t, k] expert_out[t, k] + sigmoid(shared_gate[t]) shared[t]."""
    out = h + np.einsum("tk,tkd->td", weights, expert_out)
    if shared is not None and shared_gate is not None:
        out = out + sigmoid(shared_gate) * shared
    return out
