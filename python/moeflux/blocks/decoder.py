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
from moeflux.ops.operands import (
    Activations,
    ExpertBatch,
    KeyValueCache,
    Matrix,
    RmsNorm,
    RoutedExperts,
)

LayerState = KeyValueCache | DeltaNetState


@dataclass(frozen=True)
class DecoderLayer:
    """h += mixer(norm(h)); h += feed-forward(norm(h))."""

    index: int
    input_norm: RmsNorm
    mixer: FullAttention | GatedDeltaNet
    post_norm: RmsNorm
    mlp: SparseMoe | DenseMlp

    def new_state(self, device: Device, context: int) -> LayerState:
        return self.mixer.new_state(device, context)

    def encode_mixer(
        self,
        encoder: Encoder,
        state: LayerState,
        x: Activations,
        h: Activations,
        work: Workspace,
    ) -> None:
        """h [T, D] += mixer(x [T, D])."""
        match self.mixer, state:
            case FullAttention(), KeyValueCache():
                self.mixer.encode(encoder, state, x, h, work)
            case GatedDeltaNet(), DeltaNetState():
                self.mixer.encode(encoder, state, x, h, work)
            case _:
                raise TypeError(
                    f"layer {self.index}: {type(state).__name__} is not the state of its mixer"
                )


@dataclass(frozen=True)
class Decoder:
    """Weights of a whole model, all but the routed experts.

    The rows h [T, D] of a step stay in the workspace from its embedding to its logits. Every half
    layer finds them normed for it in x [T, D], and leaves x normed for what follows.
    """

    embedding: Matrix  # [V, D]
    layers: tuple[DecoderLayer, ...]
    norm: RmsNorm
    lm_head: Matrix  # [V, D]

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
        h = self._hidden(work)
        embed(encoder, self.embedding, tokens, h)
        rms_norm(encoder, h, self.layers[0].input_norm, self.normed(work))

    def encode_mixer(
        self, encoder: Encoder, layer: DecoderLayer, state: LayerState, work: Workspace
    ) -> None:
        """The mixer half and the routing; of a layer without experts the feed-forward half too."""
        h, x = self._hidden(work), self.normed(work)
        layer.encode_mixer(encoder, state, x, h, work)
        rms_norm(encoder, h, layer.post_norm, x)
        if isinstance(layer.mlp, SparseMoe):
            layer.mlp.encode_router(encoder, x, routed_experts(work, layer.mlp.top_k), work)
        else:
            layer.mlp.encode(encoder, x, h, work, accumulate=True)
            rms_norm(encoder, h, self._norm_after(layer), x)

    def encode_moe(
        self, encoder: Encoder, layer: DecoderLayer, batch: ExpertBatch, work: Workspace
    ) -> None:
        """The expert half of a layer with experts, all of them in slots that `batch` names."""
        assert isinstance(layer.mlp, SparseMoe)
        layer.mlp.encode_shared(encoder, self.normed(work), work)
        layer.mlp.encode_experts(encoder, self.normed(work), batch, work)
        self.encode_combine(encoder, layer, work)

    def encode_combine(self, encoder: Encoder, layer: DecoderLayer, work: Workspace) -> None:
        """The end of an expert half: h += the outputs of its experts, all computed before."""
        assert isinstance(layer.mlp, SparseMoe)
        weights = routed_experts(work, layer.mlp.top_k).weights
        h, x = self._hidden(work), self.normed(work)
        layer.mlp.encode_combine(encoder, h, weights, self._norm_after(layer), x, work)

    def encode_logits(self, encoder: Encoder, x: Activations, logits: Activations) -> None:
        """logits [T, V] = lm_head x, where x [T, D] are rows of `normed` after the last layer."""
        matmul(encoder, self.lm_head, x, logits)

    def normed(self, work: Workspace) -> Activations:
        """The normed rows x [T, D]."""
        return work.rows("normed", self.width)

    def _hidden(self, work: Workspace) -> Activations:
        """The residual stream h [T, D]."""
        return work.rows("hidden", self.width)

    def _norm_after(self, layer: DecoderLayer) -> RmsNorm:
        following = self.layers[layer.index + 1 : layer.index + 2]
        return following[0].input_norm if following else self.norm


def routed_experts(work: Workspace, top_k: int, of: str = "this layer") -> RoutedExperts:
    """What the router of the layer at work chose, or what another's would choose `of` its state."""
    experts = work.rows(f"routed experts of {of}", top_k, host=True)
    weights = work.rows(f"routing weights of {of}", top_k)
    return RoutedExperts(experts.buffer, weights.buffer, top_k)
