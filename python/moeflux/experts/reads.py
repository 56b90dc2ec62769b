"""Reads of whole experts into slots: which ranges of which file, and how. Decides nothing."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from secrets import SystemRandom

from moeflux._core import Buffer, Device, File, ReadPool, ReadRanges, ReadTicket
from moeflux.checkpoint import LayerExperts
from moeflux.errors import ChecksumError, ReadError, ReadTimeoutError
from moeflux.experts.lease import Demand, ExpertSlot
from moeflux.experts.read_mode import ExpertKey, ReadMode, ReadModeChoice, choose_read_mode
from moeflux.experts.records import Claim, Records


class Verify(Enum):
    """How many reads of a packed checkpoint are compared with their checksums."""

    OFF = "off"
    SAMPLE = "sample"
    ALWAYS = "always"


PAGE = 4096
SAMPLE_INTERVAL = 16
TRIAL_BATCH_NBYTES = 32 << 20


@dataclass(frozen=True)
class ReadSettings:
    """How experts are read; none of it changes what the model computes."""

    n_workers: int = 8
    mode: ReadMode = ReadMode.PAGE_CACHE
    n_parts: int = 1
    """Pieces of one record that workers read at the same time."""
    verify: Verify = Verify.SAMPLE
    """SAMPLE: every 16th read, and every read of an expert that was once found damaged."""
    timeout: float = 60.0
    """Seconds to wait for one read before it counts as failed."""
    n_retries: int = 1
    """Further attempts at a demanded read that failed."""
    page_cache_share: float = 1.0
    """Of the experts without a slot, how many the page cache has room for."""


@dataclass(frozen=True)
class Read:
    """A read under way."""

    expert: ExpertSlot
    ticket: ReadTicket
    submitted: float
    """Of time.perf_counter."""
    urgent: bool
    demand: Demand
    claim: Claim | None = None
    """On the record in the host's memory that it goes through, if any."""

    @property
    def copied(self) -> bool:
        """The bytes come from a record in the host's memory: nothing is read."""
        return self.claim is not None and self.claim.filled


class ExpertFiles:
    """The files that hold the experts, opened for one read mode."""

    def __init__(self, layers: Mapping[int, LayerExperts], n_parts: int, *, direct: bool) -> None:
        """Raises OSError for a file that cannot be opened so."""
        self._layers = layers
        self._n_parts = n_parts
        paths = sorted({path for layer in layers.values() for path in layer.paths})
        self._files: Mapping[Path, File] = {path: File(path, direct) for path in paths}
        self._whole: Mapping[int, ReadRanges] = {
            index: ReadRanges([(self._files[paths[0]], 0, layer.record_nbytes, 0)])
            for index, layer in layers.items()
        }
        self._ranges: dict[ExpertKey, ReadRanges] = {}

    @property
    def files(self) -> Iterable[File]:
        return self._files.values()

    def whole(self, layer: int) -> ReadRanges:
        """All of a record at once, for a copy that reads no file."""
        return self._whole[layer]

    def ranges(self, layer: int, expert: int) -> ReadRanges:
        """What to read of an expert, each range in n_parts pieces of whole pages."""
        ranges = self._ranges.get((layer, expert))
        if ranges is None:
            ranges = self._ranges[layer, expert] = ReadRanges(
                [
                    (self._files[part.path], part.offset + done, nbytes, part.record_offset + done)
                    for part in self._layers[layer].ranges(expert)
                    for done, nbytes in _pieces(part.nbytes, self._n_parts)
                ]
            )
        return ranges


