"""Gated delta net: linear attention with a decaying matrix state.

Formulas: Yang et al., Gated Delta Networks.
"""

from __future__ import annotations

from dataclasses import dataclass

from moeflux._core import Buffer, Device, Encoder
from moeflux.blocks.workspace import Workspace
from moeflux.ops import gated_delta_net as ops
from moeflux.ops.matmul import matmul
from moeflux.ops.norm import gated_rms_norm
from moeflux.ops.operands import Activations, DeltaNetShape, Matrix, Vector


@dataclass(frozen=True)
class SeparateProjections:
    """in_proj_qkv (all q, all k, all v), in_proj_z, in_proj_b, in_proj_a."""

    qkv: Matrix
    z: Matrix
    b: Matrix
    a: Matrix

    def encode(
        self, encoder: Encoder, shape: DeltaNetShape, x: Activations, work: Workspace
    ) -> ops.Projected:
        projected = _projected(shape, work)
        matmul(encoder, self.qkv, x, projected.qkv)
        matmul(encoder, self.z, x, projected.z)
        matmul(encoder, self.b, x, projected.b)
        matmul(encoder, self.a, x, projected.a)
        return projected


@dataclass(frozen=True)
class FusedProjections:
    """in_proj_qkvz and in_proj_ba, interleaved per key head."""

    qkvz: Matrix
    ba: Matrix

    def encode(
        self, encoder: Encoder, shape: DeltaNetShape, x: Activations, work: Workspace
    ) -> ops.Projected:
        projected = _projected(shape, work)
        qkvz = work.rows("qkvz", self.qkvz.rows)
        ba = work.rows("ba", self.ba.rows)
        matmul(encoder, self.qkvz, x, qkvz)
        matmul(encoder, self.ba, x, ba)
        ops.split(encoder, shape, qkvz, ba, projected)
        return projected


def _projected(shape: DeltaNetShape, work: Workspace) -> ops.Projected:
    return ops.Projected(
        qkv=work.rows("qkv", shape.channels),
        z=work.rows("z", shape.value_width),
        b=work.rows("b", shape.n_value_heads),
        a=work.rows("a", shape.n_value_heads),
    )


@dataclass(frozen=True)
class DeltaNetState:
    """The last raw rows of q, k, v and one matrix per value head, all float32.

    convolution: [conv_kernel_size - 1, channels]; recurrent: [n_value_heads, value_dim, key_dim].
    """

    convolution: Buffer
    recurrent: Buffer

    @property
    def position_rows(self) -> tuple[Buffer, ...]:
        """Buffers with a row for each position: none."""
        return ()

    @property
    def recurrent_parts(self) -> tuple[Buffer, ...]:
        """Buffers that every token changes as a whole; all zero before the first."""
        return self.convolution, self.recurrent


@dataclass(frozen=True)
class GatedDeltaNet:
    """out = out_proj(gated_rms_norm(delta_rule(conv(q, k, v)), z))."""

    shape: DeltaNetShape
    projections: SeparateProjections | FusedProjections
    conv_weight: Vector  # [channels * conv_kernel_size]
    a_log: Vector  # [n_value_heads]
    dt_bias: Vector  # [n_value_heads]
    norm: Vector  # [value_dim]
    out_proj: Matrix  # [D, value_width]
    epsilon: float

    def new_state(self, device: Device, context: int) -> DeltaNetState:
        """A zero state; its size does not depend on `context`."""
        del context
        convolution, recurrent = self._state_nbytes()
        return DeltaNetState(device.buffer(convolution), device.buffer(recurrent))

    def state_nbytes(self, context: int) -> int:
        del context
        return sum(self._state_nbytes())

    def _state_nbytes(self) -> tuple[int, int]:
        shape = self.shape
        return (
            4 * (shape.conv_kernel_size - 1) * shape.channels,
            4 * shape.n_value_heads * shape.value_dim * shape.key_dim,
        )

    def encode(
        self,
        encoder: Encoder,
        state: DeltaNetState,
        x: Activations,
        h: Activations,
        work: Workspace,
    ) -> None:
        """h [T, D] += delta net of x [T, D]; advances the state by T tokens."""
        shape = self.shape
        projected = self.projections.encode(encoder, shape, x, work)
        qkv = work.rows("qkv_convolved", shape.channels)
        ops.convolve(encoder, projected.qkv, self.conv_weight, state.convolution, qkv)
        decay = work.rows("decay", shape.n_value_heads)
        beta = work.rows("beta", shape.n_value_heads)
        ops.decay(encoder, projected, ops.DecayWeights(self.a_log, self.dt_bias), decay, beta)
        out = work.rows("delta_rule", shape.value_width)
        ops.recurrence(encoder, shape, ops.DeltaRuleInputs(qkv, decay, beta), state.recurrent, out)
        normed = work.rows("delta_rule_normed", shape.value_width)
        gated_rms_norm(encoder, out, projected.z, self.norm, self.epsilon, normed)
        matmul(encoder, self.out_proj, normed, h, accumulate=True)
