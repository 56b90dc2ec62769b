"""The dispatches of one decode step and one prefill chunk of a model, and what each must cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

import kernel_costs
import mixer_costs
from kernel_costs import ExpertLoad, MatrixShape
from mixer_dispatches import attention_works, delta_net_works
from model_shapes import ModelShapes
from moeflux.ops import embedding, matmul, moe, norm
from moeflux.ops.operands import (
    ExpertBatch,
    ExpertMatrixPlace,
    ExpertPlaces,
    RmsNorm,
    RoutedExperts,
)
from moeflux.ops.router import router_top_k
from stand_in_operands import StandInOperands
from step_shape import NORM_DTYPE, Encode, StepShape, Work


@dataclass(frozen=True)
class StepWork(StepShape):
    """All dispatches of a step."""

    def __iter__(self) -> Iterator[Work]:
        yield self._embedding()
        yield from self._matrices()
        yield self._gate_up()
        yield from self._experts()
        yield from self._rows()
        yield from attention_works(self)
        yield from delta_net_works(self)

    def _embedding(self) -> Work:
        shapes, n = self.shapes, self.n_tokens

        def dispatches(operands: StandInOperands) -> list[Encode]:
            table = operands.matrix(MatrixShape(shapes.vocabulary, shapes.hidden, shapes.form))
            ids = np.random.default_rng(2).integers(0, shapes.vocabulary, n).tolist()
            tokens, out = operands.integers(ids), operands.rows(n, shapes.hidden)
            return [lambda encoder: embedding.embed(encoder, table, tokens, out)] * 8

        cost = kernel_costs.embedding(width=shapes.hidden, n_tokens=n, form=shapes.form)
        return self.work("embedding", "", 1, cost, dispatches)

    def _matrices(self) -> Iterator[Work]:
        shapes, mixer, net = self.shapes, self.shapes.attention, self.shapes.delta_net
        hidden, full, linear = shapes.hidden, shapes.n_attention_layers, shapes.n_delta_net_layers
        width, kv_width = mixer.n_heads * mixer.head_dim, mixer.n_kv_heads * mixer.head_dim
        for detail, rows, cols, count in (
            ("attention q_proj", mixer.n_heads * mixer.q_head_stride, hidden, full),
            ("attention k_proj, v_proj", kv_width, hidden, 2 * full),
            ("delta net in_proj_qkv", net.channels, hidden, linear),
            ("delta net in_proj_z", net.value_width, hidden, linear),
            ("delta net in_proj_b, in_proj_a", net.n_value_heads, hidden, 2 * linear),
            ("router", shapes.n_experts, hidden, shapes.n_layers),
            ("shared_expert_gate", 1, hidden, shapes.n_layers),
            ("shared expert down_proj", hidden, shapes.expert_width, shapes.n_layers),
        ):
            yield self._matmul(detail, MatrixShape(rows, cols, shapes.form), count)
        for detail, cols, count in (
            ("attention o_proj, added", width, full),
            ("delta net out_proj, added", net.value_width, linear),
        ):
            shape = MatrixShape(hidden, cols, shapes.form)
            yield self._matmul(detail, shape, count, accumulate=True)
        lm_head = StepWork(shapes, 1, prefill=False)
        yield lm_head._matmul("lm_head", MatrixShape(shapes.vocabulary, hidden, shapes.form), 1)

    def _matmul(
        self, detail: str, shape: MatrixShape, count: int, *, accumulate: bool = False
    ) -> Work:
        n = self.n_tokens

        def dispatches(operands: StandInOperands) -> list[Encode]:
            x, out = operands.rows(n, shape.cols), operands.rows(n, shape.rows)
            return [
                lambda encoder, weight=weight: matmul.matmul(  # type: ignore[misc]
                    encoder, weight, x, out, accumulate=accumulate
                )
                for weight in operands.matrices(shape)
            ]

        cost = kernel_costs.matmul(matrix=shape, n_tokens=n, accumulate=accumulate)
        named = f"{detail} [{shape.rows}, {shape.cols}]"
        return self.work("matmul", named, count, cost, dispatches)

    def _gate_up(self) -> Work:
        shapes, n = self.shapes, self.n_tokens
        shape = MatrixShape(shapes.expert_width, shapes.hidden, shapes.form)

        def dispatches(operands: StandInOperands) -> list[Encode]:
            x, out = operands.rows(n, shape.cols), operands.rows(n, shape.rows)
            gate_projs, up_projs = operands.matrices(shape), operands.matrices(shape)
            return [
                lambda encoder, one=one, other=other: matmul.gate_up(  # type: ignore[misc]
                    encoder, one, other, x, out
                )
                for one, other in zip(gate_projs, up_projs, strict=True)
            ]

        cost = kernel_costs.gate_up(gate_proj=shape, up_proj=shape, n_tokens=n)
        return self.work("gate_up", "shared expert", shapes.n_layers, cost, dispatches)

    def _experts(self) -> Iterator[Work]:
        shapes, n = self.shapes, self.n_tokens
        n_pairs = n * shapes.top_k
        load = ExpertLoad(n, min(shapes.n_experts, n_pairs), n_pairs)
        inner = MatrixShape(shapes.expert_width, shapes.hidden, shapes.form)
        outer = MatrixShape(shapes.hidden, shapes.expert_width, shapes.form)

        def gate_ups(operands: StandInOperands) -> list[Encode]:
            x, out = operands.rows(n, inner.cols), operands.rows(n_pairs, inner.rows)
            places, batches = _expert_batches(operands, shapes, load)
            return [
                lambda encoder, batch=batch: moe.expert_gate_up(encoder, batch, places, x, out)  # type: ignore[misc]
                for batch in batches
            ]

        def downs(operands: StandInOperands) -> list[Encode]:
            x, out = operands.rows(n_pairs, outer.cols), operands.rows(n_pairs, outer.rows)
            places, batches = _expert_batches(operands, shapes, load)
            return [
                lambda encoder, batch=batch: moe.expert_down(encoder, batch, places, x, out)  # type: ignore[misc]
                for batch in batches
            ]

        detail = f"{load.n_experts} of {shapes.n_experts} experts"
        cost = kernel_costs.expert_gate_up(gate_proj=inner, up_proj=inner, load=load)
        yield self.work("expert_gate_up", detail, shapes.n_layers, cost, gate_ups)
        cost = kernel_costs.expert_down(down_proj=outer, load=load)
        yield self.work("expert_down", detail, shapes.n_layers, cost, downs)

    def _rows(self) -> Iterator[Work]:
        shapes, n = self.shapes, self.n_tokens

        def rms_norms(operands: StandInOperands) -> list[Encode]:
            x, out = operands.rows(n, shapes.hidden), operands.rows(n, shapes.hidden)
            weight = RmsNorm(operands.vector(shapes.hidden, NORM_DTYPE), 1e-6)
            return [lambda encoder: norm.rms_norm(encoder, x, weight, out)] * 8

        def routers(operands: StandInOperands) -> list[Encode]:
            logits = operands.rows(n, shapes.n_experts)
            experts, weights = (operands.rows(n, shapes.top_k).buffer for _ in range(2))
            routed = RoutedExperts(experts, weights, shapes.top_k)
            return [lambda encoder: router_top_k(encoder, logits, routed, normalise=True)] * 8

        def combines(operands: StandInOperands) -> list[Encode]:
            h, shared, out = (operands.rows(n, shapes.hidden) for _ in range(3))
            routed = operands.rows(n * shapes.top_k, shapes.hidden)
            weights, shared_gate = operands.rows(n, shapes.top_k), operands.rows(n, 1)
            outputs = moe.ExpertOutputs(routed, weights.buffer, shapes.top_k, shared, shared_gate)
            weight = RmsNorm(operands.vector(shapes.hidden, NORM_DTYPE), 1e-6)
            return [lambda encoder: moe.combine_norm(encoder, h, outputs, weight, out)] * 8

        cost = mixer_costs.rms_norm(width=shapes.hidden, n_tokens=n, weight_dtype=NORM_DTYPE)
        yield self.work("rms_norm", "", 1 + shapes.n_layers, cost, rms_norms)
        cost = kernel_costs.router_top_k(
            n_experts=shapes.n_experts, top_k=shapes.top_k, n_tokens=n, normalise=True
        )
        detail = f"{shapes.top_k} of {shapes.n_experts}"
        yield self.work("router_top_k", detail, shapes.n_layers, cost, routers)
        cost = kernel_costs.moe_combine_norm(
            width=shapes.hidden,
            top_k=shapes.top_k,
            n_tokens=n,
            shared_expert=True,
            norm_dtype=NORM_DTYPE,
        )
        yield self.work("moe_combine_norm", "", shapes.n_layers, cost, combines)


def _expert_batches(
    operands: StandInOperands, shapes: ModelShapes, load: ExpertLoad
) -> tuple[ExpertPlaces, list[ExpertBatch]]:
    """Random experts each time, all with the same number of rows."""
    places, offset = [], 0
    inner, outer = (shapes.expert_width, shapes.hidden), (shapes.hidden, shapes.expert_width)
    for rows, cols in (inner, inner, outer):
        scales = offset + shapes.form.weight_nbytes(rows, cols)
        biases = scales + shapes.form.scales_nbytes(rows, cols)
        places.append(ExpertMatrixPlace(rows, cols, shapes.form, offset, scales, biases))
        offset += shapes.form.nbytes(rows, cols)
    slots = operands.filled(shapes.n_experts * offset)
    generator, per_expert = np.random.default_rng(1), load.n_pairs // load.n_experts
    batches = []
    for _ in range(operands.n_copies(load.n_experts * offset)):
        groups = [load.n_experts]
        for index, slot in enumerate(generator.permutation(shapes.n_experts)[: load.n_experts]):
            groups += [int(slot), index * per_expert, per_expert]
        pairs = generator.permutation(load.n_experts * per_expert).tolist()
        indices = operands.integers(groups), operands.integers(pairs)
        batches.append(ExpertBatch(slots, offset, *indices, shapes.top_k))
    return ExpertPlaces(*places), batches
