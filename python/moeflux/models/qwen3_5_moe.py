"""Qwen3.5-MoE and Qwen3.6-MoE: gated delta nets and full attention, experts in every layer.

Formulas: transformers `Qwen3_5MoeForCausalLM`. Every full_attention_interval-th layer is full
attention with an output gate; the others are gated delta nets. Raw checkpoints hold norm weights as
w where the model computes with 1 + w.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from moeflux._core import Device
from moeflux.blocks.attention import FullAttention, rope_frequencies
from moeflux.blocks.decoder import DecoderLayer
from moeflux.blocks.gated_delta_net import FusedProjections, GatedDeltaNet, SeparateProjections
from moeflux.blocks.moe import SharedExpert, SparseMoe
from moeflux.checkpoint import Checkpoint, ConfigReader, DenseWeights, LayerExperts
from moeflux.models.loaded import LoadedModel, expert_shape, load_decoder, load_mlp, load_moe
from moeflux.ops.attention import HeadNorms
from moeflux.ops.operands import AttentionShape, DeltaNetShape, RmsNorm, Vector

FULL_ATTENTION, LINEAR_ATTENTION = "full_attention", "linear_attention"


@dataclass(frozen=True)
class Config:
    """Keys of config.json (of its text_config), under their own names."""

    model_type: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    layer_types: tuple[str, ...]
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rope_theta: float
    partial_rotary_factor: float
    linear_num_key_heads: int
    linear_num_value_heads: int
    linear_key_head_dim: int
    linear_value_head_dim: int
    linear_conv_kernel_dim: int
    num_experts: int
    num_experts_per_tok: int
    norm_topk_prob: bool
    moe_intermediate_size: int
    shared_expert_intermediate_size: int
    rms_norm_eps: float
    max_position_embeddings: int

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> Config:
        """Raises CheckpointError for a missing or unusable key."""
        reader = checkpoint.config.text
        n_layers = reader.integer("num_hidden_layers")
        rope = reader.rope(partial_rotary_factor=0.25)
        if reader.text("hidden_act", default="silu") != "silu":
            raise reader.error("hidden_act", "silu")
        if reader.boolean("attention_bias", default=False):
            raise reader.error("attention_bias", "false")
        return cls(
            model_type=checkpoint.model_type,
            vocab_size=reader.integer("vocab_size"),
            hidden_size=reader.integer("hidden_size"),
            num_hidden_layers=n_layers,
            layer_types=_layer_types(reader, n_layers),
            num_attention_heads=reader.integer("num_attention_heads"),
            num_key_value_heads=reader.integer("num_key_value_heads"),
            head_dim=reader.integer("head_dim"),
            rope_theta=rope.theta,
            partial_rotary_factor=rope.partial_rotary_factor,
            linear_num_key_heads=reader.integer("linear_num_key_heads"),
            linear_num_value_heads=reader.integer("linear_num_value_heads"),
            linear_key_head_dim=reader.integer("linear_key_head_dim"),
            linear_value_head_dim=reader.integer("linear_value_head_dim"),
            linear_conv_kernel_dim=reader.integer("linear_conv_kernel_dim", default=4, minimum=2),
            num_experts=reader.integer("num_experts"),
            num_experts_per_tok=reader.integer("num_experts_per_tok"),
            norm_topk_prob=reader.boolean("norm_topk_prob", default=True),
            moe_intermediate_size=reader.integer("moe_intermediate_size"),
            shared_expert_intermediate_size=reader.integer("shared_expert_intermediate_size"),
            rms_norm_eps=reader.number("rms_norm_eps", default=1e-6),
            max_position_embeddings=reader.integer("max_position_embeddings"),
        )

    def has_experts(self, index: int) -> bool:
        """Every layer has routed experts."""
        return 0 <= index < self.num_hidden_layers

    @property
    def attention(self) -> AttentionShape:
        return AttentionShape(
            n_heads=self.num_attention_heads,
            n_kv_heads=self.num_key_value_heads,
            head_dim=self.head_dim,
            rope_dim=int(self.head_dim * self.partial_rotary_factor),
            output_gate=True,
        )

    @property
    def delta_net(self) -> DeltaNetShape:
        return DeltaNetShape(
            n_key_heads=self.linear_num_key_heads,
            n_value_heads=self.linear_num_value_heads,
            key_dim=self.linear_key_head_dim,
            value_dim=self.linear_value_head_dim,
            conv_kernel_size=self.linear_conv_kernel_dim,
        )


def _layer_types(reader: ConfigReader, n_layers: int) -> tuple[str, ...]:
    if not reader.has("layer_types"):
        interval = reader.integer("full_attention_interval", default=4)
        return tuple(
            LINEAR_ATTENTION if (index + 1) % interval else FULL_ATTENTION
            for index in range(n_layers)
        )
    types = reader.texts("layer_types")
    if len(types) != n_layers or not {*types} <= {FULL_ATTENTION, LINEAR_ATTENTION}:
        raise reader.error(
            "layer_types", f"{n_layers} times {FULL_ATTENTION} or {LINEAR_ATTENTION}"
        )
    return types


ProjectionLoader = Callable[[DenseWeights, Config], SeparateProjections | FusedProjections]


def load(checkpoint: Checkpoint, device: Device) -> LoadedModel:
    """Dense weights on `device` and the places of the routed experts."""
    return load_hybrid(checkpoint, device, separate_projections)


def load_hybrid(
    checkpoint: Checkpoint, device: Device, load_projections: ProjectionLoader
) -> LoadedModel:
    """Architectures that differ only in how the delta net's input projections are stored."""
    config = Config.from_checkpoint(checkpoint)
    loader = LayerLoader(checkpoint, config, device, load_projections)
    weights = DenseWeights(checkpoint, device)
    return load_decoder(checkpoint, config, weights, loader.layer, plus_one=loader.plus_one)


