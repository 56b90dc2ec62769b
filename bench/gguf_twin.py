"""The network of mid_checkpoint.py as GGUF: the same codes in Q4_0, the rest in float32.

usage: python bench/gguf_twin.py FILE [--layers 12] [--experts 128]

Needs the gguf package. Names and layouts are those that its reader expects of qwen35moe: value
heads of the gated delta net are interleaved by key head, A_log is stored as -exp.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter

from mid_checkpoint import (
    DELTA_DIM,
    HEAD_DIM,
    HEADS,
    HIDDEN,
    KEY_HEADS,
    KEYS,
    KV_HEADS,
    TOP_K,
    VALUE_HEADS,
    VALUES,
    VOCABULARY,
    WIDTH,
    Array,
    Quantised,
    RandomWeights,
    parts,
)

ARCHITECTURE = "qwen35moe"
NAMES = {
    "model.embed_tokens": "token_embd",
    "lm_head": "output",
    "model.norm": "output_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "post_attention_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "linear_attn.in_proj_qkv": "attn_qkv",
    "linear_attn.in_proj_z": "attn_gate",
    "linear_attn.in_proj_a": "ssm_alpha",
    "linear_attn.in_proj_b": "ssm_beta",
    "linear_attn.out_proj": "ssm_out",
    "linear_attn.conv1d": "ssm_conv1d",
    "linear_attn.A_log": "ssm_a",
    "linear_attn.dt_bias": "ssm_dt",
    "linear_attn.norm": "ssm_norm",
    "mlp.gate": "ffn_gate_inp",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp",
    "mlp.switch_mlp.gate_proj": "ffn_gate_exps",
    "mlp.switch_mlp.up_proj": "ffn_up_exps",
    "mlp.switch_mlp.down_proj": "ffn_down_exps",
}


def value_order(width: int) -> Array:
    """Value heads go by their number within a key head first; `width` rows belong to each."""
    heads = np.arange(VALUE_HEADS * width).reshape(KEY_HEADS, VALUE_HEADS // KEY_HEADS, width)
    return heads.transpose(1, 0, 2).reshape(-1)


ROW_ORDER = {
    "linear_attn.in_proj_qkv": np.concatenate(
        [np.arange(2 * KEYS), 2 * KEYS + value_order(DELTA_DIM)]
    ),
    "linear_attn.in_proj_z": value_order(DELTA_DIM),
    "linear_attn.in_proj_a": value_order(1),
    "linear_attn.in_proj_b": value_order(1),
    "linear_attn.A_log": value_order(1),
    "linear_attn.dt_bias": value_order(1),
}
ROW_ORDER["linear_attn.conv1d"] = ROW_ORDER["linear_attn.in_proj_qkv"]


def q4_0(tensor: Quantised, column_order: Array | None) -> Array:
    """Blocks of 32: a float16 scale, then code i with code i + 16 in each byte."""
    codes = tensor.codes
    scales = np.repeat(tensor.scales, 2, -1)
    if column_order is not None:
        codes, scales = codes[..., column_order], scales[..., column_order[::32] // 32]
    blocks = codes.reshape(*codes.shape[:-1], -1, 32)
    packed = blocks[..., :16] | blocks[..., 16:] << 4
    head = scales.astype(np.float16)[..., None].view(np.uint8)
    return np.concatenate([head, packed], -1).reshape(*codes.shape[:-1], -1)


def add_tensor(writer: GGUFWriter, name: str, tensor: Array | Quantised) -> None:
    layer = ""
    if name.startswith("model.layers."):
        _, _, number, name = name.split(".", 3)
        layer = f"blk.{number}."
    name = name.removesuffix(".weight")
    suffix = {"linear_attn.A_log": "", "linear_attn.dt_bias": ".bias"}.get(name, ".weight")
    stored = f"{layer}{NAMES[name]}{suffix}"
    order = ROW_ORDER.get(name)
    if isinstance(tensor, Quantised) and tensor.bits == 4:
        if order is not None:
            tensor = Quantised(tensor.words[order], tensor.scales[order], 4)
        columns = value_order(DELTA_DIM) if name == "linear_attn.out_proj" else None
        blocks = np.ascontiguousarray(q4_0(tensor, columns))
        writer.add_tensor(stored, blocks, raw_dtype=GGMLQuantizationType.Q4_0)
        return
    if isinstance(tensor, Quantised):
        scales = np.repeat(tensor.scales, 64, -1)
        tensor = (tensor.codes.astype(np.float32) + tensor.bias) * scales
    values = tensor.squeeze() if name != "mlp.gate" else tensor
    values = values[order] if order is not None else values
    values = -np.exp(values) if name == "linear_attn.A_log" else values
    writer.add_tensor(stored, np.ascontiguousarray(values, np.float32))


def add_metadata(writer: GGUFWriter, weights: RandomWeights) -> None:
    writer.add_block_count(weights.n_layers)
    writer.add_context_length(32768)
    writer.add_embedding_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e7)
    writer.add_rope_dimension_count(HEAD_DIM // 4)
    third = HEAD_DIM // 8 // 3
    writer.add_array(
        f"{ARCHITECTURE}.rope.dimension_sections", [HEAD_DIM // 8 - 2 * third, third, third, 0]
    )
    writer.add_expert_count(weights.n_experts)
    writer.add_expert_used_count(TOP_K)
    writer.add_expert_feed_forward_length(WIDTH)
    writer.add_expert_shared_feed_forward_length(WIDTH)
    writer.add_ssm_conv_kernel(4)
    writer.add_ssm_state_size(DELTA_DIM)
    writer.add_ssm_group_count(KEY_HEADS)
    writer.add_ssm_time_step_rank(VALUE_HEADS)
    writer.add_ssm_inner_size(VALUES)
    writer.add_uint32(f"{ARCHITECTURE}.full_attention_interval", 4)
    writer.add_vocab_size(VOCABULARY)
    add_vocabulary(writer)


def add_vocabulary(writer: GGUFWriter) -> None:
    """Byte tokens and fillers: the benchmark feeds token numbers, never text."""
    tokens: list[Any] = ["<|start|>", "<|end|>", *(f"<fill{i}>" for i in range(2, VOCABULARY))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3] + [1] * (VOCABULARY - 2))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)


def write_twin(path: Path, weights: RandomWeights) -> None:
    """Write the GGUF file; a fresh RandomWeights of the same seed has the same weights."""
    writer = GGUFWriter(path, ARCHITECTURE)
    add_metadata(writer, weights)
    for tensors in parts(weights):
        for name, tensor in tensors.items():
            add_tensor(writer, name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--experts", type=int, default=128)
    arguments = parser.parse_args()
    write_twin(arguments.file, RandomWeights(arguments.layers, arguments.experts))


if __name__ == "__main__":
    main()