def _pieces(nbytes: int, n_pieces: int) -> Iterator[tuple[int, int]]:
    """Offset and bytes of each piece; all but the last are whole pages."""
    pages = -(-nbytes // PAGE)
    step = -(-pages // n_pieces) * PAGE
    for done in range(0, nbytes, step):
        yield done, min(step, nbytes - done)


class ExpertReads:
    """The files that hold the experts and the workers that read them."""

    def __init__(
        self,
        device: Device,
        layers: Mapping[int, LayerExperts],
        slots: Sequence[Buffer],
        settings: ReadSettings,
        records: Records | None = None,
    ) -> None:
        """May read into any slot, to choose the read mode. Raises OSError, ReadTimeoutError.

        `records`: what is read is kept there, and copied from there instead of being read again.
        """
        self.settings = settings
        self._records = records
        self._layers = layers
        self._slots = slots
        self._pool = device.read_pool(settings.n_workers)
        trial = _Trial(layers, self._pool, slots, settings)
        self.mode: ReadModeChoice = choose_read_mode(
            settings.mode, trial, trial.batches(), settings.page_cache_share
        )
        self._files = trial.files[self.mode.direct]
        self._n_submitted = 0
        self._damaged: set[ExpertKey] = set()

    def submit(self, expert: ExpertSlot, *, urgent: bool, demand: Demand = Demand.DECODE) -> Read:
        """Start to bring an expert into its slot: from its record if it has one, else by a read."""
        self._n_submitted += 1
        claim = None
        if self._records is not None:
            claim = self._records.claim(expert.layer, expert.expert, demand)
        try:
            checksum = self._checksum(expert)
            # A checksum is of the ranges one after the other, without what lies between them.
            if claim is not None and claim.filled and checksum is None:
                ranges = self._files.whole(expert.layer)
            else:
                ranges = self._files.ranges(expert.layer, expert.expert)
            ticket = self._pool.submit_ranges(
                ranges,
                self._slots[expert.slot],
                urgent,
                checksum,
                None if claim is None else claim.record,
                claim is not None and claim.filled,
            )
        except Exception as error:
            # Not after an interrupt: it may have come behind the submission, so that a read runs.
            self._end(claim, error)
            raise
        return Read(expert, ticket, time.perf_counter(), urgent, demand, claim)

    def wait(self, read: Read, since: float) -> None:
        """Block until the read has delivered, at most until `timeout` seconds after `since`.

        Raises ReadError (ChecksumError, ReadTimeoutError) or ReadCancelled.
        """
        try:
            read.ticket.wait(max(0.0, since + self.settings.timeout - time.perf_counter()))
        except BaseException as error:
            if isinstance(error, ChecksumError):
                self._damaged.add((read.expert.layer, read.expert.expert))
            if read.ticket.done:
                self._end(read.claim, error)
            raise
        self._end(read.claim)

    def close(self) -> None:
        """Cancel what is queued, wait for what runs, stop the workers. Idempotent."""
        self._pool.close()

    def _end(self, claim: Claim | None, failure: BaseException | None = None) -> None:
        if self._records is not None and claim is not None:
            self._records.end(claim, failure)

    def _checksum(self, expert: ExpertSlot) -> int | None:
        """Of the record, where this read is to be verified and the checkpoint has checksums."""
        verify = self.settings.verify
        sampled = self._n_submitted % SAMPLE_INTERVAL == 0
        if verify is Verify.OFF:
            return None
        if verify is Verify.ALWAYS or sampled or (expert.layer, expert.expert) in self._damaged:
            return self._layers[expert.layer].checksum(expert.expert)
        return None


class _Trial:
    """Reads of experts in both modes, into slots that nothing is in yet."""

    def __init__(
        self,
        layers: Mapping[int, LayerExperts],
        pool: ReadPool,
        slots: Sequence[Buffer],
        settings: ReadSettings,
    ) -> None:
        self.files = {False: ExpertFiles(layers, settings.n_parts, direct=False)}
        """By whether they are read directly; `probe` adds those that are."""
        self._layers = layers
        self._pool = pool
        self._slots = slots
        self._settings = settings

    def batches(self) -> Iterator[list[ExpertKey]]:
        """All experts in random order, as many at a time as workers read."""
        layers = self._layers.items()
        keys = [(index, expert) for index, layer in layers for expert in range(layer.n_experts)]
        # A seed would choose the experts that an earlier load has left in the page cache.
        SystemRandom().shuffle(keys)
        largest = max((layer.record_nbytes for _, layer in layers), default=1)
        width = min(self._settings.n_workers, len(self._slots), TRIAL_BATCH_NBYTES // largest)
        step = max(1, width)
        return (keys[first : first + step] for first in range(0, len(keys), step))

    def probe(self) -> None:
        """Open succeeds on file systems that then refuse to read."""
        direct = ExpertFiles(self._layers, self._settings.n_parts, direct=True)
        for file in direct.files:
            self._wait([self._pool.submit(file, 0, min(PAGE, file.nbytes), self._slots[0])])
        self.files[True] = direct

    def read(self, batch: Sequence[ExpertKey], *, direct: bool) -> int:
        files = self.files[direct]
        tickets = [
            self._pool.submit_ranges(files.ranges(*key), slot)
            for key, slot in zip(batch, self._slots, strict=False)
        ]
        self._wait(tickets)
        return sum(ticket.nbytes for ticket in tickets)

    def _wait(self, tickets: Sequence[ReadTicket]) -> None:
        """Wait for all, also after one has failed; then raise the first failure."""
        failure: ReadError | None = None
        for ticket in tickets:
            try:
                ticket.wait(self._settings.timeout)
            except ReadTimeoutError:
                raise
            except ReadError as error:
                failure = failure or error
        if failure is not None:
            raise failure
