"""Which checkpoint to load, and how."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from moeflux.engine.budget import MemoryCapError
from moeflux.engine.model import Model
from moeflux.errors import MoefluxError
from moeflux.memory import format_size, parse_size
from moeflux.settings import Settings


class NoRoomError(MoefluxError):
    """Memory or disk has no room for the logits of an evaluation."""


@dataclass(frozen=True)
class ModelSource:
    """The folder of a checkpoint, and the arguments of moeflux.load."""

    folder: Path
    device: str = "auto"
    memory: int | str | None = None
    settings: Settings | None = None

    def load(self, reserved_nbytes: int = 0) -> Model:
        """Load it, with so much of the memory cap kept for logits.

        Raises as moeflux.load, and NoRoomError where only the logits are too much.
        """
        if self.memory is None or not reserved_nbytes:
            return Model(self.folder, self.device, self.memory, self.settings)
        cap = parse_size(self.memory)
        try:
            return Model(self.folder, self.device, max(1, cap - reserved_nbytes), self.settings)
        except MemoryCapError as error:
            if error.cap != "memory":
                raise
            if cap < error.wanted_nbytes:
                raise MemoryCapError(cap, error.needs) from error
            floor = format_size(error.wanted_nbytes)
            raise NoRoomError(
                f"memory of {format_size(cap)} is below the {floor} "
                f"that this model needs and the {format_size(reserved_nbytes)} for logits"
            ) from error
