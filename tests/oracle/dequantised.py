"""The oracle: transformers in float32 on the weights that a checkpoint folder means.

Raw Hugging Face folders are loaded by transformers itself. MLX folders are dequantised here and
renamed to the tensors of the transformers class. Nothing of moeflux is used.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

# More threads cost more than they give on matrices this small.
torch.set_num_threads(1)

Tensors = dict[str, torch.Tensor]

# The plainest of its expert loops; the others are for speed and take float32 at most.
PLAIN = {"experts_implementation": "eager"}


def load_oracle(folder: Path) -> PreTrainedModel:
    """The checkpoint as a transformers model that computes in float32 on float32 weights."""
    settings = json.loads((folder / "config.json").read_text())
    config = text_config(settings)
    model = load_mlx(folder, settings, config) if is_mlx(folder) else load_raw(folder, config)
    return model.eval()


def text_config(settings: Mapping[str, Any]) -> PretrainedConfig:
    """The configuration of the text model in a config.json, which may wrap it in `text_config`."""
    text = dict(settings.get("text_config", settings))
    text["tie_word_embeddings"] = settings.get("tie_word_embeddings", False)
    return AutoConfig.for_model(text.pop("model_type"), **text)


def is_mlx(folder: Path) -> bool:
    """MLX folders stack the experts of a projection under switch_mlp."""
    return any(".switch_mlp." in name for name in read_tensors(folder))


def load_raw(folder: Path, config: PretrainedConfig) -> PreTrainedModel:
    """A folder in a layout that transformers reads."""
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder, config=config, dtype=torch.float32, output_loading_info=True, **PLAIN
    )
    model: PreTrainedModel = loaded[0]
    report: dict[str, Any] = loaded[1]
    problems = {kind: names for kind, names in report.items() if names}
    if problems:
        raise ValueError(f"transformers does not read {folder.name} without loss: {problems}")
    return model


def load_mlx(
    folder: Path, settings: Mapping[str, Any], config: PretrainedConfig
) -> PreTrainedModel:
    """A folder in the layout that `mlx_lm convert` writes, quantised or not."""
    quantization = settings.get("quantization", {})
    tensors = transformers_tensors(dequantised(read_tensors(folder), quantization), config)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32, **PLAIN)
    if config.tie_word_embeddings:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    model.load_state_dict(tensors)
    return model


def read_tensors(folder: Path) -> Tensors:
    """Every tensor of every shard, as stored."""
    tensors: Tensors = {}
    for shard in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(shard)
    return tensors


def dequantised(tensors: Tensors, quantization: Mapping[str, Any]) -> Tensors:
    """The same names without `.scales` and `.biases`, every matrix in float32."""
    result = {}
    for name, tensor in tensors.items():
        base = name.removesuffix(".weight")
        if name.endswith((".scales", ".biases")):
            continue
        if f"{base}.scales" in tensors:
            scheme = quantization.get(base, quantization)
            scales, biases = tensors[f"{base}.scales"], tensors[f"{base}.biases"]
            result[name] = dequantise(tensor, scales, biases, scheme["bits"], scheme["group_size"])
        else:
            result[name] = tensor.float()
    return result


def dequantise(
    words: torch.Tensor, scales: torch.Tensor, biases: torch.Tensor, bits: int, group_size: int
) -> torch.Tensor:
    """weight [..., cols] = code * scale + bias of its group, in float32.

    `words` uint32 [..., cols * bits / 32]: a row is one little-endian stream of codes, lowest bit
    first. `scales`, `biases` [..., cols / group_size].
    """
    stream = np.unpackbits(words.numpy().view(np.uint8), axis=-1, bitorder="little")
    digits = stream.reshape(*stream.shape[:-1], -1, bits)
    codes = (digits.astype(np.float32) * (2.0 ** np.arange(bits, dtype=np.float32))).sum(-1)
    grouped = torch.from_numpy(codes).reshape(*codes.shape[:-1], -1, group_size)
    weight: torch.Tensor = grouped * scales.float()[..., None] + biases.float()[..., None]
    return weight.flatten(-2)


def transformers_tensors(tensors: Tensors, config: PretrainedConfig) -> Tensors:
    """MLX names, axes and norms to those of the transformers class."""
    # These classes compute with 1 + weight where an MLX folder stores the sum.
    zero_centred = config.model_type != "qwen3_moe"
    result = {}
    for mlx_name, tensor in tensors.items():
        name = mlx_name.removeprefix("language_model.")
        if name.endswith("conv1d.weight"):
            result[name] = tensor.transpose(1, 2).contiguous()
        elif zero_centred and name.endswith("norm.weight") and "linear_attn" not in name:
            result[name] = tensor - 1.0
        else:
            result[name] = tensor
    for name in [name for name in result if name.endswith("switch_mlp.gate_proj.weight")]:
        mlp = name.removesuffix("switch_mlp.gate_proj.weight")
        gate, up, down = (
            result.pop(f"{mlp}switch_mlp.{projection}_proj.weight")
            for projection in ("gate", "up", "down")
        )
        result[f"{mlp}experts.gate_up_proj"] = torch.cat([gate, up], dim=1)
        result[f"{mlp}experts.down_proj"] = down
    return result


@torch.no_grad()
def logits(model: PreTrainedModel, token_ids: Sequence[int]) -> npt.NDArray[np.floating]:
    """Logits [T, V] after each token, in the model's own precision."""
    rows: npt.NDArray[np.floating] = model(torch.tensor([list(token_ids)])).logits[0].numpy()
    return rows


@torch.no_grad()
def greedy(model: PreTrainedModel, token_ids: Sequence[int], n_tokens: int) -> list[int]:
    """The most likely continuation, through the caches of transformers."""
    tokens: list[int] = []
    inputs, state = list(token_ids), None
    for _ in range(n_tokens):
        output = model(torch.tensor([inputs]), past_key_values=state, use_cache=True)
        state = output.past_key_values
        inputs = [int(output.logits[0, -1].argmax())]
        tokens += inputs
    return tokens
