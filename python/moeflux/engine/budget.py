"""What a model needs in memory, by purpose. Decides nothing.

Known before anything is allocated.
"""

from __future__ import annotations

from dataclasses import dataclass

from moeflux._core import Device
from moeflux.engine.dry_run import scratch_of
from moeflux.errors import MoefluxError
from moeflux.experts.stream import slot_nbytes
from moeflux.memory import available_memory, format_size, parse_size, resident_memory
from moeflux.models.loaded import LoadedModel, ModelConfig
from moeflux.settings import Settings

MAX_DEFAULT_CONTEXT = 32768
LEAST_CHUNK = 256
"""Tokens of a prefill chunk, unless the settings ask for another number or more pay."""

Rows = list[tuple[str, str]]


@dataclass(frozen=True)
class DeviceMemory:
    """Of a device with memory of its own, in bytes."""

    total_nbytes: int
    available_nbytes: int
    """Free, or taken by this device object already."""
    staging_nbytes: int
    """Of the host's memory, for reads to the device by one worker."""

    @classmethod
    def of(cls, device: Device) -> DeviceMemory | None:
        """None for a device that shares the host's memory."""
        told = device.memory()
        if "free" not in told:
            return None
        available = told["free"] + told.get("allocated", 0)
        return cls(told["total"], available, told.get("staging", 0))


@dataclass(frozen=True)
class MemoryNeeds:
    """Bytes by purpose, whatever the number of slots and of records."""

    process_nbytes: int
    """Interpreter and libraries, as measured."""
    dense_nbytes: int
    state_nbytes: int
    """One session at the context asked for."""
    scratch_nbytes: int
    """Activations of decode and of the least prefill chunk."""
    slot_nbytes: int
    """Of one slot or record: an expert, rounded up to whole pages."""
    n_experts: int
    """Routed experts of all layers together."""
    top_k: int
    prefix_nbytes: int = 0
    """Room for stored prefixes in memory."""
    host_scratch_nbytes: int = 0
    """Of the activations, what the host sees."""
    staging_nbytes: int = 0
    """Of the host, through which reads get to a device with memory of its own."""
    device: DeviceMemory | None = None
    """None: the host and the device share one memory."""

    @property
    def fixed_nbytes(self) -> int:
        """All but slots and records, on host and device together."""
        model_nbytes = self.dense_nbytes + self.state_nbytes + self.scratch_nbytes
        return self.process_nbytes + model_nbytes + self.prefix_nbytes + self.staging_nbytes

    @property
    def device_fixed_nbytes(self) -> int:
        """What lies on a device with memory of its own, but for the slots."""
        return (
            self.dense_nbytes + self.state_nbytes + self.scratch_nbytes - self.host_scratch_nbytes
        )

    @property
    def host_fixed_nbytes(self) -> int:
        """What lies in the host's memory beside such a device, but for the records."""
        return self.fixed_nbytes - self.device_fixed_nbytes

    @property
    def floor_slots_nbytes(self) -> int:
        """Of the fewest slots that run the model: top_k for decode, two for prefill."""
        return max(2, self.top_k) * self.slot_nbytes

    @property
    def floor_nbytes(self) -> int:
        """Least memory that runs the model, on host and device together."""
        return self.fixed_nbytes + self.floor_slots_nbytes

    @property
    def device_floor_nbytes(self) -> int:
        """Least memory of a device with memory of its own."""
        return self.device_fixed_nbytes + self.floor_slots_nbytes

    @property
    def whole_nbytes(self) -> int:
        """Memory in which every expert has a slot."""
        return self.fixed_nbytes + self.n_experts * self.slot_nbytes

    def page_cache_share(self, n_slots: int, n_records: int = 0) -> float:
        """Of the experts that memory does not hold, how many stay in the page cache beside it.

        It also keeps, until they age, those that have gone from there into slots and records.
        """
        n_held = max(n_slots, n_records)
        n_without = self.n_experts - n_held
        if n_without == 0:
            return 1.0
        if self.device is None:
            taken = self.fixed_nbytes - self.process_nbytes + n_slots * self.slot_nbytes
        else:
            taken = self.host_fixed_nbytes - self.process_nbytes + n_records * self.slot_nbytes
        n_cached = (available_memory() - taken) // self.slot_nbytes
        return min(1.0, max(0.0, (n_cached - n_held) / n_without))

    def host_rows(self) -> Rows:
        """Purpose and size of what lies in the host's memory beside a device with its own."""
        return _sizes(
            ("interpreter and libraries", self.process_nbytes),
            ("activations that the host sees", self.host_scratch_nbytes),
            ("staging of reads", self.staging_nbytes),
            *self._prefixes(),
        )

    def device_rows(self) -> Rows:
        """Purpose and size of what lies on such a device."""
        return [
            *_sizes(
                ("dense weights", self.dense_nbytes),
                ("state of one session", self.state_nbytes),
                ("activations", self.scratch_nbytes - self.host_scratch_nbytes),
            ),
            self._slots_row(),
        ]

    def rows(self) -> Rows:
        """Purpose and size of all, for people; the slots come last."""
        if self.device is not None:
            return [*self.host_rows(), *self.device_rows()]
        return [
            *_sizes(
                ("interpreter and libraries", self.process_nbytes),
                ("dense weights", self.dense_nbytes),
                ("state of one session", self.state_nbytes),
                ("activations", self.scratch_nbytes),
                *self._prefixes(),
            ),
            self._slots_row(),
        ]

    def _prefixes(self) -> list[tuple[str, int]]:
        return [("stored prefixes", self.prefix_nbytes)] if self.prefix_nbytes else []

    def _slots_row(self) -> tuple[str, str]:
        least = f"expert slots, at least {max(2, self.top_k)} of {self.n_experts}"
        return least, format_size(self.floor_slots_nbytes)


