"""How fast this machine decodes a checkpoint whose experts are all in memory, without loading it.

The real decode step runs on stand-in weights: every matrix of the model, in its shape and format,
is a view of the same bytes, more of them than the caches of processors hold.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import cast

import numpy as np
from typing_extensions import Buffer as SupportsBuffer

from moeflux._core import Buffer, Device, Pipeline, Recording
from moeflux._core import Mapping as MappedFile
from moeflux.checkpoint import Checkpoint, LayerExperts
from moeflux.checkpoint.watch import FileWatch
from moeflux.engine.decode import DecodeStep
from moeflux.engine.runtime import Runtime
from moeflux.engine.state import SequenceState
from moeflux.experts.counters import StreamCounters
from moeflux.experts.eviction import make_policy
from moeflux.experts.residency import ExpertResidency
from moeflux.experts.slots import SlotPool
from moeflux.experts.stream import ExpertStream, slot_nbytes
from moeflux.experts.timeline import Timeline
from moeflux.memory import available_memory
from moeflux.models import load_model

MEASURED_SECONDS = 1.5
MIN_TOKENS, MAX_TOKENS = 4, 128
N_WARM_UP = 2
STAND_IN_NBYTES = 512 * 2**20
"""Of dense weights, and again of experts; a matrix that is larger than that is taken whole."""
UPLOADED_NBYTES = 2**20
"""Tensors up to this size are uploaded as they are: norms, convolutions."""
ALIGNMENT = 4096
FILL = 0x3C
"""In every format a number between 0.01 and 1.1, so that nothing overflows or is subnormal."""


@dataclass(frozen=True)
class DecodeSpeed:
    """Seconds of a decode step near the beginning of a context, host and device, without reads."""

    seconds: float
    """All experts were in memory."""
    seconds_after_copies: float
    """All experts were copied into their slots just before, so that caches may hold them."""


def measure_decode(
    device: Device, checkpoint: Checkpoint, *, asks_next_router: bool
) -> DecodeSpeed:
    """Run decode steps for about MEASURED_SECONDS.

    asks_next_router: prefetch does so in every layer. Raises CheckpointError, OutOfMemoryError.
    """
    stand_in = _StandInDevice(device, checkpoint)
    loaded = load_model(checkpoint, cast(Device, stand_in))
    experts = _ResidentExperts.of(device, loaded.experts, loaded.config.num_experts_per_tok)
    experts.wants_offers = asks_next_router
    runtime = Runtime(
        device, device.queue(), loaded.decoder, cast(ExpertStream, experts), FileWatch(()), 64
    )
    n_steps = N_WARM_UP + MAX_TOKENS
    step = DecodeStep(runtime, SequenceState.empty(loaded.decoder, device, n_steps))
    seconds: dict[bool, list[float]] = {False: [], True: []}
    started = time.perf_counter()
    for position in range(n_steps):
        experts.copies = position % 2 == 1
        experts.copy_seconds, begun = 0.0, time.perf_counter()
        step(0, position)
        ended = time.perf_counter()
        if position >= N_WARM_UP:
            seconds[experts.copies].append(ended - begun - experts.copy_seconds)
        if len(seconds[True]) >= MIN_TOKENS and ended - started >= MEASURED_SECONDS:
            break
    resident, copied = median(seconds[False]), median(seconds[True])
    return DecodeSpeed(resident, min(resident, copied))


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


class _ResidentExperts:
    """What a decode step uses of an ExpertStream, for experts that are all in memory.

    Every demand goes through the slot pool, for what that costs the host; the device gets the next
    slots of stand-in experts, whichever experts were asked for.
    """

    def __init__(self, device: Device, layers: Mapping[int, LayerExperts], top_k: int) -> None:
        records = [layer.record_nbytes for layer in layers.values()]
        n_experts = sum(layer.n_experts for layer in layers.values())
        self._ordinal = {index: ordinal for ordinal, index in enumerate(layers)}
        self.top_k = top_k
        self.slot_nbytes = slot_nbytes(layers.values())
        self.n_slots = max(top_k, min(n_experts, _stand_in_nbytes() // self.slot_nbytes))
        self.slots = _filled(device, self.n_slots * self.slot_nbytes)
        policy = make_policy("lfru", n_experts, top_k, len(records))
        self.residency = ExpertResidency(SlotPool(n_experts, top_k, policy), records)
        self.counters = StreamCounters.of_layers(len(records))
        self.governor = None
        self.timeline: Timeline | None = None
        self.wants_offers = False
        self.copies = False
        """Experts are copied into their slots before they are used."""
        self.copy_seconds = 0.0
        self._source = np.full(self.slot_nbytes, FILL, np.uint8)
        self._bytes = np.frombuffer(memoryview(self.slots), np.uint8)
        self._next = 0

    @classmethod
    def of(
        cls, device: Device, layers: Sequence[LayerExperts | None], top_k: int
    ) -> _ResidentExperts:
        return cls(device, {i: layer for i, layer in enumerate(layers) if layer is not None}, top_k)

    def begin_token(self) -> None:
        self.release_all()

    def end_token(self, _seconds: float) -> None:
        self.release_all()

    def release_all(self) -> None:
        self.residency.pool.release_all()

    def offer(self, layer: int, ranked: Sequence[int]) -> None:
        """Guesses are computed, and not needed."""

    def fetch(self, layer: int, experts: Sequence[int]) -> Mapping[int, int]:
        plan = self.residency.demand(self._ordinal[layer], experts)
        for read in plan.read:
            self.residency.finished(read.slot)
        self.counters.add_fetch(plan.lease, 0.0)
        first = self._next
        self._next = (first + len(experts)) % self.n_slots
        slots = {expert: (first + k) % self.n_slots for k, expert in enumerate(experts)}
        if self.copies:
            started = time.perf_counter()
            for slot in slots.values():
                self._bytes[slot * self.slot_nbytes : (slot + 1) * self.slot_nbytes] = self._source
            self.copy_seconds += time.perf_counter() - started
        return slots


def _stand_in_nbytes() -> int:
    """Less where memory is short, since the measurement is not to be what exhausts it."""
    return min(STAND_IN_NBYTES, available_memory() // 4)


def _filled(device: Device, nbytes: int) -> Buffer:
    buffer = device.buffer(nbytes, host=True)
    np.frombuffer(memoryview(buffer), np.uint8)[:] = FILL
    return buffer
