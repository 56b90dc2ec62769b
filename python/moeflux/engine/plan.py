"""What a model would need and how fast it would be here, before it is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moeflux.checkpoint import Checkpoint, LayerExperts
from moeflux.engine.budget import (
    MemoryNeeds,
    default_context_size,
    memory_needs,
    weight_nbytes_per_token,
)
from moeflux.engine.chosen import open_named_device, stream_settings
from moeflux.engine.chunk_size import place_model
from moeflux.engine.decode_speed import Speeds, measure_speeds
from moeflux.engine.dry_run import DryDevice
from moeflux.engine.inspection import ModelInfo, inspect_checkpoint
from moeflux.engine.placement import Caps, Placement, vram_cap
from moeflux.engine.read_speed import ReadSpeed
from moeflux.experts.replay import ReplaySettings, replay
from moeflux.experts.trace import TraceError
from moeflux.experts.trace import load as load_trace
from moeflux.models import load_model
from moeflux.settings import Settings

NEXT_ROUTER_MODES = ("next-router", "combined", "auto")
HIT_RATES = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
HIDDEN_SHARE = 0.3
"""Of the time that reads add to a step, what prefetch hides (bench/results/streaming.md)."""


@dataclass(frozen=True)
class PlannedSpeed:
    """A token's reads at one hit rate and the decode speed that they allow."""

    hit_rate: float
    read_nbytes_per_token: int
    copied_nbytes_per_token: int
    """From records in the host's memory."""
    drive_tokens_per_second: float
    """What is missed comes from the drive."""
    page_cache_tokens_per_second: float
    """What is missed comes from the page cache."""
    ram_tokens_per_second: float | None
    """What is missed comes from records in the host's memory; None where none are kept."""
    expected_tokens_per_second: float
    """As much comes from records and from the page cache as memory can hold."""


@dataclass(frozen=True)
class Workload:
    """What a decode step reads: bytes of one expert by layer with experts, experts per token."""

    record_nbytes: tuple[int, ...]
    top_k: int
    prefetches: bool
    """The next layer's router is asked, and its guesses are read while a layer is computed."""

    def read_seconds(self, hit_rate: float, speed: ReadSpeed) -> float:
        """Of a step, waiting for what it misses; hits are taken as independent."""
        missed, any_missed = self.top_k * (1 - hit_rate), 1 - hit_rate**self.top_k
        return sum(speed.layer_seconds(missed, any_missed, n) for n in self.record_nbytes)

    def planned(
        self, hit_rate: float, speeds: Speeds, page_cache_share: float, record_share: float = 0.0
    ) -> PlannedSpeed:
        """Of the bytes that are missed, `record_share` comes from records in the host's memory.

        `page_cache_share`: of the bytes that are read.
        """
        drive, page_cache = (
            self._step_seconds(speeds.decode_seconds, self.read_seconds(hit_rate, speed))
            for speed in (speeds.drive, speeds.page_cache)
        )
        expected = page_cache_share * page_cache + (1 - page_cache_share) * drive
        ram = None
        if speeds.records is not None:
            copies = self.read_seconds(hit_rate, speeds.records)
            ram = self._step_seconds(speeds.decode_seconds, copies)
            expected = record_share * ram + (1 - record_share) * expected
        missed = (1 - hit_rate) * self.top_k * sum(self.record_nbytes)
        return PlannedSpeed(
            hit_rate=hit_rate,
            read_nbytes_per_token=round((1 - record_share) * missed),
            copied_nbytes_per_token=round(record_share * missed),
            drive_tokens_per_second=1 / drive,
            page_cache_tokens_per_second=1 / page_cache,
            ram_tokens_per_second=None if ram is None else 1 / ram,
            expected_tokens_per_second=1 / expected,
        )

    def _step_seconds(self, compute: float, reads: float) -> float:
        """Prefetch hides a share of the reads, at most behind all of the computing."""
        hidden = min(compute, HIDDEN_SHARE * reads) if self.prefetches else 0.0
        return compute + reads - hidden


