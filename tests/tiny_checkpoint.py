"""Tiny random checkpoints: the same weights as published for transformers or as mlx_lm converts.

    checkpoint = write_mlx(TinyModel("qwen3_next"), folder, MlxLayout(bits=8))
    checkpoint.weights["layers.0.mlp.gate"]     # float32, dequantised; norms are 1 + w

Gains keep a random network calm enough for comparisons: branches into the residual stream are
small, and the router is decisive. Norms differ from 1 by multiples of 1/128, so that w and 1 + w
are both exact in bfloat16.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from stored_tensors import Float32, Stored, decode, dequantise, encode, quantise, write_safetensors

BRANCH_GAIN = 0.3
ROUTER_GAIN = 4.0
MATRIX_GAIN = 1.5
ROUTER_OVERRIDES = {"mlp.gate": (8, 64), "mlp.shared_expert_gate": (8, 64)}
"""What mlx_lm quantises otherwise than the rest: bits and group size by end of name."""

CheckpointFolders = Callable[[str, str], Path]
"""Folder of the tiny checkpoint of a kind in a style, as the fixture tiny_folder gives it."""


@dataclass(frozen=True)
class TinyModel:
    """Sizes of a model of family "qwen3_5_moe", "qwen3_next" or "qwen3_moe", and a seed.

    Layers (i + 1) % full_attention_interval == 0 are full attention in the two hybrid families.
    """

    kind: str = "qwen3_5_moe"
    seed: int = 0
    hidden: int = 128
    n_layers: int = 4
    n_experts: int = 8
    top_k: int = 2
    expert_width: int = 64
    shared_width: int = 64
    vocabulary: int = 320
    n_heads: int = 4
    n_kv_heads: int = 2
    head_dim: int = 32
    n_key_heads: int = 2
    n_value_heads: int = 4
    delta_head_dim: int = 32
    conv_kernel_size: int = 4
    full_attention_interval: int = 4
    tied: bool = False

    @property
    def hybrid(self) -> bool:
        return self.kind != "qwen3_moe"

    def is_linear(self, layer: int) -> bool:
        return self.hybrid and (layer + 1) % self.full_attention_interval != 0


@dataclass(frozen=True)
class HfLayout:
    """How raw weights are written. stacked_experts None: as the family is published.

    Aligned: every tensor starts at a multiple of its element size. Else: at an odd offset.
    """

    dtype: str = "BF16"
    stacked_experts: bool | None = None
    n_shards: int = 1
    aligned: bool = True


@dataclass(frozen=True)
class MlxLayout:
    """How converted weights are written. bits None: not quantised; override None: this not."""

    bits: int | None = 4
    group_size: int = 64
    overrides: Mapping[str, tuple[int, int] | None] = field(
        default_factory=lambda: ROUTER_OVERRIDES
    )
    dtype: str = "BF16"
    n_shards: int = 1
    aligned: bool = True

    def affine(self, name: str) -> tuple[int, int] | None:
        """Bits and group size of a weight; None if it is not quantised."""
        if self.bits is None or not _is_matrix(name):
            return None
        for end, override in self.overrides.items():
            if name.endswith(end):
                return override
        return self.bits, self.group_size


_HF, _MLX = HfLayout(), MlxLayout()


@dataclass(frozen=True)
class TinyCheckpoint:
    """A written checkpoint: its config.json, and what its weights mean, by name without trunk."""

    path: Path
    config: dict[str, object]
    weights: dict[str, Float32]


def write_hf(model: TinyModel, folder: Path, layout: HfLayout = _HF) -> TinyCheckpoint:
    """Write the model as published: norms of the hybrid families as w, convolution [C, 1, K]."""
    stored: dict[str, Stored] = {}
    weights: dict[str, Float32] = {}
    for name, weight in random_weights(model).items():
        shift = np.float32(1 if model.hybrid and _is_shifted_norm(name) else 0)
        dtype = _dtype(model, name, layout.dtype, wide=("A_log", "linear_attn.norm"))
        stored[name] = encode(weight - shift, dtype)
        weights[name] = decode(stored[name]) + shift
    wrapped = model.kind == "qwen3_5_moe"
    trunk = "model.language_model" if wrapped else "model"
    stacked = wrapped if layout.stacked_experts is None else layout.stacked_experts
    config = model_config(model)
    tensors = dict(_hf_tensors(stored, trunk, stacked))
    write_folder(folder, config, tensors, n_shards=layout.n_shards, aligned=layout.aligned)
    return TinyCheckpoint(folder, config, weights)


def write_mlx(model: TinyModel, folder: Path, layout: MlxLayout = _MLX) -> TinyCheckpoint:
    """Write the model as mlx_lm does: norms as 1 + w, convolution [C, K, 1], experts stacked."""
    prefix = "language_model." if model.kind == "qwen3_5_moe" else ""
    tensors: dict[str, Stored] = {}
    weights: dict[str, Float32] = {}
    overrides: dict[str, object] = {}
    for name, weight in random_weights(model).items():
        base = prefix + (name if name == "lm_head" else f"model.{name}")
        base = base.replace(".mlp.experts.", ".mlp.switch_mlp.")
        affine = layout.affine(name)
        if affine is not None:
            parts = quantise(weight, *affine, layout.dtype)
            tensors |= {f"{base}.{part}": stored for part, stored in parts.items()}
            weights[name] = dequantise(parts, *affine)
        else:
            stored = encode(weight, _dtype(model, name, layout.dtype, wide=("A_log",)))
            weights[name] = decode(stored)
            tensors[_with_suffix(base)] = _reshaped(stored, name, (-1, model.conv_kernel_size, 1))
        if layout.bits and _is_matrix(name) and affine != (layout.bits, layout.group_size):
            overrides[base] = {"group_size": affine[1], "bits": affine[0]} if affine else False
    config = model_config(model)
    if layout.bits:
        default = {"group_size": layout.group_size, "bits": layout.bits, "mode": "affine"}
        config["quantization"] = config["quantization_config"] = default | overrides
    write_folder(folder, config, tensors, n_shards=layout.n_shards, aligned=layout.aligned)
    return TinyCheckpoint(folder, config, weights)


# ---- weights ----


def random_weights(model: TinyModel) -> dict[str, Float32]:
    """The weights by name without trunk: matrices [rows, cols], experts stacked."""
    generator = np.random.default_rng(model.seed)
    weights = {}
    for name, shape in tensor_shapes(model):
        normal = generator.standard_normal(shape, dtype=np.float32)
        if name.endswith("A_log"):
            weights[name] = np.log(generator.uniform(0.5, 8.0, shape)).astype(np.float32)
        elif name.endswith("dt_bias"):
            weights[name] = normal * np.float32(0.5)
        elif name.endswith("norm"):
            weights[name] = (1 + np.round(normal * 12.8) / 128).astype(np.float32)
        elif name.endswith("conv1d"):
            weights[name] = normal * np.float32(0.4)
        elif name == "embed_tokens":
            weights[name] = normal
        else:
            weights[name] = normal * np.float32(_gain(name) / shape[-1] ** 0.5)
    return weights


def _gain(name: str) -> float:
    if name.endswith("mlp.gate"):
        return ROUTER_GAIN
    if name.endswith(("o_proj", "out_proj", "down_proj")):
        return MATRIX_GAIN * BRANCH_GAIN
    return MATRIX_GAIN


def tensor_shapes(model: TinyModel) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden = model.hidden
    yield "embed_tokens", (model.vocabulary, hidden)
    for layer in range(model.n_layers):
        shapes = _delta_net_shapes(model) if model.is_linear(layer) else _attention_shapes(model)
        shapes |= {"input_layernorm": (hidden,), "post_attention_layernorm": (hidden,)}
        shapes |= _moe_shapes(model)
        for name, shape in shapes.items():
            yield f"layers.{layer}.{name}", shape
    yield "norm", (hidden,)
    if not model.tied:
        yield "lm_head", (model.vocabulary, hidden)


def _attention_shapes(model: TinyModel) -> dict[str, tuple[int, ...]]:
    queries, keys = model.n_heads * model.head_dim, model.n_kv_heads * model.head_dim
    return {
        "self_attn.q_proj": (2 * queries if model.hybrid else queries, model.hidden),
        "self_attn.k_proj": (keys, model.hidden),
        "self_attn.v_proj": (keys, model.hidden),
        "self_attn.o_proj": (model.hidden, queries),
        "self_attn.q_norm": (model.head_dim,),
        "self_attn.k_norm": (model.head_dim,),
    }


def _delta_net_shapes(model: TinyModel) -> dict[str, tuple[int, ...]]:
    hidden, n_heads = model.hidden, model.n_value_heads
    keys, values = model.n_key_heads * model.delta_head_dim, n_heads * model.delta_head_dim
    if model.kind == "qwen3_next":
        projections = {"in_proj_qkvz": 2 * keys + 2 * values, "in_proj_ba": 2 * n_heads}
    else:
        projections = {
            "in_proj_qkv": 2 * keys + values,
            "in_proj_z": values,
            "in_proj_b": n_heads,
            "in_proj_a": n_heads,
        }
    shapes: dict[str, tuple[int, ...]] = {
        name: (rows, hidden) for name, rows in projections.items()
    }
    shapes |= {
        "conv1d": (2 * keys + values, model.conv_kernel_size),
        "A_log": (n_heads,),
        "dt_bias": (n_heads,),
        "norm": (model.delta_head_dim,),
        "out_proj": (hidden, values),
    }
    return {f"linear_attn.{name}": shape for name, shape in shapes.items()}


def _moe_shapes(model: TinyModel) -> dict[str, tuple[int, ...]]:
    n_experts, hidden = model.n_experts, model.hidden
    width, shared = model.expert_width, model.shared_width
    shapes: dict[str, tuple[int, ...]] = {
        "gate": (n_experts, hidden),
        "experts.gate_proj": (n_experts, width, hidden),
        "experts.up_proj": (n_experts, width, hidden),
        "experts.down_proj": (n_experts, hidden, width),
    }
    if model.hybrid:
        shapes |= {
            "shared_expert.gate_proj": (shared, hidden),
            "shared_expert.up_proj": (shared, hidden),
            "shared_expert.down_proj": (hidden, shared),
            "shared_expert_gate": (1, hidden),
        }
    return {f"mlp.{name}": shape for name, shape in shapes.items()}


# ---- names and layouts ----


def _is_matrix(name: str) -> bool:
    return not name.endswith(("norm", "conv1d", "A_log", "dt_bias"))


def _is_shifted_norm(name: str) -> bool:
    return name.endswith("norm") and not name.endswith("linear_attn.norm")


def _dtype(model: TinyModel, name: str, dtype: str, *, wide: tuple[str, ...]) -> str:
    """The layout's dtype, save that qwen3_5_moe is published with some small tensors in float32."""
    return "F32" if model.kind == "qwen3_5_moe" and name.endswith(wide) else dtype


