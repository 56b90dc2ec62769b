"""How fast this machine reads the experts of one checkpoint, from the drive and from memory."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from secrets import SystemRandom
from statistics import mean, median

from moeflux._core import Device
from moeflux.checkpoint import LayerExperts
from moeflux.experts.lease import ExpertSlot
from moeflux.experts.reads import ExpertReads, ReadSettings
from moeflux.experts.stream import slot_nbytes
from moeflux.memory import available_memory

MEASURED_SECONDS = 0.5
MAX_NBYTES = 512 * 2**20


@dataclass(frozen=True)
class ReadSpeed:
    """Time to read n experts of a layer at once: seconds + n * record / nbytes_per_second."""

    seconds: float
    nbytes_per_second: float

    def rate(self, n_records: int, record_nbytes: float) -> float:
        """Bytes per second of `n_records` at once."""
        nbytes = n_records * record_nbytes
        return nbytes / (self.seconds + nbytes / self.nbytes_per_second)

    def layer_seconds(self, n_missed: float, chance_of_any: float, record_nbytes: int) -> float:
        """Expected where `n_missed` experts are read on average, with this chance of any at all."""
        return chance_of_any * self.seconds + n_missed * record_nbytes / self.nbytes_per_second


@dataclass(frozen=True)
class ReadSpeeds:
    """Of experts, from the drive and from the page cache."""

    drive: ReadSpeed
    page_cache: ReadSpeed
    direct: bool
    """Reads go past the page cache, so that both are the drive's."""
    drive_is_cold: bool
    """The page cache was told to drop what was read for `drive`."""


def measure_reads(
    device: Device, layers: Sequence[LayerExperts], top_k: int, settings: ReadSettings
) -> ReadSpeeds:
    """Read random experts of a layer, one and top_k at once, for about MEASURED_SECONDS.

    First after dropping them from the page cache, then all of them again. Raises ReadError,
    OSError.
    """
    size = slot_nbytes(layers)
    slots = device.buffer(top_k * size)
    views = [slots.view(index * size, size) for index in range(top_k)]
    reads = ExpertReads(device, dict(enumerate(layers)), views, settings)
    batches: list[list[ExpertSlot]] = []
    drive: dict[int, list[float]] = {1: [], top_k: []}
    page_cache: dict[int, list[float]] = {1: [], top_k: []}
    most = min(MAX_NBYTES, available_memory() // 4) // (size * (1 + top_k))
    random, started, cold = SystemRandom(), time.perf_counter(), True
    try:
        while len(batches) < 2 * max(1, most):
            for width in (1, top_k):
                layer = random.randrange(len(layers))
                experts = random.sample(range(layers[layer].n_experts), width)
                cold = _drop_from_page_cache(layers[layer], experts) and cold
                batch = [ExpertSlot(layer, expert, slot) for slot, expert in enumerate(experts)]
                drive[width].append(_read(reads, batch))
                batches.append(batch)
            if time.perf_counter() - started >= MEASURED_SECONDS:
                break
        # Back to back, as between the layers of a token, so that no processor falls asleep.
        for batch in batches:
            page_cache[len(batch)].append(_read(reads, batch))
    finally:
        reads.close()
    record = sum(layer.record_nbytes for layer in layers) / len(layers)
    # A drive's slow reads are part of its speed; those of memory are the scheduler's.
    return ReadSpeeds(
        read_speed(mean(drive[1]), mean(drive[top_k]), top_k, record),
        read_speed(median(page_cache[1]), median(page_cache[top_k]), top_k, record),
        reads.mode.direct,
        cold,
    )


def read_speed(one: float, several: float, n_several: int, record_nbytes: float) -> ReadSpeed:
    """From the seconds that one record and several at once took.

    The line through both, or through the origin where noise made one as slow as several.
    """
    each = (several - one) / (n_several - 1) if n_several > 1 else 0.0
    if not 0 < each < one:
        return ReadSpeed(0.0, n_several * record_nbytes / several)
    return ReadSpeed(one - each, record_nbytes / each)


def _read(reads: ExpertReads, batch: Sequence[ExpertSlot]) -> float:
    started = time.perf_counter()
    under_way = [reads.submit(expert, urgent=True) for expert in batch]
    for read in under_way:
        reads.wait(read, started)
    return time.perf_counter() - started


def _drop_from_page_cache(layer: LayerExperts, experts: Sequence[int]) -> bool:
    """Whether the system takes such advice."""
    if not hasattr(os, "posix_fadvise"):
        return False
    for part in (part for expert in experts for part in layer.ranges(expert)):
        with part.path.open("rb") as file:
            os.posix_fadvise(file.fileno(), part.offset, part.nbytes, os.POSIX_FADV_DONTNEED)
    return True
