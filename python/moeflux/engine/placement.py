"""Where the experts of a model lie under caps: slots, records in the host's memory, the drive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from moeflux._core import Device
from moeflux.engine.budget import LEAST_CHUNK, DeviceMemory, MemoryCapError, MemoryNeeds
from moeflux.errors import NoDeviceMemoryError
from moeflux.memory import available_memory, parse_size
from moeflux.settings import Settings

DEFAULT_SHARE_OF_AVAILABLE_MEMORY = 0.8


@dataclass(frozen=True)
class PromptChunk:
    """Tokens of a prefill chunk, and the activations beyond those of MemoryNeeds for it."""

    n_tokens: int
    nbytes: int = 0
    host_nbytes: int = 0
    """Of these, in memory that the host sees."""


SMALLEST_CHUNK = PromptChunk(LEAST_CHUNK)


class Caps(NamedTuple):
    """What a model may take: of memory as place_experts says, of a device's own in bytes."""

    memory: int | str | None
    vram: int | None


@dataclass(frozen=True)
class Placement:
    """How many experts have a slot and how many a record, and the caps that were asked for."""

    n_slots: int
    n_records: int
    """Experts that the host's memory keeps beside a device with memory of its own."""
    memory_cap: int | None
    """On the process, in bytes; None: none was asked for."""
    vram_cap: int | None
    """On what the model takes of the device's own memory, in bytes."""
    chunk: PromptChunk = SMALLEST_CHUNK

    def states_nbytes(self, needs: MemoryNeeds) -> int | None:
        """What the caps leave for the states of all sessions together; None: no cap on them."""
        slots_nbytes = self.n_slots * needs.slot_nbytes
        if needs.device is not None:
            others = needs.device_fixed_nbytes - needs.state_nbytes + slots_nbytes
            others += self.chunk.nbytes - self.chunk.host_nbytes
            return None if self.vram_cap is None else self.vram_cap - others
        others = needs.fixed_nbytes - needs.state_nbytes + slots_nbytes + self.chunk.nbytes
        return None if self.memory_cap is None else self.memory_cap - others

    def record_share(self, n_experts: int) -> float:
        """Of the experts without a slot, how many have a record, if all in slots have one too."""
        n_without = n_experts - self.n_slots
        return max(0, self.n_records - self.n_slots) / n_without if n_without else 0.0

    def host_nbytes(self, needs: MemoryNeeds) -> int:
        """What the process holds of the host's memory with all slots and records filled."""
        if needs.device is None:
            return needs.fixed_nbytes + self.n_slots * needs.slot_nbytes + self.chunk.nbytes
        records_nbytes = self.n_records * needs.slot_nbytes
        return needs.host_fixed_nbytes + records_nbytes + self.chunk.host_nbytes

    def device_nbytes(self, needs: MemoryNeeds) -> int:
        """What the model takes of a device's own memory; 0 if it has none."""
        if needs.device is None:
            return 0
        chunk_nbytes = self.chunk.nbytes - self.chunk.host_nbytes
        return needs.device_fixed_nbytes + self.n_slots * needs.slot_nbytes + chunk_nbytes


def place_experts(
    needs: MemoryNeeds,
    memory: int | str | None,
    vram_cap: int | None = None,
    chunk: PromptChunk = SMALLEST_CHUNK,
) -> Placement:
    """Slots and records that caps leave, at most one of each per expert.

    Where the device has memory of its own, `memory` caps the process and `vram_cap` the device,
    of which no cap exceeds what it has. Without caps, shares of the memory that is available now.
    Records are of no use where every expert has a slot. Raises MemoryCapError, ValueError.
    """
    memory_cap = None if memory is None else parse_size(memory)
    if needs.device is None:
        cap = memory_cap
        if cap is None:
            cap = needs.process_nbytes + _share(available_memory())
        if cap < needs.floor_nbytes:
            raise MemoryCapError(cap, needs)
        n_slots = _n_experts(needs, cap - needs.fixed_nbytes - chunk.nbytes)
        return Placement(n_slots, 0, memory_cap, None, chunk)
    available = needs.device.available_nbytes
    cap = _share(available) if vram_cap is None else min(vram_cap, available)
    if cap < needs.device_floor_nbytes:
        raise MemoryCapError(cap, needs, cap="vram")
    if memory_cap is not None and memory_cap < needs.host_fixed_nbytes:
        raise MemoryCapError(memory_cap, needs)
    n_slots = _n_experts(needs, cap - needs.device_fixed_nbytes - chunk.nbytes + chunk.host_nbytes)
    host_cap = memory_cap
    if host_cap is None:
        host_cap = needs.process_nbytes + _share(available_memory())
    n_records = _n_experts(needs, host_cap - needs.host_fixed_nbytes - chunk.host_nbytes)
    n_records = n_records if n_slots < needs.n_experts else 0
    return Placement(n_slots, n_records, memory_cap, vram_cap, chunk)


def vram_cap(settings: Settings, device: Device) -> int | None:
    """The cap that the settings ask for, in bytes.

    Raises NoDeviceMemoryError where the device shares the host's memory, ValueError for a size
    that is none.
    """
    if not settings.vram:
        return None
    own = DeviceMemory.of(device)
    try:
        cap = parse_size(settings.vram, None if own is None else own.total_nbytes)
    except ValueError as error:
        raise ValueError(f"vram: {error}") from error
    if own is None:
        raise NoDeviceMemoryError(
            f"vram of {settings.vram} was asked for, but the {device.name} device "
            f"({device.description}) has no memory of its own: memory caps the whole process"
        )
    return cap


def _share(nbytes: int) -> int:
    return int(DEFAULT_SHARE_OF_AVAILABLE_MEMORY * nbytes)


def _n_experts(needs: MemoryNeeds, nbytes: int) -> int:
    """Experts that fit, at most all."""
    return min(max(0, nbytes) // needs.slot_nbytes, needs.n_experts)
