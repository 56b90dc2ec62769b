"""How fast this machine reads and decodes a checkpoint, measured without loading it.

The real decode step runs on stand-in weights: every matrix of the model, in its shape and format,
is a view of the same bytes, more of them than the caches of processors hold.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from secrets import SystemRandom
from statistics import mean, median
from typing import cast

from typing_extensions import Buffer as SupportsBuffer

from moeflux._core import Buffer, Device, Pipeline, Recording
from moeflux._core import Mapping as MappedFile
from moeflux.checkpoint import Checkpoint, LayerExperts
from moeflux.checkpoint.watch import FileWatch
from moeflux.engine.decode import DecodeStep
from moeflux.engine.read_speed import (
    ExpertKey,
    ReadSpeed,
    measure_drive,
    read_at_once,
    read_speed,
)
from moeflux.engine.runtime import Runtime
from moeflux.engine.state import SequenceState
from moeflux.experts.counters import StreamCounters
from moeflux.experts.eviction import make_policy
from moeflux.experts.read_mode import ReadMode
from moeflux.experts.reads import ExpertReads, ReadSettings
from moeflux.experts.records import AllRecords, RecordMemory
from moeflux.experts.residency import ExpertResidency
from moeflux.experts.slots import SlotPool
from moeflux.experts.stream import ExpertStream, Fetch, slot_nbytes
from moeflux.experts.timeline import Timeline
from moeflux.memory import available_memory
from moeflux.models import load_model
from moeflux.models.loaded import LoadedModel

MEASURED_SECONDS = 0.7
"""Per kind of step."""
MIN_TOKENS = 3
N_WARM_UP = 2
CONTEXT = 64
LEAST_ADDED = 1e-3
"""Of a step, by reads, where noise hides what they add."""
STAND_IN_NBYTES = 512 * 2**20
"""Of dense weights, and again of experts; a matrix that is larger than that is taken whole."""
RECORDS_NBYTES = 128 * 2**20
"""Of records that are copied in turn."""
UPLOADED_NBYTES = 2**20
"""Tensors up to this size are uploaded as they are: norms, convolutions."""
ALIGNMENT = 4096
FILL = 0x3C
"""In every format a number between 0.01 and 1.1, so that nothing overflows or is subnormal."""


@dataclass(frozen=True)
class Speeds:
    """Of decode near the beginning of a context, as measured."""

    decode_seconds: float
    """Of a step without reads, host and device together."""
    drive: ReadSpeed
    """What reads from the drive add to a step."""
    page_cache: ReadSpeed
    """What reads from the page cache add to a step; what they have just copied computes faster."""
    direct: bool
    """Reads go past the page cache, so that both are the drive's, measured in steps."""
    drive_is_cold: bool
    """The page cache was told to drop what was read for `drive`."""
    records: ReadSpeed | None = None
    """What copies of records in the host's memory add to a step; None where none are kept."""


def measure_speeds(
    device: Device,
    checkpoint: Checkpoint,
    settings: ReadSettings,
    *,
    asks_next_router: bool,
    keeps_records: bool,
) -> Speeds:
    """Read experts and run decode steps, without any and with reads from the page cache.

    asks_next_router: prefetch does so in every layer. keeps_records: copies of records in the
    host's memory are measured as well. Raises CheckpointError, OutOfMemoryError, ReadError,
    OSError.
    """
    stand_in = _StandInDevice(device, checkpoint)
    loaded = load_model(checkpoint, cast(Device, stand_in))
    top_k = loaded.config.num_experts_per_tok
    experts = _StandInExperts(device, loaded.experts, top_k, settings)
    experts.wants_offers = asks_next_router
    try:
        drive = measure_drive(experts.reads, experts.layers, top_k)
        direct = experts.reads.mode.direct
        experts.to_read = experts.shuffled() if direct else drive.experts
        steps = _Steps(device, loaded, experts)
        resident = steps.seconds(0)
        in_steps, copies = steps.reads(resident), None
        if keeps_records:
            experts.keep_records(device, settings)
            copies = steps.reads(resident)
    finally:
        experts.reads.close()
    from_drive = in_steps if direct else drive.speed
    return Speeds(resident, from_drive, in_steps, direct, drive.is_cold, copies)


