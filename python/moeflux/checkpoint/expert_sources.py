"""Where a checkpoint keeps its routed experts: among its tensors, or in files of their own."""

from __future__ import annotations

import re
from functools import cached_property
from typing import Protocol

from moeflux.checkpoint.experts import ExpertShape, LayerExperts
from moeflux.checkpoint.tensor_table import TensorTable
from moeflux.errors import CheckpointError

_EXPERT = re.compile(r"\.layers\.(\d+)\.mlp\.(?:switch_mlp|experts)\.")


class ExpertSource(Protocol):
    """The routed experts of all layers."""

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that have routed experts, ascending."""

    @property
    def nbytes(self) -> int:
        """Bytes on disk of all routed experts."""

    def shape(self, layer: int) -> ExpertShape:
        """What is stored for a layer. Raises CheckpointError if the layer has no routed experts."""

    def find(self, layer: int, shape: ExpertShape) -> LayerExperts:
        """Where a layer's experts lie. Raises CheckpointError if absent or of another shape."""


def is_expert(name: str, trunk: str) -> bool:
    """Whether the tensor belongs to routed experts of the text model under `trunk`."""
    return name.startswith(trunk) and _EXPERT.match(name, len(trunk)) is not None


class TensorExperts:
    """Experts that are tensors of the checkpoint, in one of the layouts of LayerExperts.find."""

    def __init__(self, table: TensorTable, trunk: str) -> None:
        self._table = table
        self._trunk = trunk

    @cached_property
    def layers(self) -> tuple[int, ...]:
        trunk = self._trunk
        matches = (
            _EXPERT.match(name, len(trunk))
            for name in self._table.tensors
            if name.startswith(trunk)
        )
        return tuple(sorted({int(match[1]) for match in matches if match}))

    @cached_property
    def nbytes(self) -> int:
        tensors = self._table.tensors.items()
        return sum(tensor.nbytes for name, tensor in tensors if is_expert(name, self._trunk))

    def shape(self, layer: int) -> ExpertShape:
        """Rows are never packed, so that the rows of gate_proj and down_proj give the shape."""
        mlp = f"{self._trunk}.layers.{layer}.mlp"
        table = self._table
        if table.has(f"{mlp}.switch_mlp.gate_proj.weight"):
            n_experts, width = self._leading(f"{mlp}.switch_mlp.gate_proj.weight", 3)
            return ExpertShape(
                n_experts, width, self._leading(f"{mlp}.switch_mlp.down_proj.weight", 3)[1]
            )
        if table.has(f"{mlp}.experts.gate_up_proj"):
            n_experts, rows = self._leading(f"{mlp}.experts.gate_up_proj", 3)
            return ExpertShape(
                n_experts, rows // 2, self._leading(f"{mlp}.experts.down_proj", 3)[1]
            )
        n_experts = 0
        while table.has(f"{mlp}.experts.{n_experts}.gate_proj.weight"):
            n_experts += 1
        (width,) = self._leading(f"{mlp}.experts.0.gate_proj.weight", 2)
        return ExpertShape(
            n_experts, width, self._leading(f"{mlp}.experts.0.down_proj.weight", 2)[0]
        )

    def find(self, layer: int, shape: ExpertShape) -> LayerExperts:
        return LayerExperts.find(self._table, f"{self._trunk}.layers.{layer}", shape)

    def _leading(self, name: str, rank: int) -> tuple[int, ...]:
        """All sizes of the tensor but the last, which may count packed words."""
        tensor = self._table.entry(name)
        if len(tensor.shape) != rank:
            raise CheckpointError(
                f"{tensor.path}: tensor {name!r}: wanted {rank} dimensions, "
                f"got shape {list(tensor.shape)}"
            )
        return tensor.shape[:-1]
