"""Shapes of models that benches take dispatches from."""

from __future__ import annotations

from dataclasses import dataclass

from moeflux.ops.operands import AttentionShape, DeltaNetShape
from moeflux.quant import Dtype, MatrixFormat


@dataclass(frozen=True)
class ModelShapes:
    """Of a model with both kinds of mixers; `form` is that of all matrices."""

    name: str
    hidden: int
    n_attention_layers: int
    n_delta_net_layers: int
    vocabulary: int
    attention: AttentionShape
    delta_net: DeltaNetShape
    n_experts: int
    top_k: int
    expert_width: int
    context: int
    form: MatrixFormat

    @property
    def n_layers(self) -> int:
        return self.n_attention_layers + self.n_delta_net_layers


SHAPES = {
    shapes.name: shapes
    for shapes in (
        ModelShapes(
            name="qwen3.6-35b-a3b",
            hidden=2048,
            n_attention_layers=10,
            n_delta_net_layers=30,
            vocabulary=248320,
            attention=AttentionShape(16, 2, 256, 64, output_gate=True),
            delta_net=DeltaNetShape(16, 32, 128, 128, 4),
            n_experts=256,
            top_k=8,
            expert_width=512,
            context=4096,
            form=MatrixFormat(Dtype.BFLOAT16, 4, 64),
        ),
        ModelShapes(
            name="qwen3.5-397b-a17b",
            hidden=4096,
            n_attention_layers=15,
            n_delta_net_layers=45,
            vocabulary=248320,
            attention=AttentionShape(32, 2, 256, 64, output_gate=True),
            delta_net=DeltaNetShape(16, 64, 128, 128, 4),
            n_experts=512,
            top_k=10,
            expert_width=1024,
            context=4096,
            form=MatrixFormat(Dtype.BFLOAT16, 4, 64),
        ),
        ModelShapes(
            name="tiny",
            hidden=128,
            n_attention_layers=1,
            n_delta_net_layers=1,
            vocabulary=320,
            attention=AttentionShape(4, 2, 32, 16, output_gate=True),
            delta_net=DeltaNetShape(2, 4, 16, 16, 4),
            n_experts=8,
            top_k=2,
            expert_width=64,
            context=64,
            form=MatrixFormat(Dtype.BFLOAT16, 4, 64),
        ),
    )
}
