"""Snapshots: the state of a session in a file, from which it goes on with the same bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from moeflux.blocks.workspace import Float32Array
from moeflux.engine.runtime import Runtime
from moeflux.engine.snapshots.format import StateHeader, StateReader, write_state
from moeflux.engine.snapshots.parts import (
    TOKENS,
    array_part,
    fill_layers,
    layer_parts,
    read_tokens,
    tokens_part,
)
from moeflux.engine.snapshots.saved_file import SavedFile
from moeflux.engine.snapshots.source import FileSource
from moeflux.engine.state import SequenceState, new_state
from moeflux.engine.transcript import Transcript, checked_tokens
from moeflux.errors import ContextOverflowError, SnapshotMismatchError

KIND = "snapshot"
LOGITS = "logits"
_LOGITS_DTYPE = np.dtype("<f4")


def save_snapshot(runtime: Runtime, state: SequenceState, path: Path) -> None:
    """Write the state to `path`, whole or not at all. The caller holds the turn.

    Raises SnapshotError.
    """
    header = StateHeader(
        kind=KIND,
        identity=runtime.identity(),
        parent="",
        first=0,
        position=state.position,
        context_size=state.context,
        pieces=tuple((piece.n_tokens, piece.prefill) for piece in state.transcript.pieces),
    )
    parts = [tokens_part(state.transcript.tokens)]
    if state.logits is not None:
        parts.append(array_part(LOGITS, state.logits.astype(_LOGITS_DTYPE)))
    parts += layer_parts(runtime, state, 0)
    with SavedFile(path) as file:
        write_state(file, header, parts)
        file.commit()


def restore_snapshot(runtime: Runtime, path: Path, context_size: int | None) -> SequenceState:
    """A new state, as it was saved; `context_size` None: with as much room.

    Raises SnapshotError, ValueError, ContextOverflowError where the tokens do not fit,
    SessionMemoryError.
    """
    with FileSource(path) as source:
        reader = StateReader(source)
        transcript = _checked_transcript(reader, runtime)
        size = reader.header.context_size if context_size is None else context_size
        if len(transcript) > size:
            raise ContextOverflowError(0, len(transcript), size)
        state = new_state(runtime, size)
        logits = _read_logits(reader, runtime.decoder.vocabulary)
        fill_layers(runtime, reader, state, others={TOKENS, LOGITS})
    state.transcript = transcript
    if logits is not None:
        state.keep_logits(logits)
    return state


def _checked_transcript(reader: StateReader, runtime: Runtime) -> Transcript:
    """The tokens of a snapshot that this model may go on from."""
    header = reader.header
    if header.kind != KIND or header.first or header.parent:
        raise reader.damaged(f"wanted a {KIND}, got a {header.kind} from {header.first} on")
    tokens = read_tokens(reader)
    identity = runtime.identity()
    for name, got, wanted in (
        ("model", header.identity.model, identity.model),
        ("device", header.identity.device, identity.device),
        ("program", header.identity.program, identity.program),
    ):
        if got != wanted:
            raise SnapshotMismatchError(
                f"{reader.path}: is of another {name}: wanted {wanted}, got {got}",
                reader.path,
                tokens,
            )
    try:
        checked_tokens(tokens or [0], runtime.decoder.vocabulary)
    except ValueError as error:
        raise reader.damaged(str(error)) from error
    limit = runtime.context_limit or header.context_size
    if not max(1, len(tokens)) <= header.context_size <= limit:
        raise reader.damaged(
            f"wanted room for {len(tokens)} to {limit} tokens, got {header.context_size}"
        )
    return Transcript.of(tokens, header.pieces)


def _read_logits(reader: StateReader, vocabulary: int) -> Float32Array | None:
    if LOGITS not in reader.sections:
        return None
    if reader.sections[LOGITS].nbytes != _LOGITS_DTYPE.itemsize * vocabulary:
        raise reader.damaged(f"the logits are not those of {vocabulary} tokens")
    return np.frombuffer(reader.read(LOGITS), _LOGITS_DTYPE).astype(np.float32)
