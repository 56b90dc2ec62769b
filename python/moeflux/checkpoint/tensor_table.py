"""The tensors of a checkpoint by name, and the matrices they form. Reads no tensor data."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from moeflux.checkpoint.config import CheckpointConfig
from moeflux.checkpoint.quantization import Affine
from moeflux.checkpoint.safetensors import TensorEntry
from moeflux.errors import CheckpointError
from moeflux.quant import Dtype, MatrixFormat

DTYPES = {"F32": Dtype.FLOAT32, "F16": Dtype.FLOAT16, "BF16": Dtype.BFLOAT16}
"""Element types that kernels compute with, by their safetensors names."""

_MAX_COMPARED_NAMES = 1000


@dataclass(frozen=True)
class StoredMatrix:
    """A matrix in a checkpoint: its format, and weight, scales and biases, or weight alone."""

    format: MatrixFormat
    tensors: tuple[TensorEntry, ...]


def wrong(tensor: TensorEntry, wanted: str, got: str) -> CheckpointError:
    """The error to raise for a tensor that is not what was wanted."""
    return CheckpointError(f"{tensor.path}: tensor {tensor.name!r}: wanted {wanted}, got {got}")


def element_dtype(tensor: TensorEntry) -> Dtype:
    """The tensor's element type. Raises CheckpointError if no kernel takes it."""
    if tensor.dtype not in DTYPES:
        raise wrong(tensor, f"dtype {' or '.join(DTYPES)}", tensor.dtype)
    return DTYPES[tensor.dtype]


def check_shape(tensor: TensorEntry, *accepted: tuple[int, ...]) -> None:
    """Raises CheckpointError unless the tensor has one of the accepted shapes."""
    if tensor.shape not in accepted:
        wanted = " or ".join(str(list(shape)) for shape in accepted)
        raise wrong(tensor, f"shape {wanted}", str(list(tensor.shape)))


class TensorTable:
    """Looks tensors and matrices up and checks them against what a model wants."""

    def __init__(
        self, folder: Path, tensors: Mapping[str, TensorEntry], config: CheckpointConfig
    ) -> None:
        self.folder = folder
        self.tensors = tensors
        self._config = config

    def has(self, name: str) -> bool:
        return name in self.tensors

    def entry(self, name: str) -> TensorEntry:
        """The tensor `name`. Raises CheckpointError with the files looked in and similar names."""
        if name not in self.tensors:
            raise CheckpointError(
                f"{self._files()}: no tensor {name!r}; similar: {self._similar(name) or 'none'}"
            )
        return self.tensors[name]

    def matrix(self, name: str, shape: tuple[int, ...]) -> StoredMatrix:
        """The matrix (or stack of matrices) `name` of shape [..., rows, cols].

        It is quantised if the tensor name.scales exists; then name.weight holds cols * bits / 32
        words a row, and name.scales and name.biases cols / group_size values, with bits and group
        size as config.json says. Raises CheckpointError if tensors are missing, disagree with
        config.json, or have another dtype or shape.
        """
        weight = self.entry(f"{name}.weight")
        if not self.has(f"{name}.scales"):
            check_shape(weight, shape)
            return StoredMatrix(MatrixFormat(element_dtype(weight)), (weight,))
        scales, biases = self.entry(f"{name}.scales"), self.entry(f"{name}.biases")
        affine = self._config.quantization.of(name)
        if affine is None:
            raise CheckpointError(
                f"{scales.path}: tensor {scales.name!r} exists, but {self._config.path} does not "
                f"say that {name!r} is quantised"
            )
        tensors = (weight, scales, biases)
        _check_quantised(tensors, shape, affine)
        return StoredMatrix(
            MatrixFormat(element_dtype(scales), affine.bits, affine.group_size), tensors
        )

    def _files(self) -> str:
        names = sorted({tensor.path.name for tensor in self.tensors.values()})
        if len(names) > 3:
            names = [names[0], "...", f"{names[-1]} ({len(names)} files)"]
        return f"{self.folder}: {', '.join(names)}"

    def _similar(self, name: str) -> str:
        """The nearest names among those that share the longest dotted prefix with `name`."""
        candidates: list[str] = []
        prefix = name
        while prefix and not candidates:
            prefix = prefix[: prefix.rfind(".", 0, -1) + 1]
            candidates = [other for other in self.tensors if other.startswith(prefix)]
        return ", ".join(difflib.get_close_matches(name, candidates[:_MAX_COMPARED_NAMES], n=3))


def _check_quantised(
    tensors: tuple[TensorEntry, TensorEntry, TensorEntry], shape: tuple[int, ...], affine: Affine
) -> None:
    weight, scales, biases = tensors
    *leading, cols = shape
    if cols % affine.group_size:
        raise wrong(weight, f"whole groups of {affine.group_size} columns", f"{cols} columns")
    if weight.dtype != "U32":
        raise wrong(weight, "dtype U32 of a quantised matrix", weight.dtype)
    if biases.dtype != scales.dtype:
        raise wrong(biases, f"dtype {scales.dtype} like {scales.name!r}", biases.dtype)
    check_shape(weight, (*leading, cols * affine.bits // 32))
    check_shape(scales, (*leading, cols // affine.group_size))
    check_shape(biases, (*leading, cols // affine.group_size))