def _with_suffix(name: str) -> str:
    return name if name.endswith(("A_log", "dt_bias")) else f"{name}.weight"


def _reshaped(stored: Stored, name: str, conv_shape: tuple[int, ...]) -> Stored:
    dtype, array = stored
    return dtype, array.reshape(conv_shape) if name.endswith("conv1d") else array


def _hf_tensors(
    stored: Mapping[str, Stored], trunk: str, stacked: bool
) -> Iterator[tuple[str, Stored]]:
    for name, (dtype, array) in stored.items():
        prefix, is_expert, projection = name.partition(".experts.")
        experts = f"{trunk}.{prefix}.experts"
        if not is_expert:
            conv_shape = (array.shape[0], 1, array.shape[-1])
            base = name if name == "lm_head" else f"{trunk}.{name}"
            yield _with_suffix(base), _reshaped((dtype, array), name, conv_shape)
        elif not stacked:
            for expert, matrix in enumerate(array):
                yield f"{experts}.{expert}.{projection}.weight", (dtype, matrix)
        elif projection == "gate_proj":
            up_proj = stored[f"{prefix}.experts.up_proj"][1]
            yield f"{experts}.gate_up_proj", (dtype, np.concatenate([array, up_proj], axis=1))
        elif projection == "down_proj":
            yield f"{experts}.down_proj", (dtype, array)


