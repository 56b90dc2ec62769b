"""A constraint on the answer that follows reasoning, which is free. Knows no grammar."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moeflux.engine.constraint import Constraint, ConstraintRun
from moeflux.tokenizer import Tokenizer


class ReasoningFirst:
    """Any text up to `closing`, then what `constraint` allows. The text may not end before."""

    def __init__(self, constraint: Constraint, tokenizer: Tokenizer, closing: str) -> None:
        self._constraint, self._tokenizer = constraint, tokenizer
        self._closing = closing.encode()

    def start(self) -> ConstraintRun:
        """The constraint while the reasoning is open."""
        return _Run(self._constraint.start(), self._tokenizer, self._closing)


class _Run:
    def __init__(self, answer: ConstraintRun, tokenizer: Tokenizer, closing: bytes) -> None:
        self._answer, self._tokenizer, self._closing = answer, tokenizer, closing
        self._tail = b""
        self._in_reasoning = True

    @property
    def ended(self) -> bool:
        return not self._in_reasoning and self._answer.ended

    def allowed(self, vocabulary: int) -> NDArray[np.bool_]:
        if not self._in_reasoning:
            return self._answer.allowed(vocabulary)
        allowed = np.ones(vocabulary, np.bool_)
        ends = [i for i in self._tokenizer.eos_token_ids if i < vocabulary]
        allowed[ends] = False
        return allowed

    def accept(self, token_id: int) -> None:
        if not self._in_reasoning:
            self._answer.accept(token_id)
            return
        text = self._tail + self._tokenizer.token_bytes(token_id)
        self._in_reasoning = self._closing not in text
        self._tail = text[-len(self._closing) :]
