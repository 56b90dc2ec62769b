"""Tiny random checkpoints whose files are written by transformers and by mlx_lm."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

COMMON: dict[str, Any] = {
    "vocab_size": 384,
    "hidden_size": 256,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "moe_intermediate_size": 128,
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "norm_topk_prob": True,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
HYBRID: dict[str, Any] = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 64,
    "linear_value_head_dim": 64,
    "linear_conv_kernel_dim": 4,
    "shared_expert_intermediate_size": 128,
}
DENSE: dict[str, Any] = {
    "intermediate_size": 192,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}
PARTIAL_ROPE = {"rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": 0.25}
MULTIMODAL_ROPE = PARTIAL_ROPE | {"mrope_section": [4, 2, 2], "mrope_interleaved": True}
ROPE = {"rope_type": "default", "rope_theta": 1e6}

# What transformers calls the text model of a family, and the fields of its configuration.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3_5_moe": ("qwen3_5_moe_text", COMMON | HYBRID | {"rope_parameters": MULTIMODAL_ROPE}),
    "qwen3_next": (
        "qwen3_next",
        COMMON | HYBRID | DENSE | {"rope_parameters": PARTIAL_ROPE},
    ),
    "qwen3_moe": ("qwen3_moe", COMMON | DENSE | {"rope_parameters": ROPE}),
}


def random_model(kind: str, changes: Mapping[str, Any] | None = None) -> PreTrainedModel:
    """A random model of a family in bfloat16; `changes` are fields of its configuration."""
    torch.manual_seed(0)
    model_type, fields = FAMILIES[kind]
    config = AutoConfig.for_model(model_type, **fields | dict(changes or {}))
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    randomize(model)
    model.to(torch.bfloat16).eval()
    return model


@torch.no_grad()
def randomize(model: PreTrainedModel) -> None:
    """Weights that make every part of the model count and do not amplify rounding."""
    for name, parameter in model.named_parameters():
        noise = torch.randn_like(parameter)
        if name.endswith("A_log"):
            parameter.uniform_(0.5, 8.0).log_()
        elif name.endswith("dt_bias"):
            parameter.copy_(0.5 * noise)
        elif "norm" in name:
            # Multiples of 1/128, so that the 1 + weight that mlx_lm stores in bfloat16 is exact.
            parameter.add_((0.1 * noise * 128).round() / 128)
        elif "conv1d" in name:
            parameter.copy_(0.4 * noise)
        elif "embed_tokens" in name:
            # Tied, it is the output matrix too, and rms norms make up for the small scale.
            tied = model.config.tie_word_embeddings
            parameter.copy_(1.5 / parameter.shape[-1] ** 0.5 * noise if tied else noise)
        else:
            parameter.copy_(gain(name) / parameter.shape[-1] ** 0.5 * noise)


def gain(name: str) -> float:
    """Standard deviation of a matrix product: small where a branch ends, large at a router."""
    if name.endswith("mlp.gate.weight"):
        return 4.0
    if name.removesuffix(".weight").endswith(("o_proj", "out_proj", "down_proj")):
        return 0.45
    return 1.5


def save_with_transformers(model: PreTrainedModel, folder: Path) -> Path:
    """What save_pretrained writes: one tensor per expert and projection, a tokenizer beside it."""
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def save_as_published(model: PreTrainedModel, folder: Path) -> Path:
    """The layout in which the family is published.

    qwen3_5_moe: a configuration that wraps the text model's, and stacked experts. Others: what
    save_pretrained writes, with the flat configuration keys of the published files.
    """
    config = json.loads(model.config.to_json_string(use_diff=False))
    if model.config.model_type == "qwen3_5_moe_text":
        folder.mkdir()
        tensors = {
            re.sub(r"^model\.", "model.language_model.", name): tensor
            for name, tensor in model.state_dict().items()
        }
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        config["full_attention_interval"] = 4
        wrapper = {
            "architectures": ["Qwen3_5MoeForConditionalGeneration"],
            "model_type": "qwen3_5_moe",
            "tie_word_embeddings": config["tie_word_embeddings"],
            "text_config": config,
        }
        write_config(folder, wrapper)
    else:
        model.save_pretrained(folder)
        rope = config.pop("rope_parameters")
        config["rope_theta"] = rope["rope_theta"]
        config["num_experts"] = model.config.num_experts
        if model.config.model_type == "qwen3_next":
            config["partial_rotary_factor"] = rope["partial_rotary_factor"]
            config["full_attention_interval"] = 4
            del config["layer_types"]
        write_config(folder, config)
    save_tokenizer(folder)
    return folder


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    (folder / "config.json").write_text(json.dumps(config, indent=1))


def save_tokenizer(folder: Path) -> None:
    """Bytes as tokens: mlx_lm does not convert a folder without a tokenizer."""
    alphabet = ["<|begin|>", "<|end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {text: token for token, text in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|begin|>", eos_token="<|end|>"
    )
    wrapped.save_pretrained(folder)
