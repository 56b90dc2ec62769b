"""The terms of the slot pool: slot states, demands, leases and refusals. Knows no policy."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from moeflux.errors import MoefluxError


class SlotState(Enum):
    """What the bytes of a slot are."""

    FREE = "free"
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


class Demand(Enum):
    """Who asks. PREFILL changes nothing of what decode has learnt, and its experts go first."""

    DECODE = "decode"
    PREFILL = "prefill"


class ExpertSlot(NamedTuple):
    """An expert of a layer and the slot that it owns; as a read, the slot to read it into."""

    layer: int
    expert: int
    slot: int


@dataclass(frozen=True, eq=False)
class Lease:
    """Pinned slots of some experts of one layer. Two leases are never equal."""

    layer: int
    ready: tuple[ExpertSlot, ...]
    """In memory."""
    late: tuple[ExpertSlot, ...]
    """A read is under way already."""
    missed: tuple[ExpertSlot, ...]
    """To be read now."""

    @property
    def slots(self) -> dict[int, int]:
        """Slot by expert."""
        return {entry.expert: entry.slot for entry in (*self.ready, *self.late, *self.missed)}


class SlotsExhaustedError(MoefluxError):
    """Fewer slots than missed experts: `layer`, `wanted`, `got`. Nothing has been changed."""

    def __init__(self, layer: int, wanted: int, got: int, where: str) -> None:
        super().__init__(f"layer {layer}: {wanted} missed experts want slots, got {got} ({where})")
        self.layer = layer
        self.wanted = wanted
        self.got = got


class SlotStateError(MoefluxError, ValueError):
    """A transition that the state of the slot, the lease or the pool does not allow."""
