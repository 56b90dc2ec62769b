"""What loading a checkpoint gives, and the loaders that architectures share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from moeflux.blocks.decoder import Decoder, DecoderLayer
from moeflux.blocks.mlp import DenseMlp
from moeflux.blocks.moe import SharedExpert, SparseMoe
from moeflux.checkpoint import Checkpoint, DenseWeights, ExpertShape, LayerExperts
from moeflux.ops.operands import RmsNorm


class ModelConfig(Protocol):
    """What every architecture's Config has; the names are those of config.json."""

    @property
    def model_type(self) -> str: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def num_hidden_layers(self) -> int: ...
    @property
    def num_experts(self) -> int: ...
    @property
    def num_experts_per_tok(self) -> int: ...
    @property
    def moe_intermediate_size(self) -> int: ...
    @property
    def rms_norm_eps(self) -> float: ...
    @property
    def max_position_embeddings(self) -> int: ...
    def has_experts(self, index: int) -> bool:
        """Layer `index` has routed experts."""


@dataclass(frozen=True)
class LoadedModel:
    """Dense weights on a device.

    `experts[i]` says where layer i's routed experts lie, None for a layer without.
    """

    config: ModelConfig
    decoder: Decoder
    experts: tuple[LayerExperts | None, ...]
    dense_nbytes: int
    """Bytes of the dense weights, in place (mapped) or copied."""


LayerLoader = Callable[[int, DenseWeights], tuple[DecoderLayer, LayerExperts | None]]


def load_decoder(
    checkpoint: Checkpoint,
    config: ModelConfig,
    weights: DenseWeights,
    load_layer: LayerLoader,
    *,
    plus_one: bool,
) -> LoadedModel:
    """The decoder around an architecture's layers: embedding, final norm and lm_head.

    plus_one: norm weights are stored as w where the model computes with 1 + w.
    """
    vocabulary, hidden = config.vocab_size, config.hidden_size
    loaded = [
        load_layer(index, weights.under(checkpoint.layer(index)))
        for index in range(config.num_hidden_layers)
    ]
    norm = weights.vector(f"{checkpoint.trunk}.norm.weight", hidden, plus_one=plus_one)
    decoder = Decoder(
        embedding=weights.matrix(checkpoint.embed_tokens, vocabulary, hidden),
        layers=tuple(layer for layer, _ in loaded),
        norm=RmsNorm(norm, config.rms_norm_eps),
        lm_head=weights.matrix(checkpoint.lm_head, vocabulary, hidden),
    )
    experts = tuple(places for _, places in loaded)
    return LoadedModel(config, decoder, experts, weights.mapped_nbytes + weights.copied_nbytes)


def load_moe(
    weights: DenseWeights,
    config: ModelConfig,
    experts: LayerExperts,
    shared: SharedExpert | None,
    *,
    normalise: bool,
) -> SparseMoe:
    """mlp.gate is the router [E, D]."""
    return SparseMoe(
        router=weights.matrix("gate", config.num_experts, config.hidden_size),
        places=experts.places,
        top_k=config.num_experts_per_tok,
        normalise=normalise,
        shared=shared,
    )


def load_mlp(weights: DenseWeights, width: int, hidden: int) -> DenseMlp:
    """gate_proj, up_proj and down_proj of a feed-forward network of `width`."""
    return DenseMlp(
        gate_proj=weights.matrix("gate_proj", width, hidden),
        up_proj=weights.matrix("up_proj", width, hidden),
        down_proj=weights.matrix("down_proj", hidden, width),
    )


def expert_shape(config: ModelConfig) -> ExpertShape:
    """Shape of the routed experts of every sparse layer."""
    return ExpertShape(config.num_experts, config.moe_intermediate_size, config.hidden_size)
