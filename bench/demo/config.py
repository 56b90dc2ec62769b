"""Shapes of the demo model and the config.json that describes them."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ModelConfig:
    """Shapes; field names are those of `text_config` in config.json."""

    vocab_size: int = 8192
    hidden_size: int = 384
    num_hidden_layers: int = 8
    full_attention_interval: int = 4
    num_attention_heads: int = 6
    num_key_value_heads: int = 2
    head_dim: int = 64
    linear_num_key_heads: int = 4
    linear_num_value_heads: int = 8
    linear_key_head_dim: int = 64
    linear_value_head_dim: int = 64
    linear_conv_kernel_dim: int = 4
    num_experts: int = 32
    num_experts_per_tok: int = 4
    moe_intermediate_size: int = 64
    shared_expert_intermediate_size: int = 128
    max_position_embeddings: int = 4096
    rms_norm_eps: float = 1e-6
    rope_theta: float = 100_000.0
    partial_rotary_factor: float = 0.25

    def is_full_attention(self, layer: int) -> bool:
        """Whether layer number `layer` attends instead of running the delta rule."""
        return (layer + 1) % self.full_attention_interval == 0

    @property
    def rotary_width(self) -> int:
        """How many dimensions of a head are rotated."""
        return int(self.head_dim * self.partial_rotary_factor)

    def to_json(self, tokens: dict[str, int], quantised: dict[str, Any]) -> dict[str, Any]:
        """Contents of config.json; `tokens` has the ids of the three control tokens."""
        layers = range(self.num_hidden_layers)
        kinds = [
            "full_attention" if self.is_full_attention(i) else "linear_attention" for i in layers
        ]
        pairs = self.rotary_width // 2
        text = {
            "model_type": "qwen3_5_moe_text",
            **{
                key: value
                for key, value in vars(self).items()
                if key not in ("rope_theta", "partial_rotary_factor")
            },
            "layer_types": kinds,
            "hidden_act": "silu",
            "norm_topk_prob": True,
            "attention_bias": False,
            "attention_dropout": 0.0,
            "tie_word_embeddings": False,
            "mtp_num_hidden_layers": 0,
            "use_cache": True,
            "dtype": "bfloat16",
            "bos_token_id": None,
            "eos_token_id": tokens["<|endoftext|>"],
            "pad_token_id": tokens["<|endoftext|>"],
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": self.rope_theta,
                "partial_rotary_factor": self.partial_rotary_factor,
                "mrope_section": [pairs - 2 * (pairs // 3), pairs // 3, pairs // 3],
                "mrope_interleaved": True,
            },
        }
        return {
            "architectures": ["Qwen3_5MoeForConditionalGeneration"],
            "model_type": "qwen3_5_moe",
            "tie_word_embeddings": False,
            "eos_token_id": [tokens["<|endoftext|>"], tokens["<|im_end|>"]],
            "quantization": quantised,
            "quantization_config": quantised,
            "text_config": text,
        }

    @classmethod
    def from_json(cls, contents: dict[str, Any]) -> "ModelConfig":
        """The shapes out of a config.json."""
        text = contents["text_config"]
        merged = {**text, **text["rope_parameters"]}
        return cls(**{key: merged[key] for key in cls.__dataclass_fields__})