# ---- files ----


def write_folder(
    folder: Path, config: object, tensors: Mapping[str, Stored], *, n_shards: int, aligned: bool
) -> None:
    """Write config.json, generation_config.json, the tokenizer, and the tensors in shards."""
    folder.mkdir(parents=True, exist_ok=True)
    generation = {"bos_token_id": 0, "eos_token_id": [1], "do_sample": True, "temperature": 0.7}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps(generation))
    (folder / "tokenizer.json").write_text(tokenizer_json())
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG))
    if aligned:
        # Larger elements first, as the safetensors library orders them, so that each is aligned.
        tensors = dict(sorted(tensors.items(), key=lambda item: -item[1][1].itemsize))
    if n_shards == 1:
        write_safetensors(folder / "model.safetensors", tensors, aligned=aligned)
        return
    weight_map: dict[str, str] = {}
    for shard, names in enumerate(np.array_split(list(tensors), n_shards), 1):
        file_name = f"model-{shard:05}-of-{n_shards:05}.safetensors"
        part = {str(name): tensors[str(name)] for name in names}
        write_safetensors(folder / file_name, part, aligned=aligned)
        weight_map |= dict.fromkeys(part, file_name)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def model_config(model: TinyModel) -> dict[str, object]:
    """config.json as published: qwen3_5_moe wraps the text model's in text_config."""
    text: dict[str, object] = {
        "model_type": model.kind,
        "vocab_size": model.vocabulary,
        "hidden_size": model.hidden,
        "num_hidden_layers": model.n_layers,
        "num_attention_heads": model.n_heads,
        "num_key_value_heads": model.n_kv_heads,
        "head_dim": model.head_dim,
        "hidden_act": "silu",
        "attention_bias": False,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": model.tied,
        "num_experts": model.n_experts,
        "num_experts_per_tok": model.top_k,
        "norm_topk_prob": True,
        "moe_intermediate_size": model.expert_width,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "rope_theta": 1e7 if model.hybrid else 1e6,
    }
    if model.hybrid:
        text |= {
            "shared_expert_intermediate_size": model.shared_width,
            "full_attention_interval": model.full_attention_interval,
            "linear_num_key_heads": model.n_key_heads,
            "linear_num_value_heads": model.n_value_heads,
            "linear_key_head_dim": model.delta_head_dim,
            "linear_value_head_dim": model.delta_head_dim,
            "linear_conv_kernel_dim": model.conv_kernel_size,
        }
    if model.kind != "qwen3_5_moe":
        text |= {"intermediate_size": model.shared_width, "decoder_sparse_step": 1}
        text |= {"mlp_only_layers": []} | ({"partial_rotary_factor": 0.25} if model.hybrid else {})
        return text
    n_pairs = int(model.head_dim * 0.25) // 2
    text["model_type"] = "qwen3_5_moe_text"
    text["mtp_num_hidden_layers"] = 0
    text["layer_types"] = [
        "linear_attention" if model.is_linear(layer) else "full_attention"
        for layer in range(model.n_layers)
    ]
    text["rope_parameters"] = {
        "rope_type": "default",
        "rope_theta": text.pop("rope_theta"),
        "partial_rotary_factor": 0.25,
        "mrope_interleaved": True,
        "mrope_section": [n_pairs - 2 * (n_pairs // 3), n_pairs // 3, n_pairs // 3],
    }
    return {
        "architectures": ["Qwen3_5MoeForConditionalGeneration"],
        "model_type": "qwen3_5_moe",
        "tie_word_embeddings": model.tied,
        "eos_token_id": 1,
        "text_config": text,
    }


# ---- tokenizer ----

TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<|bos|>",
    "eos_token": "<|eos|>",
    "chat_template": "{% for message in messages %}"
    "{{ message.role }}: {{ message.content }}\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}",
}


@cache
def tokenizer_json() -> str:
    """A byte-level BPE: <|bos|> 0, <|eos|> 1, the 256 bytes, and merges of " the"."""
    tokens = ["<|bos|>", "<|eos|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    merges = [("\u0120", "t"), ("h", "e"), ("\u0120t", "he")]
    tokens += [left + right for left, right in merges]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|bos|>", "<|eos|>"])
    return str(tokenizer.to_str())
