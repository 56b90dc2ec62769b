"""Full attention with rotary positions, per-head norms and an optional output gate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moeflux._core import Device, Encoder
from moeflux.blocks.workspace import Workspace
from moeflux.ops import attention as ops
from moeflux.ops.matmul import matmul
from moeflux.ops.operands import Activations, AttentionShape, KeyValueCache, Matrix, Vector

KEY_SPLITS = 32
"""Of the keys of a decode step, at most: enough for the cores of a large GPU."""


def rope_frequencies(device: Device, rope_dim: int, theta: float) -> Vector:
    """theta^(-2i / rope_dim) for i < rope_dim / 2, in float32 (Su et al., RoFormer)."""
    exponents = np.arange(0, rope_dim, 2, dtype=np.float32) / np.float32(rope_dim)
    frequencies = np.float32(1.0) / np.power(np.float32(theta), exponents)
    return Vector(device.upload(frequencies.astype(np.float32)), rope_dim // 2)


@dataclass(frozen=True)
class FullAttention:
    """out = o_proj(attention(q, k, v)), times sigmoid of the output gate if q_proj holds one."""

    shape: AttentionShape
    q_proj: Matrix  # [H * q_head_stride, D]
    k_proj: Matrix  # [Hkv * Dh, D]
    v_proj: Matrix  # [Hkv * Dh, D]
    o_proj: Matrix  # [D, H * Dh]
    norms: ops.HeadNorms

    def new_state(self, device: Device, context: int) -> KeyValueCache:
        """An empty cache for `context` positions."""
        nbytes = self.state_nbytes(context) // 2
        return KeyValueCache(device.buffer(nbytes), device.buffer(nbytes), context)

    def state_nbytes(self, context: int) -> int:
        return 2 * 4 * context * self.shape.n_kv_heads * self.shape.head_dim

    def encode(
        self,
        encoder: Encoder,
        cache: KeyValueCache,
        x: Activations,
        h: Activations,
        work: Workspace,
    ) -> None:
        """h [T, D] += attention of x [T, D]; appends keys and values at the step's position."""
        q_proj = work.rows("q_proj", self.q_proj.rows)
        k_proj = work.rows("k_proj", self.k_proj.rows)
        v_proj = work.rows("v_proj", self.v_proj.rows)
        q = work.rows("q", self.o_proj.cols)
        out = work.rows("attention", self.o_proj.cols)
        matmul(encoder, self.q_proj, x, q_proj)
        matmul(encoder, self.k_proj, x, k_proj)
        matmul(encoder, self.v_proj, x, v_proj)
        projections = ops.Projections(q_proj, k_proj, v_proj)
        ops.prepare(encoder, self.shape, projections, self.norms, cache, q)
        if work.capacity == 1:
            partials = work.rows("attention partials", KEY_SPLITS * self.shape.partial_width)
            ops.attention_decode(encoder, self.shape, q, cache, partials)
            ops.attention_merge(encoder, self.shape, partials, q_proj, out)
        else:
            ops.attention(encoder, self.shape, q, q_proj, cache, out)
        matmul(encoder, self.o_proj, out, h, accumulate=True)
