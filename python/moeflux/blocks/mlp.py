"""Dense SwiGLU feed-forward: down_proj(silu(gate_proj x) * up_proj x)."""

from __future__ import annotations

from dataclasses import dataclass

from moeflux._core import Encoder
from moeflux.blocks.workspace import Workspace
from moeflux.ops.matmul import gate_up, matmul
from moeflux.ops.operands import Activations, Matrix


@dataclass(frozen=True)
class DenseMlp:
    """A feed-forward network without experts, of width F."""

    gate_proj: Matrix  # [F, D]
    up_proj: Matrix  # [F, D]
    down_proj: Matrix  # [D, F]

    def encode(
        self,
        encoder: Encoder,
        x: Activations,
        out: Activations,
        work: Workspace,
        *,
        accumulate: bool,
    ) -> None:
        """out [T, D] = (accumulate ? out : 0) + mlp(x [T, D])."""
        inner = work.rows("mlp", self.gate_proj.rows)
        gate_up(encoder, self.gate_proj, self.up_proj, x, inner)
        matmul(encoder, self.down_proj, inner, out, accumulate=accumulate)
