"""A checkpoint folder: configuration, tensors and how they are named. Reads no tensor data."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

from moeflux.checkpoint.config import CheckpointConfig, read_config
from moeflux.checkpoint.expert_sources import ExpertSource, TensorExperts, is_expert
from moeflux.checkpoint.experts import ExpertShape, LayerExperts
from moeflux.checkpoint.flash_moe import is_flash_moe, read_flash_moe
from moeflux.checkpoint.packed_experts import is_packed, read_packed
from moeflux.checkpoint.safetensors import TensorEntry
from moeflux.checkpoint.shards import read_tensors
from moeflux.checkpoint.style import Style, find_lm_head, find_style, find_trunk
from moeflux.checkpoint.tensor_table import TensorTable


class Checkpoint:
    """Weights on disk and what they mean. Made by `Checkpoint.open`; holds no file open."""

    def __init__(
        self,
        path: Path,
        config: CheckpointConfig,
        tensors: Mapping[str, TensorEntry],
        experts: ExpertSource | None = None,
    ) -> None:
        """`experts`: the routed experts that are not among the tensors."""
        self.path = path
        self.config = config
        self.tensors = tensors
        self.table = TensorTable(path, tensors, config)
        self._experts = experts

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Checkpoint:
        """Read the configuration and every header: shards, packed or flash-moe files.

        Raises CheckpointError if the folder or one of its files is missing, unreadable or damaged.
        """
        path = Path(folder)
        if is_packed(path):
            return cls(path, read_config(path), *read_packed(path))
        if is_flash_moe(path):
            return cls(path, *read_flash_moe(path))
        return cls(path, read_config(path), read_tensors(path))

    @property
    def model_type(self) -> str:
        return self.config.model_type

    @cached_property
    def style(self) -> Style:
        """Conventions of mlx_lm's converter ("mlx") or of raw published weights ("hf").

        Files with experts of their own follow the former.
        """
        if self._experts is not None:
            return "mlx"
        return find_style(self.tensors, self.config.quantization.default is not None)

    @cached_property
    def trunk(self) -> str:
        """Name under which embed_tokens, layers and norm lie, such as "language_model.model"."""
        return find_trunk(self.tensors, self.path)

    def layer(self, layer: int) -> str:
        """Name under which the tensors of a layer lie."""
        return f"{self.trunk}.layers.{layer}"

    @property
    def embed_tokens(self) -> str:
        """Name of the token embedding matrix."""
        return f"{self.trunk}.embed_tokens"

    @cached_property
    def lm_head(self) -> str:
        """Name of the matrix that gives the logits; the token embedding where the two are tied."""
        if self.config.tie_word_embeddings:
            return self.embed_tokens
        return find_lm_head(self.tensors, self.trunk, self.path)

    def has(self, name: str) -> bool:
        return self.table.has(name)

    def entry(self, name: str) -> TensorEntry:
        """The tensor `name`. Raises CheckpointError with the files looked in and similar names."""
        return self.table.entry(name)

    def experts(self, layer: int, shape: ExpertShape) -> LayerExperts:
        """Where the routed experts of a layer lie. Raises CheckpointError as LayerExperts.find."""
        return self.expert_source.find(layer, shape)

    @cached_property
    def expert_source(self) -> ExpertSource:
        """The routed experts of all layers."""
        return self._experts or TensorExperts(self.table, self.trunk)

    @property
    def expert_nbytes(self) -> int:
        """Bytes of the routed experts of all layers."""
        return self.expert_source.nbytes

    @cached_property
    def dense_nbytes(self) -> int:
        """Bytes of the text model without its routed experts."""
        return sum(tensor.nbytes for tensor in self.dense_tensors())

    def dense_tensors(self) -> Iterator[TensorEntry]:
        """The tensors of the text model without its routed experts."""
        prefixes = (f"{self.trunk}.", f"{self.lm_head}.")
        return (
            tensor
            for name, tensor in self.tensors.items()
            if name.startswith(prefixes) and not is_expert(name, self.trunk)
        )
