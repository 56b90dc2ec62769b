"""The formulas of all kernels in NumPy float64, to hold devices against. Knows no device.

Shapes and letters as in shaders/params.h; heads have an axis of their own here. States go in and
come out.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

Float = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

EPSILON = 1e-6


def sigmoid(x: Float) -> Float:
    return 0.5 * (1 + np.tanh(0.5 * x))


def silu(x: Float) -> Float:
    return x * sigmoid(x)


def softmax(x: Float) -> Float:
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def rms_norm(x: Float, weight: Float) -> Float:
    """Over the last axis, which `weight` has too."""
    mean = np.einsum("...d,...d->...", x, x)[..., None] / x.shape[-1]
    return np.asarray(x * (mean + EPSILON) ** -0.5 * weight)


def gated_rms_norm(x: Float, z: Float, weight: Float) -> Float:
    """x, z: [T, H, Dh]."""
    return rms_norm(x, weight) * silu(z)


def gate_up(gate_proj: Float, up_proj: Float, x: Float) -> Float:
    return silu(x @ gate_proj.T) * (x @ up_proj.T)


def rotate(heads: Float, positions: Integers, frequencies: Float) -> Float:
    """Turn the pairs (i, i + n) of [T, H, Dh], n = len(frequencies), by position * frequency.

    The angle is a float32 product, as models are trained with.
    """
    n = len(frequencies)
    angles = np.multiply.outer(positions.astype(np.float32), frequencies.astype(np.float32))
    pairs = heads[..., :n] + 1j * heads[..., n : 2 * n]
    turned = pairs * np.exp(1j * angles.astype(np.float64))[:, None]
    return np.concatenate([turned.real, turned.imag, heads[..., 2 * n :]], axis=-1)


def attention(q: Float, k: Float, v: Float, position: int) -> Float:
    """Causal attention of q [T, H, Dh] over keys and values [context, Hkv, Dh]."""
    ratio = q.shape[1] // k.shape[1]
    scores = np.einsum("thd,shd->ths", q, np.repeat(k, ratio, axis=1)) * q.shape[-1] ** -0.5
    last = position + np.arange(len(q))
    scores[np.arange(len(k)) > last[:, None, None] + np.zeros_like(scores)] = -np.inf
    return np.asarray(np.einsum("ths,shd->thd", softmax(scores), np.repeat(v, ratio, axis=1)))


def attention_partials(q: Float, k: Float, v: Float, position: int, n_splits: int) -> Float:
    """What attention_decode gives, [T, Hkv, n_splits, H / Hkv, 2 + Dh].

    NaN where a split has no keys. A split has 128 keys or the fewest times 128 that suffice.
    """
    (n_tokens, n_heads, dim), n_kv_heads = q.shape, k.shape[1]
    heads = q.reshape(n_tokens, n_kv_heads, n_heads // n_kv_heads, dim)
    partials = np.full((n_tokens, n_kv_heads, n_splits, heads.shape[2], 2 + dim), np.nan)
    for t in range(n_tokens):
        n_keys = position + t + 1
        size = 128 * -(-n_keys // (128 * n_splits))
        for split, first in enumerate(range(0, n_keys, size)):
            keys, values = (x[first : min(first + size, n_keys)] for x in (k, v))
            scores = np.einsum("grd,sgd->grs", heads[t], keys) * dim**-0.5
            largest = scores.max(axis=-1, keepdims=True)
            weights = np.exp(scores - largest)
            sums = weights.sum(axis=-1, keepdims=True)
            weighted = np.einsum("grs,sgd->grd", weights, values)
            partials[t, :, split] = np.concatenate([largest, sums, weighted], axis=-1)
    return partials


def convolve(x: Float, weight: Float, state: Float) -> tuple[Float, Float]:
    """Causal convolution of each channel with weight [channels, kernel_size], then SiLU."""
    rows = np.concatenate([state, x])
    windows = sliding_window_view(rows, weight.shape[1], axis=0)
    return silu(np.einsum("tcj,cj->tc", windows, weight)), rows[len(x) :]


def decay_and_beta(a: Float, b: Float, a_log: Float, dt_bias: Float) -> tuple[Float, Float]:
    return np.exp(-np.exp(a_log) * np.log1p(np.exp(a + dt_bias))), sigmoid(b)


def delta_rule(
    q: Float, k: Float, v: Float, decay: Float, beta: Float, state: Float
) -> tuple[Float, Float]:
    """q, k: [T, n_key_heads, key_dim]; v: [T, n_value_heads, value_dim]; gives out and state."""
    ratio, out = v.shape[1] // q.shape[1], np.empty_like(v)
    q, k = (
        np.repeat(x * ((x * x).sum(axis=-1, keepdims=True) + EPSILON) ** -0.5, ratio, axis=1)
        for x in (q, k)
    )
    for t in range(len(v)):
        state = state * decay[t, :, None, None]
        wrong = beta[t, :, None] * (v[t] - np.einsum("hvk,hk->hv", state, k[t]))
        state = state + wrong[:, :, None] * k[t, :, None, :]
        out[t] = np.einsum("hvk,hk->hv", state, q[t]) * q.shape[-1] ** -0.5
    return out, state


def top_k(logits: Float, k: int, *, normalise: bool) -> tuple[Integers, Float]:
    """Experts and weights [T, K], best first."""
    experts = np.argsort(-logits, axis=-1, kind="stable")[:, :k]
    if normalise:
        return experts, softmax(np.take_along_axis(logits, experts, axis=-1))
    return experts, np.take_along_axis(softmax(logits), experts, axis=-1)


def combine(h: Float, routed: Float, weights: Float, shared: Float, shared_gate: Float) -> Float:
    """h, shared: [T, D]; routed: [T, K, D]; weights: [T, K]; shared_gate: [T, 1]."""
    return np.asarray(h + (weights[..., None] * routed).sum(axis=1) + sigmoid(shared_gate) * shared)
