"""Measure a model folder: held-out loss, routing, and agreement with transformers.

The packed weights are expanded to float32, so the numbers are those of the shipped file.
"""

import argparse
import importlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from config import ModelConfig
from export import PREFIX
from model import LanguageModel
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional


def unpack(words: Tensor, bits: int) -> Tensor:
    """32-bit words [.., W] to codes [.., W * 32 / bits], lowest bits first."""
    shifts = torch.arange(0, 32, bits)
    codes = (words.to(torch.int64)[..., None] >> shifts) & (2**bits - 1)
    flat: Tensor = codes.flatten(-2)
    return flat.float()


def expand(folder: Path) -> dict[str, Tensor]:
    """Float32 weights under the names of the file, less the prefix."""
    quantised = json.loads((folder / "config.json").read_text(encoding="utf-8"))["quantization"]
    with safe_open(folder / "model.safetensors", "pt") as file:
        raw: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    weights: dict[str, Tensor] = {}
    for name, value in raw.items():
        base = name.removesuffix(".weight")
        if base + ".scales" in raw:
            form = quantised.get(base, quantised)
            scales, biases = (raw[base + end].float()[..., None] for end in (".scales", ".biases"))
            codes = torch.unflatten(unpack(value, form["bits"]), -1, (-1, form["group_size"]))
            weights[name.removeprefix(PREFIX)] = (codes * scales + biases).flatten(-2)
        elif not name.endswith((".scales", ".biases")):
            weights[name.removeprefix(PREFIX)] = value.float()
    return weights


def trained_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Back to the names and conventions of training: joined experts, norms less one."""
    result: dict[str, Tensor] = {}
    for name, value in weights.items():
        if name.endswith("switch_mlp.gate_proj.weight"):
            base = name.removesuffix("switch_mlp.gate_proj.weight")
            up = weights[base + "switch_mlp.up_proj.weight"]
            result[base + "experts.gate_up_proj"] = torch.cat([value, up], 1)
            result[base + "experts.down_proj"] = weights[base + "switch_mlp.down_proj.weight"]
        elif name.endswith("conv1d.weight"):
            result[name] = value.movedim(1, 2)
        elif name.endswith("norm.weight") and not name.endswith("linear_attn.norm.weight"):
            result[name] = value - 1.0
        elif ".switch_mlp." not in name:
            result[name] = value
    return result


def load(folder: Path) -> LanguageModel:
    """The shipped model as the training model in float32."""
    contents = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model = LanguageModel(ModelConfig.from_json(contents)).eval()
    model.load_state_dict(trained_names(expand(folder)))
    return model


def load_transformers(folder: Path) -> Any:
    """The shipped model as transformers' own class in float32."""
    transformers = importlib.import_module("transformers")
    contents = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text = {**contents["text_config"], "dtype": "float32"}
    config = transformers.Qwen3_5MoeTextConfig(**text)
    model: Any = transformers.Qwen3_5MoeForCausalLM(config)
    model.float().eval()
    model.load_state_dict(trained_names(expand(folder)))
    return model


def spans(tokens: np.ndarray, length: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and targets [1, <= length] that cover the tokens once, one after the other."""
    for begin in range(0, len(tokens) - 1, length):
        part = torch.from_numpy(tokens[begin : begin + length + 1].astype(np.int64))[None]
        yield part[:, :-1], part[:, 1:]


@torch.inference_mode()
def held_out_loss(model: LanguageModel, tokens: np.ndarray, length: int) -> tuple[float, Tensor]:
    """Nats per token in windows of `length`, and how often each expert is chosen [layers, E]."""
    routers = model.routers()
    counts = torch.zeros(len(routers), model.config.num_experts)

    def count(router: Any, _inputs: Any, routing: Any) -> None:
        chosen = routing.experts.flatten()
        counts[routers.index(router)] += torch.bincount(chosen, minlength=counts.shape[1])

    hooks = [router.register_forward_hook(count) for router in routers]
    total = 0.0
    for inputs, targets in spans(tokens, length):
        logits = model.logits(inputs)[0]
        total += float(functional.cross_entropy(logits, targets[0], reduction="sum"))
    for hook in hooks:
        hook.remove()
    return total / (len(tokens) - 1), counts


def effective_experts(counts: Tensor) -> list[float]:
    """exp(entropy) of the choices of each layer: the number of experts if use is even."""
    shares = counts / counts.sum(-1, keepdim=True)
    entropy = -(shares * shares.clamp_min(1e-12).log()).sum(-1)
    return [round(value, 2) for value in entropy.exp().tolist()]


@torch.inference_mode()
def largest_difference(model: LanguageModel, folder: Path, tokens: np.ndarray) -> float:
    """Largest difference of any logit from transformers on a prompt."""
    prompt = torch.from_numpy(tokens[:200].astype(np.int64))[None]
    expected = load_transformers(folder)(prompt).logits
    return float((model.logits(prompt) - expected).abs().max())


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=None, help="use only the first tokens")
    options = parser.parse_args()
    tokens = np.load(options.data / "heldout.npy")
    bytes_per_token = np.load(options.data / "heldout_bytes.npy").sum() / len(tokens)
    tokens = tokens[: options.tokens]
    model = load(options.model)
    loss, counts = held_out_loss(model, tokens, options.length)
    print(
        json.dumps(
            {
                "nats_per_token": round(loss, 4),
                "bits_per_byte": round(loss / math.log(2) / bytes_per_token, 4),
                "window": options.length,
                "effective_experts": effective_experts(counts),
                "most_used_share": [
                    round(v, 3) for v in (counts.amax(-1) / counts.sum(-1)).tolist()
                ],
                "logits_from_transformers": largest_difference(model, options.model, tokens),
            }
        )
    )


if __name__ == "__main__":
    main()
