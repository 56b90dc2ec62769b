"""Reads of whole experts into slots: which ranges of which file, and how. Decides nothing."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from moeflux._core import Buffer, Device, File, ReadTicket
from moeflux.checkpoint import LayerExperts
from moeflux.experts.lease import ExpertSlot


class Verify(Enum):
    """How many reads of a packed checkpoint are compared with their checksums."""

    OFF = "off"
    SAMPLE = "sample"
    ALWAYS = "always"


SAMPLE_INTERVAL = 16


@dataclass(frozen=True)
class ReadSettings:
    """How experts are read; none of it changes what the model computes."""

    n_workers: int = 8
    direct: bool = False
    """Past the page cache; needs records that begin and end on 4 KiB, as packed ones do."""
    n_parts: int = 1
    """Pieces of one record that workers read at the same time."""
    verify: Verify = Verify.SAMPLE
    timeout: float = 60.0
    """Seconds to wait for one read before it counts as failed."""
    n_retries: int = 1
    """Further attempts at a demanded read that failed."""


@dataclass(frozen=True)
class Read:
    """A read under way."""

    expert: ExpertSlot
    ticket: ReadTicket
    submitted: float
    """Of time.perf_counter."""
    urgent: bool


class ExpertReads:
    """The files that hold the experts and the workers that read them."""

    def __init__(
        self,
        device: Device,
        layers: Mapping[int, LayerExperts],
        slots: Sequence[Buffer],
        settings: ReadSettings,
    ) -> None:
        self.settings = settings
        self._layers = layers
        self._slots = slots
        self._pool = device.read_pool(settings.n_workers)
        paths = sorted({path for layer in layers.values() for path in layer.paths})
        self._files: Mapping[Path, File] = {path: File(path, settings.direct) for path in paths}
        self._n_submitted = 0

    def submit(self, expert: ExpertSlot, *, urgent: bool) -> Read:
        """Start to read an expert into its slot."""
        layer = self._layers[expert.layer]
        ranges = [
            (self._files[path], offset, nbytes, record_offset)
            for path, offset, nbytes, record_offset in self._ranges(layer, expert.expert)
        ]
        self._n_submitted += 1
        ticket = self._pool.submit_ranges(ranges, self._slots[expert.slot], urgent)
        return Read(expert, ticket, time.perf_counter(), urgent)

    def wait(self, read: Read) -> None:
        """Block until the read has delivered. Raises ReadError or ReadCancelled."""
        read.ticket.wait(self.settings.timeout)

    def close(self) -> None:
        """Cancel what is queued, wait for what runs, stop the workers. Idempotent."""
        self._pool.close()

    def _verifies(self) -> bool:
        verify = self.settings.verify
        every = SAMPLE_INTERVAL if verify is Verify.SAMPLE else 1
        return verify is not Verify.OFF and self._n_submitted % every == 0

    def _ranges(self, layer: LayerExperts, expert: int) -> Iterable[tuple[Path, int, int, int]]:
        for part in layer.ranges(expert):
            yield from self._parts(part.path, part.offset, part.nbytes, part.record_offset)

    def _parts(
        self, path: Path, offset: int, nbytes: int, record_offset: int
    ) -> Iterable[tuple[Path, int, int, int]]:
        """One range in n_parts pieces that begin on pages; direct reads also end on one."""
        if self.settings.direct:
            nbytes = -(-nbytes // PAGE) * PAGE
        step = (
            -(-nbytes // self.settings.n_parts // PAGE) * PAGE
            if self.settings.n_parts > 1
            else nbytes
        )
        for done in range(0, nbytes, max(step, 1)):
            yield path, offset + done, min(step, nbytes - done), record_offset + done


PAGE = 4096