class _Steps:
    """Decode steps of a model on stand-in weights."""

    def __init__(self, device: Device, loaded: LoadedModel, experts: _StandInExperts) -> None:
        stream = cast(ExpertStream, experts)
        runtime = Runtime(device, device.queue(), loaded.decoder, stream, FileWatch(()), 64)
        state = SequenceState.empty(loaded.decoder, device, CONTEXT)
        self._experts = experts
        self._step = DecodeStep(runtime, state)

    def seconds(self, n_missed: int) -> float:
        """The median step, where every layer reads `n_missed` experts."""
        self._experts.n_missed = n_missed
        seconds: list[float] = []
        for position in range(CONTEXT):
            started = time.perf_counter()
            self._step(0, position)
            seconds.append(time.perf_counter() - started)
            measured = seconds[N_WARM_UP:]
            if len(measured) >= MIN_TOKENS and sum(measured) >= MEASURED_SECONDS:
                break
        return median(seconds[N_WARM_UP:])

    def reads(self, resident: float) -> ReadSpeed:
        """What reads as they are now add to a step that takes `resident` seconds without."""
        experts, least = self._experts, LEAST_ADDED * resident
        n_layers, top_k = len(experts.layers), experts.top_k
        one, several = (
            max(self.seconds(n_missed) - resident, least) / n_layers for n_missed in (1, top_k)
        )
        record = mean(layer.record_nbytes for layer in experts.layers)
        return read_speed(one, several, top_k, record)


@dataclass(frozen=True)
class _StandInFile:
    """A mapped file whose bytes nobody needs."""

    device: _StandInDevice
    nbytes: int

    def view(self, _offset: int, nbytes: int) -> Buffer:
        return self.device.take(nbytes)


