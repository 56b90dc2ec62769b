"""Folders that flash-moe and the Rust moeflux prepare, read as they are.

- packed_experts/layer_NN.bin (2 bits: packed_experts_2bit): expert e at e * record size, no header;
  gate_proj, up_proj and down_proj, each as weight, scales and biases (bfloat16), without padding.
  Layers without routed experts have no file. layout.json beside them, or in the folder, may repeat
  the sizes.
- model_weights.bin: all other tensors, of which model_weights.json gives offset, size, shape, dtype
  and sometimes bits. Names are those of mlx_lm without "language_model.".
- config.json, or the section "config" of model_weights.json.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from moeflux.checkpoint.config import CONFIG_NAME, CheckpointConfig, make_config, read_config
from moeflux.checkpoint.config_reader import ConfigReader
from moeflux.checkpoint.experts import (
    Block,
    ExpertShape,
    LayerExperts,
    Projection,
    block_sizes,
    projection_shapes,
)
from moeflux.checkpoint.json_file import read_object, unreadable
from moeflux.checkpoint.quantization import Affine, Quantization
from moeflux.checkpoint.safetensors import DTYPE_BITS, TensorEntry
from moeflux.errors import CheckpointError
from moeflux.quant import AFFINE_BITS, GROUP_SIZES, Dtype, MatrixFormat

INDEX_NAME = "model_weights.json"
WEIGHTS_NAME = "model_weights.bin"
LAYOUT_NAME = "layout.json"
EXPERT_FOLDERS = ("packed_experts", "packed_experts_2bit")
_LAYER_FILE = re.compile(r"layer_(\d{2,4})\.bin")
_MODEL_TYPES = {
    ".linear_attn.in_proj_qkvz.weight": "qwen3_next",
    ".linear_attn.in_proj_qkv.weight": "qwen3_5_moe",
}
"""What tells the architecture of a folder that does not name it."""


@dataclass(frozen=True)
class FlashMoeExperts:
    """The expert files of such a folder."""

    folder: Path
    paths: Mapping[int, Path]
    config: ConfigReader

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(sorted(self.paths))

    @property
    def nbytes(self) -> int:
        return sum(_file_nbytes(path) for path in self.paths.values())

    def shape(self, layer: int) -> ExpertShape:
        """As the configuration says: the files have no header."""
        self._path(layer)
        config = self.config
        return ExpertShape(
            config.integer("num_experts"),
            config.integer("moe_intermediate_size"),
            config.integer("hidden_size"),
        )

    def find(self, layer: int, shape: ExpertShape) -> LayerExperts:
        """The layer's experts; the record's size tells bits and group size.

        Raises CheckpointError if no format gives this size, or layout.json another one.
        """
        path = self._path(layer)
        record_nbytes, rest = divmod(_file_nbytes(path), shape.n_experts)
        matches = [
            matrix_format
            for matrix_format in _formats(shape)
            if not rest and _record_nbytes(shape, matrix_format) == record_nbytes
        ]
        if len(matches) != 1:
            raise CheckpointError(
                f"{path}: {_file_nbytes(path)} bytes are not {shape.n_experts} records of affine "
                f"matrices [{shape.width}, {shape.hidden}] of any bits and group size"
            )
        self._check_layout(shape.n_experts, record_nbytes)
        projections, offset = [], 0
        for rows, cols in projection_shapes(shape).values():
            blocks = []
            for nbytes in block_sizes(rows, cols, matches[0]):
                offsets = range(offset, offset + shape.n_experts * record_nbytes, record_nbytes)
                blocks.append(Block(nbytes, (path,) * shape.n_experts, offsets))
                offset += nbytes
            projections.append(Projection(rows, cols, matches[0], tuple(blocks)))
        return LayerExperts.of(projections)

    def _path(self, layer: int) -> Path:
        if layer not in self.paths:
            raise CheckpointError(f"{self.folder}: no routed experts in layer {layer}")
        return self.paths[layer]

    def _check_layout(self, n_experts: int, record_nbytes: int) -> None:
        for path in (self.folder / LAYOUT_NAME, self.folder.parent / LAYOUT_NAME):
            if path.exists():
                layout = ConfigReader(read_object(path), path)
                if layout.integer("expert_size") != record_nbytes:
                    raise layout.error("expert_size", f"{record_nbytes}, as the files are long")
                if layout.integer("num_experts", default=n_experts) != n_experts:
                    raise layout.error("num_experts", str(n_experts))
                return


def is_flash_moe(folder: Path) -> bool:
    """Whether the folder holds both kinds of files."""
    return (folder / INDEX_NAME).exists() and _expert_folder(folder) is not None


def read_flash_moe(
    folder: Path,
) -> tuple[CheckpointConfig, dict[str, TensorEntry], FlashMoeExperts]:
    """Configuration, dense tensors and experts. Raises CheckpointError for a damaged folder."""
    path = folder / INDEX_NAME
    index = ConfigReader(read_object(path), path)
    entries = index.child("tensors")
    tensors = _read_tensors(entries, folder / WEIGHTS_NAME)
    if (folder / CONFIG_NAME).exists():
        config = read_config(folder)
    else:
        section = index.child("config")
        config = make_config({**section.values, "model_type": _model_type(section, tensors)}, path)
    experts_folder = _expert_folder(folder) or folder
    paths = {
        int(match[1]): file
        for file in experts_folder.iterdir()
        if (match := _LAYER_FILE.fullmatch(file.name))
    }
    if not paths:
        raise CheckpointError(f"{experts_folder}: no file layer_NN.bin")
    quantised = _read_affines(entries, tensors, config.text)
    common = Counter(quantised.values()).most_common(1)
    config = replace(config, quantization=Quantization(common[0][0] if common else None, quantised))
    return config, tensors, FlashMoeExperts(experts_folder, paths, config.text)


def _expert_folder(folder: Path) -> Path | None:
    return next((folder / name for name in EXPERT_FOLDERS if (folder / name).is_dir()), None)


def _file_nbytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise unreadable(path, error) from error


def _formats(shape: ExpertShape) -> list[MatrixFormat]:
    return [
        MatrixFormat(Dtype.BFLOAT16, bits, group_size)
        for bits in AFFINE_BITS
        for group_size in GROUP_SIZES
        if shape.width % group_size == 0 and shape.hidden % group_size == 0
    ]


def _record_nbytes(shape: ExpertShape, matrix_format: MatrixFormat) -> int:
    return sum(matrix_format.nbytes(*sizes) for sizes in projection_shapes(shape).values())


def _read_tensors(entries: ConfigReader, path: Path) -> dict[str, TensorEntry]:
    file_nbytes = _file_nbytes(path)
    tensors: dict[str, TensorEntry] = {}
    for name in entries.values:
        entry = entries.child(name)
        dtype, shape = entry.text("dtype"), entry.integers("shape")
        if dtype not in DTYPE_BITS:
            raise entry.error("dtype", f"one of {', '.join(DTYPE_BITS)}")
        offset, nbytes = entry.integer("offset", minimum=0), entry.integer("size", minimum=0)
        if 8 * nbytes != math.prod(shape) * DTYPE_BITS[dtype]:
            raise entry.error("size", f"the bytes of shape {list(shape)} of {dtype}")
        if offset + nbytes > file_nbytes:
            raise CheckpointError(
                f"{path}: tensor {name!r}: ends at byte {offset + nbytes}, the file has "
                f"{file_nbytes}"
            )
        tensors[name] = TensorEntry(name, dtype, shape, path, offset, nbytes)
    end, last = 0, ""
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.offset, tensor.nbytes)):
        if tensor.offset < end:
            raise CheckpointError(f"{path}: tensor {tensor.name!r} overlaps tensor {last!r}")
        end, last = tensor.offset + tensor.nbytes, tensor.name
    return tensors


def _model_type(config: ConfigReader, tensors: Mapping[str, TensorEntry]) -> str:
    if config.has("model_type"):
        return config.text("model_type")
    for ending, model_type in _MODEL_TYPES.items():
        if any(name.endswith(ending) for name in tensors):
            return model_type
    raise config.error("model_type", f"a name, or {CONFIG_NAME} beside the file")


def _read_affines(
    entries: ConfigReader, tensors: Mapping[str, TensorEntry], config: ConfigReader
) -> dict[str, Affine | None]:
    """Bits and group size of every quantised matrix, by its name.

    The widths of weight and scales, cols * bits / 32 and cols / group size, give only the product
    of the two. Where the index has no bits, the group size is that of embed_tokens, whose cols are
    known.
    """
    affines: dict[str, Affine | None] = {}
    for name in tensors:
        base, _, part = name.rpartition(".")
        if part != "scales":
            continue
        weight, scales = tensors.get(f"{base}.weight"), tensors[name]
        if weight is None or not weight.shape or not scales.shape or not scales.shape[-1]:
            raise CheckpointError(f"{scales.path}: tensor {name!r}: no weight that it scales")
        product = 32 * weight.shape[-1] / scales.shape[-1]
        entry = entries.child(weight.name)
        if entry.has("bits"):
            bits = entry.integer("bits")
            group_size = product / bits
        else:
            group_size = _embedding_group_size(tensors, config)
            bits = round(product / group_size)
        if bits not in AFFINE_BITS or group_size not in GROUP_SIZES or bits * group_size != product:
            raise CheckpointError(
                f"{weight.path}: tensor {weight.name!r}: {weight.shape[-1]} words and "
                f"{scales.shape[-1]} scales a row are not {bits} bits in groups of {group_size:g}"
            )
        affines[base] = Affine(bits, int(group_size))
    return affines


def _embedding_group_size(tensors: Mapping[str, TensorEntry], config: ConfigReader) -> int:
    scales = tensors.get("model.embed_tokens.scales")
    if scales is None:
        raise CheckpointError(
            f"{config.path}: matrices without 'bits' are ambiguous, and embed_tokens, whose width "
            "would tell the group size, is not quantised"
        )
    hidden = config.integer("hidden_size")
    return hidden // scales.shape[-1]
