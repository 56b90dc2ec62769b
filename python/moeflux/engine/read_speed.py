"""How fast this machine reads the experts of one checkpoint. Knows no kernels."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from secrets import SystemRandom
from statistics import mean

from moeflux.checkpoint import LayerExperts
from moeflux.experts.lease import ExpertSlot
from moeflux.experts.reads import ExpertReads
from moeflux.memory import available_memory

MEASURED_SECONDS = 0.5
MAX_NBYTES = 512 * 2**20

ExpertKey = tuple[int, int]


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
class DriveTrial:
    """What reading from the drive showed."""

    speed: ReadSpeed
    is_cold: bool
    """The page cache was told to drop what was read."""
    experts: tuple[ExpertKey, ...]
    """What has been read, and is in the page cache now unless reads go past it."""


def measure_drive(reads: ExpertReads, layers: Sequence[LayerExperts], top_k: int) -> DriveTrial:
    """Read random experts of a layer, one and top_k at once, for about MEASURED_SECONDS.

    Uses the slots 0 to top_k - 1. Raises ReadError, OSError.
    """
    largest = max(layer.record_nbytes for layer in layers)
    n_rounds = min(MAX_NBYTES, available_memory() // 4) // (largest * (1 + top_k))
    random, started, cold = SystemRandom(), time.perf_counter(), True
    seconds: dict[int, list[float]] = {1: [], top_k: []}
    done: list[ExpertKey] = []
    for _ in range(max(1, n_rounds)):
        for width in (1, top_k):
            layer = random.randrange(len(layers))
            experts = random.sample(range(layers[layer].n_experts), width)
            cold = _drop_from_page_cache(layers[layer], experts) and cold
            seconds[width].append(read_at_once(reads, [(layer, expert) for expert in experts]))
            done += [(layer, expert) for expert in experts]
        if time.perf_counter() - started >= MEASURED_SECONDS:
            break
    record = mean(layer.record_nbytes for layer in layers)
    speed = read_speed(mean(seconds[1]), mean(seconds[top_k]), top_k, record)
    return DriveTrial(speed, cold, tuple(done))


def read_at_once(reads: ExpertReads, experts: Sequence[ExpertKey], first_slot: int = 0) -> float:
    """Seconds to read experts into the slots from `first_slot` on. Raises ReadError."""
    started = time.perf_counter()
    under_way = [
        reads.submit(ExpertSlot(*expert, slot), urgent=True)
        for slot, expert in enumerate(experts, first_slot)
    ]
    for read in under_way:
        reads.wait(read, started)
    return time.perf_counter() - started


def read_speed(one: float, several: float, n_several: int, record_nbytes: float) -> ReadSpeed:
    """From the seconds that one record and several at once took.

    The line through both, or through the origin where noise made one as slow as several.
    """
    each = (several - one) / (n_several - 1) if n_several > 1 else 0.0
    if not 0 < each < one:
        return ReadSpeed(0.0, n_several * record_nbytes / several)
    return ReadSpeed(one - each, record_nbytes / each)


def _drop_from_page_cache(layer: LayerExperts, experts: Sequence[int]) -> bool:
    """Whether the system takes such advice."""
    if not hasattr(os, "posix_fadvise"):
        return False
    for part in (part for expert in experts for part in layer.ranges(expert)):
        with part.path.open("rb") as file:
            os.posix_fadvise(file.fileno(), part.offset, part.nbytes, os.POSIX_FADV_DONTNEED)
    return True
