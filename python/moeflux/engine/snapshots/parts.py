"""Tokens and layer states as the sections of a stored state."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from moeflux.engine.runtime import Runtime
from moeflux.engine.snapshots.format import Part, StateReader
from moeflux.engine.snapshots.transfer import Transfer
from moeflux.engine.state import SequenceState

TOKENS = "tokens"
_TOKEN_DTYPE = np.dtype("<i4")


def array_part(name: str, array: npt.NDArray[np.generic]) -> Part:
    """The bytes of an array."""
    data = memoryview(array.tobytes())
    return Part(name, data.nbytes, lambda: [data] if data.nbytes else [])


def tokens_part(tokens: Sequence[int]) -> Part:
    """Token ids, as int32."""
    return array_part(TOKENS, np.array(tokens, _TOKEN_DTYPE))


def read_tokens(reader: StateReader) -> list[int]:
    """What tokens_part has stored. Raises SnapshotDamagedError unless one for each position."""
    header = reader.header
    wanted = _TOKEN_DTYPE.itemsize * (header.position - header.first)
    if (section := reader.sections.get(TOKENS)) is None or section.nbytes != wanted:
        got = "none" if section is None else f"{section.nbytes} bytes"
        raise reader.damaged(f"section {TOKENS!r}: wanted {wanted} bytes, got {got}")
    tokens: list[int] = np.frombuffer(reader.read(TOKENS), _TOKEN_DTYPE).tolist()
    return tokens


def layer_parts(runtime: Runtime, state: SequenceState, first: int) -> list[Part]:
    """The layer states, with rows from position `first` on, read while the caller has the turn."""
    transfer = Transfer(runtime)
    return [
        Part(name, buffer.nbytes, partial(transfer.read, buffer))
        for name, buffer in state.parts(first, state.position).items()
    ]


def fill_layers(
    runtime: Runtime,
    reader: StateReader,
    state: SequenceState,
    *,
    others: Collection[str],
    rows_only: bool = False,
) -> None:
    """Fill the layer states with what layer_parts has stored.

    `others`: sections that may be there too. Raises SnapshotDamagedError, before anything changes
    where sections are missing or of other sizes.
    """
    first, end = reader.header.first, reader.header.position
    parts = state.parts(first, end)
    sizes = {name: part.nbytes for name, part in parts.items()}
    sizes |= {name: reader.sections[name].nbytes for name in others if name in reader.sections}
    reader.check_sections(sizes)
    for name, buffer in (state.row_parts(first, end) if rows_only else parts).items():
        with runtime.turn:
            Transfer(runtime).write(reader, name, buffer)