def _sizes(*purposes: tuple[str, int]) -> Rows:
    return [(purpose, format_size(nbytes)) for purpose, nbytes in purposes]


class MemoryCapError(MoefluxError, ValueError):
    """A cap below the least memory that runs the model.

    `cap_nbytes`, the `needs` by purpose, and `cap`: "memory", or "vram" for that of a device.
    """

    def __init__(
        self, cap_nbytes: int, needs: MemoryNeeds, requests_nbytes: int = 0, cap: str = "memory"
    ) -> None:
        """`requests_nbytes`: what a server keeps of the cap for requests."""
        self.cap_nbytes = cap_nbytes
        self.needs = needs
        self.cap = cap
        rows, where = needs.rows(), "this model needs"
        if cap == "vram":
            rows, where = needs.device_rows(), "this model needs on the device"
        elif needs.device is not None:
            rows, where = needs.host_rows(), "this model needs beside the device"
        if requests_nbytes:
            rows.append(("requests", format_size(requests_nbytes)))
        parts = ", ".join(f"{purpose} {size}" for purpose, size in rows)
        wanted = format_size(self.wanted_nbytes + requests_nbytes)
        super().__init__(
            f"{cap} of {format_size(cap_nbytes)} is below the {wanted} that {where}: {parts}"
        )

    @property
    def wanted_nbytes(self) -> int:
        """The least cap that runs the model."""
        if self.cap == "vram":
            return self.needs.device_floor_nbytes
        if self.needs.device is not None:
            return self.needs.host_fixed_nbytes
        return self.needs.floor_nbytes


def memory_needs(
    loaded: LoadedModel, settings: Settings, device: Device | None = None
) -> MemoryNeeds:
    """What a model needs for one session and stored prefixes, as the settings ask for them.

    On `device`, if it is known. Raises ValueError for a size that is none.
    """
    layers = [layer for layer in loaded.experts if layer is not None]
    own = None if device is None else DeviceMemory.of(device)
    scratch = [scratch_of(loaded, n_tokens) for n_tokens in (1, least_chunk(settings))]
    return MemoryNeeds(
        process_nbytes=resident_memory(),
        dense_nbytes=loaded.dense_nbytes,
        state_nbytes=loaded.decoder.state_nbytes(default_context_size(loaded.config, settings)),
        scratch_nbytes=sum(part.nbytes for part in scratch),
        slot_nbytes=slot_nbytes(layers),
        n_experts=sum(layer.n_experts for layer in layers),
        top_k=loaded.config.num_experts_per_tok,
        prefix_nbytes=prefix_memory_nbytes(settings),
        host_scratch_nbytes=sum(part.host_nbytes for part in scratch),
        staging_nbytes=0 if own is None else own.staging_nbytes * settings.n_read_workers,
        device=own,
    )


def least_chunk(settings: Settings) -> int:
    """Tokens of a prefill chunk if no larger one is chosen."""
    return settings.prefill_chunk or LEAST_CHUNK


def default_context_size(config: ModelConfig, settings: Settings) -> int:
    """Positions of a session that does not ask for another number."""
    return settings.context_size or min(config.max_position_embeddings, MAX_DEFAULT_CONTEXT)


def prefix_memory_nbytes(settings: Settings) -> int:
    """Room for stored prefixes in memory; 0 for none. Raises ValueError."""
    if settings.prefix_memory == "0":
        return 0
    try:
        return parse_size(settings.prefix_memory)
    except ValueError as error:
        raise ValueError(f"prefix_memory: {error}") from error


def weight_nbytes_per_token(loaded: LoadedModel) -> int:
    """Weights that a decode step touches: dense ones but the embedding table, top_k experts."""
    decoder = loaded.decoder
    tied = decoder.lm_head.weight is decoder.embedding.weight
    dense = loaded.dense_nbytes - (0 if tied else decoder.embedding.nbytes)
    records = sum(layer.record_nbytes for layer in loaded.experts if layer is not None)
    return dense + loaded.config.num_experts_per_tok * records
