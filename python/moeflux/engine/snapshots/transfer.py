"""Bytes of device buffers, piece by piece through memory that the host sees."""

from __future__ import annotations

from collections.abc import Iterator

from moeflux._core import Buffer, Step
from moeflux.engine.runtime import Runtime
from moeflux.engine.snapshots.format import StateReader


class Transfer:
    """Between the device and stored states. Needs no memory of its own.

    What it borrows are the rows of logits that nobody keeps, so the caller holds the turn.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        rows = runtime.logit_work.rows("logits", runtime.decoder.vocabulary, host=True)
        self._staging = rows.buffer
        self._bytes = memoryview(self._staging).cast("B")

    def read(self, buffer: Buffer) -> Iterator[memoryview]:
        """The bytes of a buffer; each piece is valid until the next."""
        for offset in range(0, buffer.nbytes, len(self._bytes)):
            nbytes = min(len(self._bytes), buffer.nbytes - offset)
            self._copy(buffer.view(offset, nbytes), self._staging.view(0, nbytes))
            yield self._bytes[:nbytes]

    def write(self, reader: StateReader, name: str, buffer: Buffer) -> None:
        """Fill a buffer with a section of its size. Raises as StateReader."""
        offset = 0
        for piece in reader.stream(name, self._bytes):
            nbytes = len(piece)
            self._copy(self._staging.view(0, nbytes), buffer.view(offset, nbytes))
            offset += nbytes

    def _copy(self, source: Buffer, destination: Buffer) -> None:
        commands = self._runtime.queue.command_buffer(Step(0, 1), "state")
        commands.copy(source, destination)
        commands.commit()
        commands.wait()
