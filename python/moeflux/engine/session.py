"""A session: one sequence of tokens on a loaded model. Knows no text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import index

import numpy as np

from moeflux.blocks.workspace import Float32Array
from moeflux.engine.account import Account
from moeflux.engine.decode import DecodeStep
from moeflux.engine.prefill import Prefill
from moeflux.engine.runtime import Runtime
from moeflux.engine.state import SequenceState
from moeflux.errors import ContextOverflowError, SessionStateError


class Session:
    """Tokens go in, logits come out; `position` counts the tokens seen.

    Sessions of one model may be used from several threads; they take turns token by token.
    """

    def __init__(
        self, runtime: Runtime, prefill: Prefill, context_size: int, owner: object = None
    ) -> None:
        """`owner` closes the runtime when it is gone, so that a session keeps it."""
        self._owner = owner
        self._runtime = runtime
        self._prefill = prefill
        self._state = SequenceState.empty(runtime.decoder, runtime.device, context_size)
        self._decode = DecodeStep(runtime, self._state)
        self._dirty = False
        self.account: Account | None = None
        """What this session's steps are charged to, from its next step on."""

    @property
    def position(self) -> int:
        """Number of tokens seen."""
        return self._state.position

    @property
    def context_size(self) -> int:
        """Number of tokens the session can hold."""
        return self._state.context

    @property
    def dirty(self) -> bool:
        """An error left the state half way through a token; only reset() helps."""
        return self._dirty

    def prefill(self, token_ids: Sequence[int]) -> Float32Array:
        """Append a prompt; logits float32 [V] after its last token.

        Raises ValueError for an empty prompt or an id outside the vocabulary, ContextOverflowError,
        ReadError, and SessionStateError while dirty or once the model is closed.
        """
        tokens = self._checked(token_ids)
        with self._advancing(len(tokens)):
            for chunk in self._prefill.chunks(tokens, self.position):
                self._prefill.run(self._state, chunk)
                self._state.position += len(chunk)
            logits: Float32Array = self._prefill.logits(len(chunk) - 1, 1)[0]
        return logits

    def prefill_all_logits(self, token_ids: Sequence[int]) -> Float32Array:
        """Append a prompt.

        Logits float32 [T, V] after each of its T tokens. Errors as in prefill.
        """
        tokens = self._checked(token_ids)
        rows: list[Float32Array] = []
        with self._advancing(len(tokens)):
            for chunk in self._prefill.chunks(tokens, self.position):
                self._prefill.run(self._state, chunk)
                self._state.position += len(chunk)
                rows.append(self._prefill.logits(0, len(chunk)))
        return np.concatenate(rows)

    def decode(self, token_id: int, position: int | None = None) -> Float32Array:
        """Append one token; logits float32 [V] after it.

        `position`, if given, must be the session's own: ValueError otherwise. Other errors as in
        prefill.
        """
        if position is not None and position != self.position:
            raise ValueError(
                f"the session is at position {self.position}, the token was meant for {position}"
            )
        (token,) = self._checked([token_id])
        with self._advancing(1):
            logits = self._decode(token, self.position)
            self._state.position += 1
        return logits

    def check_room(self, n_tokens: int) -> None:
        """Raises ContextOverflowError unless `n_tokens` more fit."""
        if self.position + n_tokens > self.context_size:
            raise ContextOverflowError(self.position, n_tokens, self.context_size)

    def reset(self) -> None:
        """Forget every token; the session is as new, also after an error.

        Raises SessionStateError once the model is closed.
        """
        with self._runtime.turn:
            self._check_open()
            self._runtime.recover()
            self._state.reset(self._runtime.queue)
            self._dirty = False

    def _checked(self, token_ids: Sequence[int]) -> list[int]:
        tokens = [index(token) for token in token_ids]
        vocabulary = self._runtime.decoder.vocabulary
        if not tokens:
            raise ValueError("prefill needs at least one token, got none")
        for place, token in enumerate(tokens):
            if not 0 <= token < vocabulary:
                raise ValueError(
                    f"token {place} is {token}, the vocabulary has ids 0 .. {vocabulary - 1}"
                )
        return tokens

    def _check_open(self) -> None:
        if self._runtime.closed:
            raise SessionStateError("the model of this session is closed")

    @contextmanager
    def _advancing(self, n_tokens: int) -> Iterator[None]:
        """Hold the turn; on an error let the device finish and mark the session dirty."""
        with self._runtime.turn_of(self.account):
            self._check_open()
            if self._dirty:
                raise SessionStateError(
                    f"an error left this session inside token {self.position}; "
                    "reset() it or start another"
                )
            self.check_room(n_tokens)
            self._dirty = True
            capture = self._runtime.capture
            try:
                if capture is not None:
                    capture.begin_pass()
                yield
                if capture is not None:
                    capture.end_pass()
            except BaseException:
                if capture is not None:
                    capture.abandon()
                self._runtime.recover()
                raise
            self._dirty = False
