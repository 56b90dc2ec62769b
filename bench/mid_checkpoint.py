"""Writes a checkpoint of random weights and its GGUF twin, so that two engines run one network.

Qwen3.5-MoE in MLX affine 4 bits, groups of 64. Every bias is -8 scales, which Q4_0 of GGUF holds
exactly: the twin has the same codes. Codes are 1 to 15, so that weights have mean zero.

usage: python bench/mid_checkpoint.py FOLDER [--layers 12] [--experts 128]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
HEAD_DIM, KEY_HEADS, VALUE_HEADS, DELTA_DIM, KV_HEADS, HEADS = 256, 16, 32, 128, 2, 16
HIDDEN, WIDTH, TOP_K, VOCABULARY = 2048, 512, 8, 32768
KEYS, VALUES = KEY_HEADS * DELTA_DIM, VALUE_HEADS * DELTA_DIM


@dataclass(frozen=True)
class Quantised:
    """Codes [.., rows, cols] of `bits` packed in words, and a scale for every 64."""

    words: Array
    scales: Array
    """float32 values that bfloat16 holds."""
    bits: int

    @property
    def bias(self) -> int:
        return -(1 << (self.bits - 1))

    @property
    def codes(self) -> Array:
        packed = self.words.view(np.uint8)
        if self.bits == 8:
            return packed
        codes = np.stack([packed & 15, packed >> 4], -1)
        return codes.reshape(*packed.shape[:-1], -1)


def bfloat16(values: Array) -> Array:
    """Rounded to nearest, as float32."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view(np.float32)


