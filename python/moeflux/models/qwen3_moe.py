"""Qwen3-MoE: full attention, experts in most layers, no shared expert.

Formulas: transformers `Qwen3MoeForCausalLM`. Norm weights are used as stored.
"""

from __future__ import annotations

from dataclasses import dataclass

from moeflux._core import Device
from moeflux.blocks.attention import FullAttention, rope_frequencies
from moeflux.blocks.decoder import DecoderLayer
from moeflux.checkpoint import Checkpoint, DenseWeights, LayerExperts
from moeflux.models.loaded import LoadedModel, expert_shape, load_decoder, load_mlp, load_moe
from moeflux.ops.attention import HeadNorms
from moeflux.ops.operands import AttentionShape, RmsNorm, Vector


@dataclass(frozen=True)
class Config:
    """Keys of config.json, under their own names."""

    model_type: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rope_theta: float
    intermediate_size: int
    num_experts: int
    num_experts_per_tok: int
    norm_topk_prob: bool
    moe_intermediate_size: int
    decoder_sparse_step: int
    mlp_only_layers: tuple[int, ...]
    rms_norm_eps: float
    max_position_embeddings: int

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> Config:
        """Raises CheckpointError for a missing or unusable key."""
        reader = checkpoint.config.text
        if reader.text("hidden_act", default="silu") != "silu":
            raise reader.error("hidden_act", "silu")
        for key in ("attention_bias", "use_sliding_window"):
            if reader.boolean(key, default=False):
                raise reader.error(key, "false")
        hidden, heads = reader.integer("hidden_size"), reader.integer("num_attention_heads")
        # What is published as num_experts is num_local_experts in a file that transformers 5 saves.
        num_experts = "num_local_experts" if reader.has("num_local_experts") else "num_experts"
        return cls(
            model_type=checkpoint.model_type,
            vocab_size=reader.integer("vocab_size"),
            hidden_size=hidden,
            num_hidden_layers=reader.integer("num_hidden_layers"),
            num_attention_heads=heads,
            num_key_value_heads=reader.integer("num_key_value_heads"),
            head_dim=reader.integer("head_dim", default=hidden // heads),
            rope_theta=reader.rope().theta,
            intermediate_size=reader.integer("intermediate_size"),
            num_experts=reader.integer(num_experts),
            num_experts_per_tok=reader.integer("num_experts_per_tok"),
            norm_topk_prob=reader.boolean("norm_topk_prob", default=False),
            moe_intermediate_size=reader.integer("moe_intermediate_size"),
            decoder_sparse_step=reader.integer("decoder_sparse_step", default=1),
            mlp_only_layers=reader.integers("mlp_only_layers", default=()),
            rms_norm_eps=reader.number("rms_norm_eps", default=1e-6),
            max_position_embeddings=reader.integer("max_position_embeddings"),
        )

    @property
    def attention(self) -> AttentionShape:
        return AttentionShape(
            n_heads=self.num_attention_heads,
            n_kv_heads=self.num_key_value_heads,
            head_dim=self.head_dim,
            rope_dim=self.head_dim,
            output_gate=False,
        )

    def has_experts(self, index: int) -> bool:
        """Layer `index` has routed experts; the others have a dense feed-forward network."""
        return index not in self.mlp_only_layers and (index + 1) % self.decoder_sparse_step == 0


def load(checkpoint: Checkpoint, device: Device) -> LoadedModel:
    """Dense weights on `device` and the places of the routed experts."""
    config = Config.from_checkpoint(checkpoint)
    rope = rope_frequencies(device, config.attention.rope_dim, config.rope_theta)
    weights = DenseWeights(checkpoint, device)

    def layer(index: int, weights: DenseWeights) -> tuple[DecoderLayer, LayerExperts | None]:
        experts = (
            checkpoint.experts(index, expert_shape(config)) if config.has_experts(index) else None
        )
        return _layer(index, weights, config, experts, rope), experts

    return load_decoder(checkpoint, config, weights, layer, plus_one=False)


def _layer(
    index: int, weights: DenseWeights, config: Config, experts: LayerExperts | None, rope: Vector
) -> DecoderLayer:
    mlp = weights.under("mlp")
    return DecoderLayer(
        index=index,
        input_norm=_norm(weights, "input_layernorm", config),
        mixer=_attention(weights.under("self_attn"), config, rope),
        post_norm=_norm(weights, "post_attention_layernorm", config),
        mlp=load_moe(mlp, config, experts, None, normalise=config.norm_topk_prob)
        if experts is not None
        else load_mlp(mlp, config.intermediate_size, config.hidden_size),
    )


def _norm(weights: DenseWeights, name: str, config: Config) -> RmsNorm:
    return RmsNorm(weights.vector(f"{name}.weight", config.hidden_size), config.rms_norm_eps)


def _attention(weights: DenseWeights, config: Config, rope: Vector) -> FullAttention:
    shape = config.attention
    heads, kv_heads = shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim
    return FullAttention(
        shape=shape,
        q_proj=weights.matrix("q_proj", heads, config.hidden_size),
        k_proj=weights.matrix("k_proj", kv_heads, config.hidden_size),
        v_proj=weights.matrix("v_proj", kv_heads, config.hidden_size),
        o_proj=weights.matrix("o_proj", config.hidden_size, heads),
        norms=HeadNorms(
            q=weights.vector("q_norm.weight", shape.head_dim),
            k=weights.vector("k_norm.weight", shape.head_dim),
            epsilon=config.rms_norm_eps,
            rope_frequencies=rope,
        ),
    )