def separate_projections(weights: DenseWeights, config: Config) -> SeparateProjections:
    """in_proj_qkv, in_proj_z, in_proj_b and in_proj_a of one gated delta net."""
    shape, hidden = config.delta_net, config.hidden_size
    return SeparateProjections(
        qkv=weights.matrix("in_proj_qkv", shape.channels, hidden),
        z=weights.matrix("in_proj_z", shape.value_width, hidden),
        b=weights.matrix("in_proj_b", shape.n_value_heads, hidden),
        a=weights.matrix("in_proj_a", shape.n_value_heads, hidden),
    )


class LayerLoader:
    """Reads layer after layer of one checkpoint."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        config: Config,
        device: Device,
        load_projections: ProjectionLoader,
    ) -> None:
        self.plus_one = checkpoint.style == "hf"
        self._checkpoint = checkpoint
        self._config = config
        self._projections = load_projections
        self._rope = rope_frequencies(device, config.attention.rope_dim, config.rope_theta)

    def layer(self, index: int, weights: DenseWeights) -> tuple[DecoderLayer, LayerExperts]:
        """Layer `index`; `weights` are those under its prefix."""
        config = self._config
        linear = config.layer_types[index] == LINEAR_ATTENTION
        experts = self._checkpoint.experts(index, expert_shape(config))
        layer = DecoderLayer(
            index=index,
            input_norm=self._row_norm(weights, "input_layernorm"),
            mixer=self._delta_net(weights.under("linear_attn")) if linear
            else self._attention(weights.under("self_attn")),
            post_norm=self._row_norm(weights, "post_attention_layernorm"),
            mlp=self._moe(weights.under("mlp"), experts),
        )  # fmt: skip
        return layer, experts

    def _row_norm(self, weights: DenseWeights, name: str) -> RmsNorm:
        weight = self._norm(weights, name, self._config.hidden_size)
        return RmsNorm(weight, self._config.rms_norm_eps)

    def _norm(self, weights: DenseWeights, name: str, width: int) -> Vector:
        return weights.vector(f"{name}.weight", width, plus_one=self.plus_one)

    def _attention(self, weights: DenseWeights) -> FullAttention:
        config, shape = self._config, self._config.attention
        heads, kv_heads = shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim
        return FullAttention(
            shape=shape,
            q_proj=weights.matrix(
                "q_proj", shape.n_heads * shape.q_head_stride, config.hidden_size
            ),
            k_proj=weights.matrix("k_proj", kv_heads, config.hidden_size),
            v_proj=weights.matrix("v_proj", kv_heads, config.hidden_size),
            o_proj=weights.matrix("o_proj", config.hidden_size, heads),
            norms=HeadNorms(
                q=self._norm(weights, "q_norm", shape.head_dim),
                k=self._norm(weights, "k_norm", shape.head_dim),
                epsilon=config.rms_norm_eps,
                rope_frequencies=self._rope,
            ),
        )

    def _delta_net(self, weights: DenseWeights) -> GatedDeltaNet:
        config, shape = self._config, self._config.delta_net
        return GatedDeltaNet(
            shape=shape,
            projections=self._projections(weights, config),
            conv_weight=weights.convolution(
                "conv1d.weight", shape.channels, shape.conv_kernel_size
            ),
            a_log=weights.vector("A_log", shape.n_value_heads),
            dt_bias=weights.vector("dt_bias", shape.n_value_heads),
            norm=weights.vector("norm.weight", shape.value_dim),
            out_proj=weights.matrix("out_proj", config.hidden_size, shape.value_width),
            epsilon=config.rms_norm_eps,
        )

    def _moe(self, weights: DenseWeights, experts: LayerExperts) -> SparseMoe:
        config = self._config
        shared = SharedExpert(
            mlp=load_mlp(
                weights.under("shared_expert"),
                config.shared_expert_intermediate_size,
                config.hidden_size,
            ),
            shared_expert_gate=weights.matrix("shared_expert_gate", 1, config.hidden_size),
        )
        return load_moe(weights, config, experts, shared, normalise=config.norm_topk_prob)