class RandomWeights:
    """Tensors by name of the MLX layout, without the language_model prefix."""

    def __init__(self, n_layers: int, n_experts: int, seed: int = 0) -> None:
        self.n_layers, self.n_experts = n_layers, n_experts
        self._generator = np.random.default_rng(seed)

    def quantised(self, *shape: int, gain: float = 1.0, bits: int = 4) -> Quantised:
        *leading, cols = shape
        nbytes = int(np.prod(shape, dtype=np.int64)) * bits // 8
        packed = np.frombuffer(self._generator.bytes(nbytes), np.uint8).copy()
        if bits == 4:
            packed[packed & 15 == 0] |= 8
            packed[packed >> 4 == 0] |= 0x80
        else:
            packed[packed == 0] = 128
        deviation = {4: 4.18, 8: 73.5}[bits]  # of such codes
        scales = (
            gain / cols**0.5 / deviation * self._generator.uniform(0.7, 1.3, (*leading, cols // 64))
        )
        words = packed.view(np.uint32).reshape(*leading, cols * bits // 32)
        return Quantised(words, bfloat16(scales), bits)

    def norm(self, n: int) -> Array:
        return bfloat16(1 + np.round(self._generator.normal(0, 0.1, n) * 128) / 128)

    def ends(self) -> dict[str, Array | Quantised]:
        return {
            "model.embed_tokens": self.quantised(VOCABULARY, HIDDEN, gain=HIDDEN**0.5),
            "lm_head": self.quantised(VOCABULARY, HIDDEN, gain=1.5),
            "model.norm.weight": self.norm(HIDDEN),
        }

    def layer(self, index: int) -> dict[str, Array | Quantised]:
        tensors: dict[str, Array | Quantised] = {
            "input_layernorm.weight": self.norm(HIDDEN),
            "post_attention_layernorm.weight": self.norm(HIDDEN),
        }
        tensors |= self._attention() if (index + 1) % 4 == 0 else self._delta_net()
        tensors["mlp.gate"] = self.quantised(self.n_experts, HIDDEN, gain=4.0, bits=8)
        tensors["mlp.shared_expert_gate"] = self.quantised(1, HIDDEN, bits=8)
        for name, rows, cols, gain in (
            ("gate_proj", WIDTH, HIDDEN, 1.0),
            ("up_proj", WIDTH, HIDDEN, 1.0),
            ("down_proj", HIDDEN, WIDTH, 0.3),
        ):
            tensors[f"mlp.shared_expert.{name}"] = self.quantised(rows, cols, gain=gain)
            tensors[f"mlp.switch_mlp.{name}"] = self.quantised(
                self.n_experts, rows, cols, gain=gain
            )
        return {f"model.layers.{index}.{name}": tensor for name, tensor in tensors.items()}

    def _attention(self) -> dict[str, Array | Quantised]:
        return {
            "self_attn.q_proj": self.quantised(2 * HEADS * HEAD_DIM, HIDDEN),
            "self_attn.k_proj": self.quantised(KV_HEADS * HEAD_DIM, HIDDEN),
            "self_attn.v_proj": self.quantised(KV_HEADS * HEAD_DIM, HIDDEN),
            "self_attn.o_proj": self.quantised(HIDDEN, HEADS * HEAD_DIM, gain=0.3),
            "self_attn.q_norm.weight": self.norm(HEAD_DIM),
            "self_attn.k_norm.weight": self.norm(HEAD_DIM),
        }

    def _delta_net(self) -> dict[str, Array | Quantised]:
        channels, normal = 2 * KEYS + VALUES, self._generator.normal
        decay = self._generator.uniform(0.5, 8, VALUE_HEADS)
        return {
            "linear_attn.in_proj_qkv": self.quantised(channels, HIDDEN),
            "linear_attn.in_proj_z": self.quantised(VALUES, HIDDEN),
            "linear_attn.in_proj_a": self.quantised(VALUE_HEADS, HIDDEN),
            "linear_attn.in_proj_b": self.quantised(VALUE_HEADS, HIDDEN),
            "linear_attn.out_proj": self.quantised(HIDDEN, VALUES, gain=0.3),
            "linear_attn.conv1d.weight": bfloat16(normal(0, 0.4, (channels, 4, 1))),
            "linear_attn.A_log": np.log(decay).astype(np.float32),
            "linear_attn.dt_bias": bfloat16(normal(0, 0.5, VALUE_HEADS)),
            "linear_attn.norm.weight": self.norm(DELTA_DIM),
        }


def stored_tensors(tensors: dict[str, Array | Quantised]) -> dict[str, tuple[str, Array]]:
    """Safetensors dtype and array by published name."""
    stored: dict[str, tuple[str, Array]] = {}
    for name, tensor in tensors.items():
        key = f"language_model.{name}"
        if isinstance(tensor, Quantised):
            stored[f"{key}.weight"] = "U32", tensor.words
            stored[f"{key}.scales"] = "BF16", upper_half(tensor.scales)
            stored[f"{key}.biases"] = "BF16", upper_half(tensor.bias * tensor.scales)
        elif name.endswith("A_log"):
            stored[key] = "F32", tensor
        else:
            stored[key] = "BF16", upper_half(tensor)
    return stored


def upper_half(values: Array) -> Array:
    """The bfloat16 bits of float32 values that bfloat16 holds."""
    return (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def write_safetensors(path: Path, tensors: dict[str, tuple[str, Array]]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
    offset = 0
    for name, (dtype, array) in tensors.items():
        ends = [offset, offset + array.nbytes]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": ends}
        offset += array.nbytes
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, array in tensors.values():
            file.write(np.ascontiguousarray(array).data)


def text_config(weights: RandomWeights) -> dict[str, Any]:
    kinds = [
        "full_attention" if (i + 1) % 4 == 0 else "linear_attention"
        for i in range(weights.n_layers)
    ]
    return {
        "model_type": "qwen3_5_moe_text",
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "num_hidden_layers": weights.n_layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": DELTA_DIM,
        "linear_value_head_dim": DELTA_DIM,
        "linear_num_key_heads": KEY_HEADS,
        "linear_num_value_heads": VALUE_HEADS,
        "moe_intermediate_size": WIDTH,
        "shared_expert_intermediate_size": WIDTH,
        "num_experts": weights.n_experts,
        "num_experts_per_tok": TOP_K,
        "norm_topk_prob": True,
        "full_attention_interval": 4,
        "eos_token_id": 1,
        "layer_types": kinds,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e7,
            "partial_rotary_factor": 0.25,
        },
    }


def parts(weights: RandomWeights) -> Iterator[dict[str, Array | Quantised]]:
    """Tensors of the ends, then of each layer."""
    yield weights.ends()
    yield from map(weights.layer, range(weights.n_layers))


def write_checkpoint(folder: Path, weights: RandomWeights) -> None:
    """MLX safetensors, a file per layer, and config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    index: dict[str, str] = {}
    quantisation: dict[str, Any] = {"group_size": 64, "bits": 4, "mode": "affine"}
    for number, tensors in enumerate(parts(weights), 1):
        name = f"model-{number:05d}-of-{weights.n_layers + 1:05d}.safetensors"
        stored = stored_tensors(tensors)
        write_safetensors(folder / name, stored)
        index |= dict.fromkeys(stored, name)
        for key, tensor in tensors.items():
            if isinstance(tensor, Quantised) and tensor.bits == 8:
                quantisation[f"language_model.{key}"] = {"group_size": 64, "bits": 8}
    config = {
        "architectures": ["Qwen3_5MoeForConditionalGeneration"],
        "model_type": "qwen3_5_moe",
        "eos_token_id": 1,
        "tie_word_embeddings": False,
        "quantization": quantisation,
        "text_config": text_config(weights),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    weight_map = json.dumps({"metadata": {}, "weight_map": index})
    (folder / "model.safetensors.index.json").write_text(weight_map)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--experts", type=int, default=128)
    arguments = parser.parse_args()
    write_checkpoint(arguments.folder, RandomWeights(arguments.layers, arguments.experts))


if __name__ == "__main__":
    main()