class _StandInDevice:
    """A device on which large tensors are views of the same bytes, one behind the other."""

    def __init__(self, device: Device, checkpoint: Checkpoint) -> None:
        largest = max(tensor.nbytes for tensor in checkpoint.dense_tensors())
        nbytes = max(largest, min(_stand_in_nbytes(), checkpoint.dense_nbytes))
        self._device = device
        self._bytes = _filled(device, nbytes + ALIGNMENT)
        self._next = 0

    def take(self, nbytes: int) -> Buffer:
        """The next `nbytes` bytes, from the start again after the last."""
        if self._next + nbytes > self._bytes.nbytes:
            self._next = 0
        view = self._bytes.view(self._next, nbytes)
        self._next += -(-nbytes // ALIGNMENT) * ALIGNMENT
        return view

    def wrap(self, mapping: MappedFile) -> _StandInFile:
        return _StandInFile(self, mapping.nbytes)

    def upload(self, data: SupportsBuffer) -> Buffer:
        nbytes = memoryview(data).nbytes
        return self._device.upload(data) if nbytes <= UPLOADED_NBYTES else self.take(nbytes)

    def buffer(self, nbytes: int, host: bool = False) -> Buffer:
        return self._device.buffer(nbytes, host)

    def pipeline(self, kernel: str, **constants: int) -> Pipeline:
        return self._device.pipeline(kernel, **constants)

    def record(self) -> Recording:
        return self._device.record()


class _StandInExperts:
    """What a decode step uses of an ExpertStream, for experts that are in memory or cached.

    Every demand goes through the slot pool, for what that costs the host. The device gets the next
    slots of stand-in experts, whichever experts were asked for; `n_missed` of them are read before.
    """

    def __init__(
        self,
        device: Device,
        model_layers: Sequence[LayerExperts | None],
        top_k: int,
        settings: ReadSettings,
    ) -> None:
        self.layers = [layer for layer in model_layers if layer is not None]
        indices = (index for index, layer in enumerate(model_layers) if layer is not None)
        self._ordinal = {index: ordinal for ordinal, index in enumerate(indices)}
        n_experts = sum(layer.n_experts for layer in self.layers)
        self.top_k = top_k
        self.slot_nbytes = size = slot_nbytes(self.layers)
        self.n_slots = max(top_k, min(n_experts, _stand_in_nbytes() // size))
        self.slots = _filled(device, self.n_slots * size)
        self._views = [self.slots.view(index * size, size) for index in range(self.n_slots)]
        self.reads = ExpertReads(device, dict(enumerate(self.layers)), self._views, settings)
        records = [layer.record_nbytes for layer in self.layers]
        policy = make_policy("lfru", n_experts, top_k, len(records))
        self.residency = ExpertResidency(SlotPool(n_experts, top_k, policy), records)
        self.counters = StreamCounters.of_layers(len(records))
        self.governor = None
        self.timeline: Timeline | None = None
        self.wants_offers = False
        self.to_read: Sequence[ExpertKey] = ()
        """In turn: experts that the page cache holds, or any where reads go past it."""
        self.n_missed = 0
        self._next_slot = 0
        self._next_read = 0

    def begin_token(self) -> None:
        self.release_all()

    def end_token(self, _seconds: float) -> None:
        self.release_all()

    def release_all(self) -> None:
        self.residency.pool.release_all()

    def offer(self, layer: int, ranked: Sequence[int]) -> None:
        """Guesses are computed, and not needed."""

    def begin_fetch(self, layer: int, experts: Sequence[int]) -> Fetch:
        plan = self.residency.demand(self._ordinal[layer], experts)
        for read in plan.read:
            self.residency.finished(read.slot)
        self.counters.add_fetch(plan.lease, 0.0)
        if self._next_slot + len(experts) > self.n_slots:
            self._next_slot = 0
        first, n_missed = self._next_slot, self.n_missed
        self._next_slot += len(experts)
        slots = {expert: first + k for k, expert in enumerate(experts)}
        if not n_missed:
            return Fetch(slots)
        missed = {expert: slots.pop(expert) for expert in experts[:n_missed]}
        return Fetch(slots, lambda: self._read(missed, first))

    def _read(self, missed: Mapping[int, int], first: int) -> Mapping[int, int]:
        read_at_once(self.reads, self._experts_to_read(len(missed)), first)
        return missed

    def keep_records(self, device: Device, settings: ReadSettings) -> None:
        """From now on reads are copies of records, which are filled here. Raises ReadError."""
        n_records = max(self.top_k, min(RECORDS_NBYTES // self.slot_nbytes, self.n_slots))
        self.to_read = self.shuffled()[:n_records]
        records = AllRecords(RecordMemory(device, n_records, self.slot_nbytes))
        mode = ReadMode.DIRECT if self.reads.mode.direct else ReadMode.PAGE_CACHE
        self.reads.close()
        layers, chosen = dict(enumerate(self.layers)), replace(settings, mode=mode)
        self.reads = ExpertReads(device, layers, self._views, chosen, records)
        read_at_once(self.reads, self.to_read)

    def shuffled(self) -> list[ExpertKey]:
        """All experts in random order."""
        keys = [
            (index, expert)
            for index, layer in enumerate(self.layers)
            for expert in range(layer.n_experts)
        ]
        SystemRandom().shuffle(keys)
        return keys

    def _experts_to_read(self, count: int) -> list[ExpertKey]:
        """The next ones."""
        first = self._next_read
        self._next_read = (first + count) % len(self.to_read)
        return [self.to_read[(first + k) % len(self.to_read)] for k in range(count)]


def _stand_in_nbytes() -> int:
    """Less where memory is short, since the measurement is not to be what exhausts it."""
    return min(STAND_IN_NBYTES, available_memory() // 4)


def _filled(device: Device, nbytes: int) -> Buffer:
    return device.upload(bytes([FILL]) * nbytes)
