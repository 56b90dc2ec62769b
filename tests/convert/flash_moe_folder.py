"""Writes a checkpoint of mlx_lm in the files that flash-moe and the Rust moeflux prepare."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from stored_files import expert_blocks, headers, read_tensors

TENSOR_ALIGNMENT = 64


@dataclass(frozen=True)
class FlashMoeFiles:
    """Which of the optional parts are written."""

    bits: bool = True
    config_file: bool = False
    layout: bool = True
    expert_folder: str = "packed_experts"


def write_flash_moe(
    source: Path,
    folder: Path,
    n_experts: int,
    files: FlashMoeFiles = FlashMoeFiles(),
) -> None:
    """`source` is a folder with one safetensors file."""
    (folder / files.expert_folder).mkdir(parents=True)
    config = json.loads((source / "config.json").read_text())
    text = config.get("text_config", config)
    path = source / "model.safetensors"
    stored = headers(path)
    _write_experts(source, folder / files.expert_folder, text["num_hidden_layers"], n_experts)
    if files.layout:
        size = (folder / files.expert_folder / "layer_00.bin").stat().st_size // n_experts
        layout = {"expert_size": size, "num_layers": text["num_hidden_layers"]}
        layout |= {"num_experts": n_experts, "components": []}
        (folder / files.expert_folder / "layout.json").write_text(json.dumps(layout))
    overrides = config.get("quantization", {})
    tensors: dict[str, dict[str, object]] = {}
    with (folder / "model_weights.bin").open("wb") as output:
        for name, (dtype, shape, begin, end) in sorted(stored.items()):
            if ".switch_mlp." in name:
                continue
            output.write(bytes(-output.tell() % TENSOR_ALIGNMENT))
            stripped = name.removeprefix("language_model.")
            tensors[stripped] = {"offset": output.tell(), "size": end - begin}
            tensors[stripped] |= {"shape": shape, "dtype": dtype}
            base = name.removesuffix(".weight")
            if files.bits and f"{base}.scales" in stored:
                own = overrides.get(base) or overrides
                tensors[stripped]["bits"] = own["bits"]
            output.write(path.read_bytes()[begin:end])
    index = {"model": "tiny", "num_tensors": len(tensors), "tensors": tensors}
    index["config"] = {key: value for key, value in text.items() if key != "model_type"}
    (folder / "model_weights.json").write_text(json.dumps(index))
    shutil.copy(source / "tokenizer.json", folder)
    if files.config_file:
        shutil.copy(source / "config.json", folder)


def _write_experts(source: Path, folder: Path, n_layers: int, n_experts: int) -> None:
    tensors = read_tensors(source)
    for layer in range(n_layers):
        blocks = [
            block for expert in range(n_experts) for block in expert_blocks(tensors, layer, expert)
        ]
        (folder / f"layer_{layer:02}.bin").write_bytes(b"".join(blocks))
