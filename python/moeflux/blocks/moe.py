"""Sparse mixture of experts: a router picks top_k experts a token. Knows no disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from moeflux._core import Buffer, Device, Encoder
from moeflux.blocks.mlp import DenseMlp
from moeflux.blocks.workspace import Int32Array, Workspace, int32_array
from moeflux.ops import moe as ops
from moeflux.ops.matmul import matmul
from moeflux.ops.operands import (
    Activations,
    ExpertBatch,
    ExpertPlaces,
    Matrix,
    RmsNorm,
    RoutedExperts,
)
from moeflux.ops.router import router_top_k


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

    def encode_router(
        self, encoder: Encoder, x: Activations, routed: RoutedExperts, work: Workspace
    ) -> None:
        """The experts and weights of each token of x [T, D], from logits [T, E] = router x."""
        logits = work.rows("router_logits", self.n_experts)
        matmul(encoder, self.router, x, logits)
        router_top_k(encoder, logits, routed, normalise=self.normalise)

    def encode_shared(self, encoder: Encoder, x: Activations, work: Workspace) -> None:
        """Run the shared expert, if there is one, on x [T, D]; its output waits for the combine."""
        if self.shared is not None:
            shared, shared_gate = self._shared_out(work)
            self.shared.mlp.encode(encoder, x, shared, work, accumulate=False)
            matmul(encoder, self.shared.shared_expert_gate, x, shared_gate)

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
        h: Activations,
        weights: Buffer,
        next_norm: RmsNorm,
        x: Activations,
        work: Workspace,
    ) -> None:
        """h [T, D] += sum_k weights[t, k] expert_k(x) + sigmoid(shared_expert_gate x) shared(x).

        weights: float32 [T, K]. Then x [T, D] = next_norm(h), for what follows.
        """
        shared = shared_gate = None
        if self.shared is not None:
            shared, shared_gate = self._shared_out(work)
        routed = self._expert_out(work)
        outputs = ops.ExpertOutputs(routed, weights, self.top_k, shared, shared_gate)
        ops.combine_norm(encoder, h, outputs, next_norm, x)

    def _expert_out(self, work: Workspace) -> Activations:
        return work.rows("expert_out", self.places.down_proj.rows, per_token=self.top_k)

    def _shared_out(self, work: Workspace) -> tuple[Activations, Activations]:
        """The shared expert's output [T, D] and its gate's [T, 1]."""
        rows = work.rows("shared_expert", self.places.down_proj.rows)
        return rows, work.rows("shared_expert_gate", 1)


class ExpertTable:
    """Host buffers that tell the kernels which expert, in which slot, works for which token."""

    def __init__(
        self, device: Device, slots: Buffer, slot_nbytes: int, max_tokens: int, top_k: int
    ) -> None:
        n_pairs = max_tokens * top_k
        groups = device.buffer(4 * (1 + 3 * n_pairs), host=True)
        pairs = device.buffer(4 * n_pairs, host=True)
        self.batch = ExpertBatch(slots, slot_nbytes, groups, pairs, top_k)
        self._groups = int32_array(groups, 1 + 3 * n_pairs)
        self._pairs = int32_array(pairs, n_pairs)

    def set_token(self, experts: Sequence[int], slots: Mapping[int, int]) -> None:
        """A group for each of one token's experts that has a slot. The last reader has finished."""
        groups: list[int] = []
        pairs: list[int] = []
        for k, expert in enumerate(experts):
            if (slot := slots.get(expert)) is not None:
                groups += slot, len(pairs), 1
                pairs.append(k)
        self._groups[0] = len(pairs)
        self._groups[1 : 1 + len(groups)] = groups
        self._pairs[: len(pairs)] = pairs

    def set_tokens(self, experts: Int32Array, slots: Mapping[int, int]) -> None:
        """A group for each expert that has a slot, with the rows of experts [T, K] that name it."""
        flat = experts.reshape(-1)
        n_groups = n_pairs = 0
        for expert, slot in slots.items():
            rows = np.flatnonzero(flat == expert)
            place = 1 + 3 * n_groups
            self._groups[place : place + 3] = slot, n_pairs, rows.size
            self._pairs[n_pairs : n_pairs + rows.size] = rows
            n_pairs += rows.size
            n_groups += 1
        self._groups[0] = n_groups
