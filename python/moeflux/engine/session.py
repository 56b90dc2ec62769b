"""A session: one sequence of tokens on a loaded model. Knows no text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import index
from os import PathLike
from pathlib import Path

import numpy as np

from moeflux.blocks.workspace import Float32Array
from moeflux.engine.account import Account
from moeflux.engine.decode import DecodeStep
from moeflux.engine.prefill import Prefill
from moeflux.engine.runtime import Runtime
from moeflux.engine.snapshots.snapshot import save_snapshot
from moeflux.engine.state import SequenceState, StateCheckpoint, new_state
from moeflux.engine.transcript import checked_tokens
from moeflux.engine.turn import Turns
from moeflux.errors import ContextOverflowError, SessionStateError, TruncationError


class Session:
    """Tokens go in, logits come out; `position` counts the tokens seen.

    Sessions of one model may be used from several threads; they take turns step by step. A prompt
    of prefill() is one step, of prefill_chunks() each chunk.
    """

    def __init__(
        self,
        runtime: Runtime,
        prefill: Prefill,
        state: SequenceState,
        owner: object = None,
        checkpoints: Mapping[int, StateCheckpoint] | None = None,
    ) -> None:
        """`owner` closes the runtime when it is gone, so that a session keeps it."""
        self._owner = owner
        self._runtime = runtime
        self._prefill = prefill
        self._state = state
        self._decode = DecodeStep(runtime, state)
        self._checkpoints = dict(checkpoints or {})
        self._turns = Turns(runtime, state)

    @property
    def position(self) -> int:
        """Number of tokens seen."""
        return self._state.position

    @property
    def tokens(self) -> tuple[int, ...]:
        """Every token seen."""
        return tuple(self._state.transcript.tokens)

    @property
    def context_size(self) -> int:
        """Number of tokens the session can hold."""
        return self._state.context

    @property
    def logits(self) -> Float32Array:
        """Logits float32 [V] after the last token, read only.

        Raises SessionStateError where they are not known: before the first token, inside a prompt
        that comes in chunks, and where truncate() cut at no checkpoint.
        """
        if self._state.logits is None:
            raise SessionStateError(f"the logits at position {self.position} are not known")
        return self._state.logits

    @property
    def checkpoints(self) -> tuple[int, ...]:
        """The positions that checkpoint() has remembered, ascending."""
        return tuple(sorted(self._checkpoints))

    @property
    def dirty(self) -> bool:
        """An error left the state half way through a token.

        reset(), truncate() and rewind() to a checkpoint help.
        """
        return self._turns.dirty

    @property
    def account(self) -> Account | None:
        """What this session's steps are charged to, from its next step on."""
        return self._turns.account

    @account.setter
    def account(self, account: Account | None) -> None:
        self._turns.account = account

    def prefill(self, token_ids: Sequence[int]) -> Float32Array:
        """Append a prompt; logits float32 [V] after its last token, read only.

        Raises ValueError for an empty prompt or an id outside the vocabulary, ContextOverflowError,
        ReadError, and SessionStateError while dirty or once the model is closed.
        """
        tokens = self._checked(token_ids)
        with self._turns.advance(len(tokens)):
            for chunk in self._prefill.chunks(tokens, self.position):
                self._prefill.run(self._state, chunk)
            return self._state.keep_logits(self._prefill.logits(len(chunk) - 1, 1)[0])

    def prefill_chunks(self, token_ids: Sequence[int]) -> Iterator[int]:
        """Append a prompt chunk by chunk: yields how many of its tokens are done.

        Other sessions may use the model between chunks; `logits` are known after the last one.
        Arguments are checked at the call. Errors as in prefill, and SessionStateError if this
        session has been moved meanwhile.
        """
        tokens = self._checked(token_ids)
        self.check_room(len(tokens))
        return self._prefill_each(tokens, self.position)

    def prefill_all_logits(self, token_ids: Sequence[int]) -> Float32Array:
        """Append a prompt.

        Logits float32 [T, V] after each of its T tokens. Errors as in prefill.
        """
        tokens = self._checked(token_ids)
        rows: list[Float32Array] = []
        with self._turns.advance(len(tokens)):
            for chunk in self._prefill.chunks(tokens, self.position):
                self._prefill.run(self._state, chunk)
                rows.append(self._prefill.logits(0, len(chunk)))
            self._state.keep_logits(rows[-1][-1].copy())
        return np.concatenate(rows)

    def decode(self, token_id: int, position: int | None = None) -> Float32Array:
        """Append one token; logits float32 [V] after it, read only.

        `position`, if given, must be the session's own: ValueError otherwise. Other errors as in
        prefill.
        """
        if position is not None and position != self.position:
            raise ValueError(
                f"the session is at position {self.position}, the token was meant for {position}"
            )
        (token,) = self._checked([token_id])
        with self._turns.advance(1):
            logits = self._decode(token, self.position)
            self._state.add_decoded(token)
            return self._state.keep_logits(logits)

    def check_room(self, n_tokens: int) -> None:
        """Raises ContextOverflowError unless `n_tokens` more fit."""
        self._turns.check_room(n_tokens)

    def reset(self) -> None:
        """Forget every token; the session is as new, also after an error.

        Raises SessionStateError once the model is closed.
        """
        with self._turns.hold(dirty=True):
            self._runtime.recover()
            self._checkpoints.clear()
            self._go_back(0)

    def checkpoint(self) -> int:
        """Remember the state as it is now, for rewind(); returns the position.

        It takes memory for the recurrent states and the logits, none for keys and values. Raises
        SessionMemoryError, and SessionStateError as in prefill.
        """
        with self._turns.hold():
            if self.position not in self._checkpoints:
                self._checkpoints[self.position] = self._state.checkpoint(self._runtime)
            return self.position

    def drop_checkpoint(self, position: int) -> None:
        """Forget a checkpoint, which gives back its memory. Raises SessionStateError without it."""
        with self._turns.hold(dirty=True):
            if self._checkpoints.pop(position, None) is None:
                raise self._no_checkpoint(position)

    def rewind(self, position: int) -> None:
        """Forget the tokens behind a checkpoint, or all for position 0.

        Later checkpoints are dropped. Raises SessionStateError where there is no checkpoint; the
        present position needs none.
        """
        with self._turns.hold(dirty=True):
            present = position == self.position and not self._turns.dirty
            if not present and position and position not in self._checkpoints:
                raise self._no_checkpoint(position)
            if not present:
                self._go_back(position)

    def truncate(self, position: int, *, prefill: bool = True) -> int:
        """Forget the tokens from `position` on, with the bits of a session that never saw them.

        Recurrent states cannot go back: there it rewinds to the nearest checkpoint and feeds the
        tokens from it on again, each in the way it came. Returns how many. prefill=False raises
        TruncationError instead. Other errors as in prefill.
        """
        position = index(position)
        with self._turns.hold(dirty=True):
            if not 0 <= position <= self.position:
                raise ValueError(f"position must be 0 .. {self.position}, got {position}")
            if position == self.position and not self._turns.dirty:
                return 0
            nearest = position
            if self._state.recurrent_parts():
                nearest = max((at for at in self._checkpoints if at <= position), default=0)
            if nearest < position and not prefill:
                raise TruncationError(position, nearest)
            transcript = self._state.transcript.copy()
            self._go_back(nearest)
            for piece in transcript.between(nearest, position):
                tokens = transcript.tokens[piece.first : piece.end]
                if piece.prefill:
                    self.prefill(tokens)
                else:
                    for token in tokens:
                        self.decode(token)
            return position - nearest

    def fork(self, context_size: int | None = None) -> Session:
        """Another session with the same tokens and checkpoints, which goes its own way.

        `context_size` None: as large as this one. Raises ContextOverflowError where the tokens do
        not fit, SessionMemoryError, and SessionStateError as in prefill.
        """
        with self._turns.hold():
            size = self.context_size if context_size is None else context_size
            if self.position > size:
                raise ContextOverflowError(0, self.position, size)
            state = new_state(self._runtime, size)
            state.copy_from(self._runtime.queue, self._state)
            return Session(self._runtime, self._prefill, state, self._owner, self._checkpoints)

    def save(self, path: str | PathLike[str]) -> None:
        """Write a snapshot, which Model.restore reads, to `path`: whole or not at all.

        It holds tokens, layer states and logits, not the checkpoints. Raises SnapshotError, and
        SessionStateError as in prefill.
        """
        with self._turns.hold():
            save_snapshot(self._runtime, self._state, Path(path))

    @contextmanager
    def reading(self) -> Iterator[SequenceState]:
        """Its state, to be stored while nothing moves it. Raises SessionStateError as prefill."""
        with self._turns.hold():
            yield self._state

    @contextmanager
    def filling(self) -> Iterator[SequenceState]:
        """Its state, to be filled with a stored one; an error inside leaves the session dirty."""
        with self._turns.change():
            yield self._state

    def _checked(self, token_ids: Sequence[int]) -> list[int]:
        return checked_tokens(token_ids, self._runtime.decoder.vocabulary)

    def _prefill_each(self, tokens: Sequence[int], start: int) -> Iterator[int]:
        n_done = 0
        for number, chunk in enumerate(self._prefill.chunks(tokens, start)):
            with self._turns.advance(len(chunk), start + n_done, number):
                self._prefill.run(self._state, chunk)
                n_done += len(chunk)
                if n_done == len(tokens):
                    self._state.keep_logits(self._prefill.logits(len(chunk) - 1, 1)[0])
            yield n_done

    def _go_back(self, position: int) -> None:
        """To a checkpoint, the start, or with rows alone anywhere; an error leaves it dirty."""
        queue, checkpoint = self._runtime.queue, self._checkpoints.get(position)
        with self._turns.change():
            if checkpoint is not None:
                self._state.rewind(queue, checkpoint)
            elif position == 0:
                self._state.reset(queue)
            else:
                self._state.truncate_rows(position)
        self._checkpoints = {at: kept for at, kept in self._checkpoints.items() if at <= position}

    def _no_checkpoint(self, position: int) -> SessionStateError:
        known = ", ".join(map(str, self.checkpoints)) or "none"
        return SessionStateError(f"no checkpoint at position {position}; there are: {known}")
