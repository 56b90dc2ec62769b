"""The decoder that architectures share: embedding, layers of mixer and feed-forward, lm_head."""

from __future__ import annotations

from dataclasses import dataclass

from moeflux._core import Buffer, Device, Encoder
from moeflux.blocks.attention import FullAttention
from moeflux.blocks.gated_delta_net import DeltaNetState, GatedDeltaNet
from moeflux.blocks.mlp import DenseMlp
from moeflux.blocks.moe import SparseMoe
from moeflux.blocks.workspace import Workspace
from moeflux.ops.embedding import embed
from moeflux.ops.matmul import matmul
from moeflux.ops.norm import rms_norm
from moeflux.ops.operands import Activations, ExpertBatch, KeyValueCache, Matrix, Vector

LayerState = KeyValueCache | DeltaNetState


@dataclass(frozen=True)
class DecoderLayer:
    """h += mixer(norm(h)); h += feed-forward(norm(h))."""

    index: int
    input_norm: Vector
    mixer: FullAttention | GatedDeltaNet
    post_norm: Vector
    mlp: SparseMoe | DenseMlp
    epsilon: float

    def new_state(self, device: Device, context: int) -> LayerState:
        return self.mixer.new_state(device, context)

    def encode_mixer(self, encoder: Encoder, state: LayerState, work: Workspace) -> None:
        """The mixer half, up to the router logits where the layer has experts."""
        h, x = hidden(work, self.input_norm.length), normed(work, self.input_norm.length)
        rms_norm(encoder, h, self.input_norm, self.epsilon, x)
        match self.mixer, state:
            case FullAttention(), KeyValueCache():
                self.mixer.encode(encoder, state, x, h, work)
            case GatedDeltaNet(), DeltaNetState():
                self.mixer.encode(encoder, state, x, h, work)
            case _:
                raise TypeError(
                    f"layer {self.index}: {type(state).__name__} is not the state of its mixer"
                )
        rms_norm(encoder, h, self.post_norm, self.epsilon, x)
        if isinstance(self.mlp, SparseMoe):
            self.mlp.encode_router(encoder, x, router_logits(work, self.mlp.n_experts))
        else:
            self.mlp.encode(encoder, x, h, work, accumulate=True)

    def encode_moe(
        self, encoder: Encoder, batch: ExpertBatch, weights: Buffer, work: Workspace
    ) -> None:
        """The expert half of a layer with experts, all of them in slots that `batch` names.

        weights: routing weights, host float32 [T, top_k].
        """
        assert isinstance(self.mlp, SparseMoe)
        h, x = hidden(work, self.input_norm.length), normed(work, self.input_norm.length)
        self.mlp.encode_experts(encoder, x, batch, work)
        self.mlp.encode_combine(encoder, x, h, weights, work)


@dataclass(frozen=True)
class Decoder:
    """Weights of a whole model, all but the routed experts."""

    embedding: Matrix  # [V, D]
    layers: tuple[DecoderLayer, ...]
    norm: Vector
    lm_head: Matrix  # [V, D]
    epsilon: float

    @property
    def width(self) -> int:
        """D, the hidden width."""
        return self.embedding.cols

    @property
    def vocabulary(self) -> int:
        return self.embedding.rows

    def new_state(self, device: Device, context: int) -> tuple[LayerState, ...]:
        """An empty state of every layer, for at most `context` positions."""
        return tuple(layer.new_state(device, context) for layer in self.layers)

    def state_nbytes(self, context: int) -> int:
        """Bytes of one session's state."""
        return sum(layer.mixer.state_nbytes(context) for layer in self.layers)

    def encode_embedding(self, encoder: Encoder, tokens: Buffer, work: Workspace) -> None:
        """h [T, D] = rows of the embedding; tokens: host int32 [T]."""
        embed(encoder, self.embedding, tokens, hidden(work, self.width))

    def encode_logits(
        self, encoder: Encoder, h: Activations, logits: Activations, work: Workspace
    ) -> None:
        """logits [T, V] = lm_head norm(h [T, D])."""
        x = normed(work, self.width)
        rms_norm(encoder, h, self.norm, self.epsilon, x)
        matmul(encoder, self.lm_head, x, logits)


def hidden(work: Workspace, width: int) -> Activations:
    """The residual stream h [T, D]."""
    return work.rows("hidden", width)


def normed(work: Workspace, width: int) -> Activations:
    """The normed input of the block at work [T, D]."""
    return work.rows("normed", width)


def router_logits(work: Workspace, n_experts: int) -> Activations:
    """Router logits [T, E], which the host reads."""
    return work.rows("router_logits", n_experts, host=True)