@dataclass(frozen=True)
class Plan:
    """Memory by purpose, slots under the cap, and the decode speed to expect."""

    info: ModelInfo
    device: str
    context_size: int
    needs: MemoryNeeds
    placement: Placement
    """Experts with a slot and with a record in the host's memory."""
    mean_record_nbytes: float
    """Of one expert."""
    weight_nbytes_per_token: int
    """Weights that a decode step touches, those of its experts included."""
    measured: Speeds
    page_cache_share: float
    """Of the experts that memory does not hold, how many the page cache can hold beside it."""
    speeds: tuple[PlannedSpeed, ...]
    """At HIT_RATES."""
    expected: PlannedSpeed
    """At the hit rate of the route trace, or of uniform routing: the share of experts in slots."""
    hit_rate_source: str

    @property
    def n_slots(self) -> int:
        """Experts that have a slot."""
        return self.placement.n_slots

    @property
    def n_records(self) -> int:
        """Experts that the host's memory keeps for a device with its own, in slots or not."""
        return self.placement.n_records

    @property
    def n_on_drive(self) -> int:
        """Experts that only the drive has, since records are kept of those in slots as well."""
        return self.needs.n_experts - max(self.n_slots, self.n_records)

    @property
    def record_share(self) -> float:
        """Of the experts without a slot, how many the host's memory holds."""
        return self.placement.record_share(self.needs.n_experts)

    @property
    def host_nbytes(self) -> int:
        """What the process would hold of the host's memory."""
        return self.placement.host_nbytes(self.needs)

    @property
    def device_nbytes(self) -> int:
        """What the model would take of a device's own memory."""
        return self.placement.device_nbytes(self.needs)

    @property
    def resident_nbytes(self) -> int:
        """What host and device would hold together."""
        return self.host_nbytes + self.device_nbytes

    @property
    def slot_share(self) -> float:
        """Of all experts, how many have a slot."""
        return self.n_slots / self.needs.n_experts if self.needs.n_experts else 1.0

    @property
    def weight_nbytes_per_second(self) -> float:
        """Weights per second of a decode step without reads."""
        return self.weight_nbytes_per_token / self.measured.decode_seconds

    def as_dict(self) -> dict[str, Any]:
        """Fields and derived values, for JSON."""
        needs = asdict(self.needs) | {
            "fixed_nbytes": self.needs.fixed_nbytes,
            "floor_nbytes": self.needs.floor_nbytes,
            "whole_nbytes": self.needs.whole_nbytes,
            "host_fixed_nbytes": self.needs.host_fixed_nbytes,
            "device_fixed_nbytes": self.needs.device_fixed_nbytes,
        }
        return asdict(self) | {
            "needs": needs,
            "n_slots": self.n_slots,
            "n_records": self.n_records,
            "n_on_drive": self.n_on_drive,
            "host_nbytes": self.host_nbytes,
            "device_nbytes": self.device_nbytes,
            "resident_nbytes": self.resident_nbytes,
            "record_share": self.record_share,
            "slot_share": self.slot_share,
            "weight_nbytes_per_second": self.weight_nbytes_per_second,
        }


def plan_checkpoint(
    folder: Path,
    device_name: str = "auto",
    memory: int | str | None = None,
    settings: Settings | None = None,
    trace: Path | None = None,
) -> Plan:
    """Plan a run of the checkpoint in `folder` from its headers and from speeds measured here.

    `trace`: a route trace of the model, replayed for the hit rate. Takes some seconds. Raises
    MemoryCapError below the floor, CheckpointError, DeviceError, TraceError, ReadError.
    """
    settings = settings or Settings.from_environment()
    checkpoint = Checkpoint.open(folder)
    loaded = load_model(checkpoint, DryDevice().as_device())
    device = open_named_device(device_name, settings)
    needs = memory_needs(loaded, settings, device)
    caps = Caps(memory, vram_cap(settings, device))
    placement = place_model(loaded, needs, settings, device, caps)
    n_slots = placement.n_slots
    layers = [layer for layer in loaded.experts if layer is not None]
    hit_rate, source = _hit_rate(layers, needs, n_slots, settings, trace)
    asks_next_router = n_slots < needs.n_experts and settings.prefetch in NEXT_ROUTER_MODES
    workload = Workload(
        tuple(layer.record_nbytes for layer in layers), needs.top_k, asks_next_router
    )
    reads = stream_settings(needs, placement, settings).reads
    measured = measure_speeds(
        device,
        checkpoint,
        reads,
        asks_next_router=asks_next_router,
        keeps_records=placement.n_records > 0,
    )
    page_cache_share = 0.0 if measured.direct else reads.page_cache_share
    shares = page_cache_share, placement.record_share(needs.n_experts)
    return Plan(
        info=inspect_checkpoint(folder),
        device=device.description,
        context_size=default_context_size(loaded.config, settings),
        needs=needs,
        placement=placement,
        mean_record_nbytes=sum(workload.record_nbytes) / len(layers),
        weight_nbytes_per_token=weight_nbytes_per_token(loaded),
        measured=measured,
        page_cache_share=page_cache_share,
        speeds=tuple(workload.planned(rate, measured, *shares) for rate in HIT_RATES),
        expected=workload.planned(hit_rate, measured, *shares),
        hit_rate_source=source,
    )


def _hit_rate(
    layers: Sequence[LayerExperts],
    needs: MemoryNeeds,
    n_slots: int,
    settings: Settings,
    path: Path | None,
) -> tuple[float, str]:
    """Of decode with so many slots, and where the number comes from."""
    if path is None:
        return n_slots / needs.n_experts, "uniform routing: the share of experts that have a slot"
    trace = load_trace(path)
    header = trace.header
    wanted = (len(layers), layers[0].n_experts, needs.top_k)
    if (header.n_layers, header.n_experts, header.top_k) != wanted:
        raise TraceError(
            f"{path}: is a trace of {header.n_layers} layers of {header.n_experts} experts, "
            f"{header.top_k} a token; this model has {wanted[0]}, {wanted[1]} and {wanted[2]}"
        )
    rate = replay(trace, ReplaySettings(n_slots, settings.eviction)).decode.hit_rate
    return rate, f"{path.name}, replayed"
