"""Sparse mixture of experts: a router picks top_k experts a token. Knows no disk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from moeflux._core import Buffer, Device, Encoder
from moeflux.blocks.mlp import DenseMlp
from moeflux.blocks.workspace import Float32Array, Int32Array, Workspace, float32_array, int32_array
from moeflux.ops import moe as ops
from moeflux.ops.matmul import matmul
from moeflux.ops.operands import Activations, ExpertBatch, ExpertPlaces, Matrix


@dataclass(frozen=True)
class Routing:
    """The routed experts of T tokens, best first: experts int32 [T, K], weights float32 [T, K]."""

    experts: Int32Array
    weights: Float32Array


@dataclass(frozen=True)
class SharedExpert:
    """Runs for every token, scaled by sigmoid(shared_expert_gate x)."""

    mlp: DenseMlp
    shared_expert_gate: Matrix  # [1, D]


@dataclass(frozen=True)
class SparseMoe:
    """Router and shared expert of one layer; the routed experts come in slots."""

    router: Matrix  # [E, D]
    places: ExpertPlaces
    top_k: int
    normalise: bool
    shared: SharedExpert | None

    @property
    def n_experts(self) -> int:
        return self.router.rows

    def encode_router(self, encoder: Encoder, x: Activations, logits: Activations) -> None:
        """logits [T, E] = router x."""
        matmul(encoder, self.router, x, logits)

    def route(self, logits: Float32Array) -> Routing:
        """Softmax over all E in float32; the top_k largest (ties: lower index) over their sum.

        logits: float32 [T, E]. Without `normalise` the probabilities stay as they are.
        """
        probabilities = np.exp(logits - logits.max(axis=-1, keepdims=True))
        probabilities /= probabilities.sum(axis=-1, keepdims=True)
        order = np.argsort(-probabilities, axis=-1, kind="stable")[:, : self.top_k]
        weights = np.take_along_axis(probabilities, order, axis=-1)
        if self.normalise:
            weights /= weights.sum(axis=-1, keepdims=True)
        return Routing(order.astype(np.int32), weights.astype(np.float32))

    def best(self, logits: Float32Array) -> list[int]:
        """The top_k experts of logits [1, E], best first."""
        order: list[int] = np.argsort(-logits[0], kind="stable")[: self.top_k].tolist()
        return order

    def encode_experts(
        self, encoder: Encoder, x: Activations, batch: ExpertBatch, work: Workspace
    ) -> None:
        """Run the experts of `batch` on their rows of x [T, D].

        Results wait in the workspace for the combine.
        """
        inner = work.rows("expert_inner", self.places.down_proj.cols, per_token=self.top_k)
        ops.expert_gate_up(encoder, batch, self.places, x, inner)
        ops.expert_down(encoder, batch, self.places, inner, self._expert_out(work))

    def encode_combine(
        self,
        encoder: Encoder,
        x: Activations,
        h: Activations,
        weights: Buffer,
        work: Workspace,
    ) -> None:
        """h [T, D] += sum_k weights[t, k] expert_k(x) + sigmoid(shared_expert_gate x) shared(x)."""
        shared = shared_gate = None
        if self.shared is not None:
            shared = work.rows("shared_expert", h.width)
            self.shared.mlp.encode(encoder, x, shared, work, accumulate=False)
            shared_gate = work.rows("shared_expert_gate", 1)
            matmul(encoder, self.shared.shared_expert_gate, x, shared_gate)
        ops.combine(
            encoder,
            h,
            self._expert_out(work),
            ops.RoutingWeights(weights, self.top_k),
            shared,
            shared_gate,
        )

    def _expert_out(self, work: Workspace) -> Activations:
        return work.rows("expert_out", self.places.down_proj.rows, per_token=self.top_k)


class ExpertTable:
    """Host buffers that tell the kernels which expert, in which slot, works for which token."""

    def __init__(
        self, device: Device, slots: Buffer, slot_nbytes: int, max_tokens: int, top_k: int
    ) -> None:
        n_pairs = max_tokens * top_k
        groups = device.buffer(4 * (1 + 3 * n_pairs), host=True)
        pairs = device.buffer(4 * n_pairs, host=True)
        self.batch = ExpertBatch(slots, slot_nbytes, groups, pairs, top_k)
        self.weights = device.buffer(4 * n_pairs, host=True)
        self._groups = int32_array(groups, 1 + 3 * n_pairs)
        self._pairs = int32_array(pairs, n_pairs)
        self._weights = float32_array(self.weights, n_pairs)

    def set_routing(self, routing: Routing, slots: Mapping[int, int]) -> None:
        """Write weights and groups of one token: group k is its k-th expert."""
        top_k = routing.experts.shape[1]
        groups = self._groups[1 : 1 + 3 * top_k].reshape(top_k, 3)
        groups[:, 0] = [slots[expert] for expert in routing.experts[0].tolist()]
        groups[:, 1] = self._pairs[:top_k] = np.arange(top_k, dtype=np.int32)
        groups[:, 2] = 1
        self._groups[0] = top_k
        self.set_weights(routing)

    def set_weights(self, routing: Routing) -> None:
        """Write the routing weights of a chunk. The caller has waited for the last reader."""
        self._weights[: routing.weights.size] = routing.weights.reshape(-1)

    def set_groups(
        self, routing: Routing, slots: Mapping[int, int], experts: Iterable[int]
    ) -> None:
        """Write a group for each of `experts`, a part of those routed to: its slot and its rows."""
        flat = routing.experts.reshape(-1)
        n_groups = n_pairs = 0
        for expert in experts:
            rows = np.flatnonzero(flat == expert)
            place = 1 + 3 * n_groups
            self._groups[place : place + 3] = slots[expert], n_pairs, rows.size
            self._pairs[n_pairs : n_pairs + rows.size] = rows
            n_pairs += rows.size
            n_groups += 1
        self._groups[0] = n_groups
