"""A session's turns on its model, and whether one of them failed half way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from moeflux.engine.account import Account
from moeflux.engine.runtime import Runtime
from moeflux.engine.state import SequenceState
from moeflux.errors import ContextOverflowError, SessionStateError


class Turns:
    """Hands a session the model for one step at a time.

    dirty: a step has changed the state in part, so that no token may follow.
    """

    def __init__(self, runtime: Runtime, state: SequenceState) -> None:
        self._runtime = runtime
        self._state = state
        self.dirty = False
        self.account: Account | None = None
        """What steps are charged to."""

    @contextmanager
    def hold(self, *, dirty: bool = False) -> Iterator[None]:
        """Hold the turn. Raises SessionStateError once closed, and while dirty unless `dirty`."""
        with self._runtime.turn_of(self.account):
            if self._runtime.closed:
                raise SessionStateError("the model of this session is closed")
            if self.dirty and not dirty:
                raise SessionStateError(
                    f"an error left this session inside token {self._state.position}; "
                    "reset() it, rewind() it to a checkpoint, truncate() it or start another"
                )
            yield

    @contextmanager
    def change(self) -> Iterator[None]:
        """Hold the turn, also while dirty; the session is dirty until the end of the change."""
        with self.hold(dirty=True):
            self.dirty = True
            yield
            self.dirty = False

    @contextmanager
    def advance(self, n_tokens: int, start: int | None = None, chunk: int = 0) -> Iterator[None]:
        """Hold the turn; on an error let the device finish and leave the session dirty.

        `start`: where the session must be. `chunk`: which one of its prompt comes first. Raises
        ContextOverflowError, SessionStateError.
        """
        with self.hold():
            if start not in (None, self._state.position):
                raise SessionStateError(
                    f"a prompt goes on at position {start}, "
                    f"the session is at {self._state.position}"
                )
            self.check_room(n_tokens)
            self.dirty = True
            capture = self._runtime.capture
            try:
                if capture is not None:
                    capture.begin_pass(chunk)
                yield
                if capture is not None:
                    capture.end_pass()
            except BaseException:
                if capture is not None:
                    capture.abandon()
                self._runtime.recover()
                raise
            self.dirty = False

    def check_room(self, n_tokens: int) -> None:
        """Raises ContextOverflowError unless `n_tokens` more fit."""
        position, context = self._state.position, self._state.context
        if position + n_tokens > context:
            raise ContextOverflowError(position, n_tokens, context)
