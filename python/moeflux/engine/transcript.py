"""The tokens of a sequence and how each came in, so that they can be fed again with the same bits.

Knows no device.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from operator import index

from moeflux.engine.runtime import BLOCK


def checked_tokens(token_ids: Sequence[int], vocabulary: int) -> list[int]:
    """The ids as a list. Raises ValueError for none, and for one outside the vocabulary."""
    tokens = [index(token) for token in token_ids]
    if not tokens:
        raise ValueError("prefill needs at least one token, got none")
    for place, token in enumerate(tokens):
        if not 0 <= token < vocabulary:
            raise ValueError(
                f"token {place} is {token}, the vocabulary has ids 0 .. {vocabulary - 1}"
            )
    return tokens


@dataclass(frozen=True)
class Piece:
    """Tokens that came in one way: as a prompt, or decoded one after the other."""

    first: int
    n_tokens: int
    prefill: bool

    @property
    def end(self) -> int:
        return self.first + self.n_tokens


@dataclass
class Transcript:
    """Tokens fed so far.

    A device may sum a prompt in another order than a decoded token, and a prompt in another order
    from other breaks on, so pieces keep both apart. Breaks at blocks change nothing and are not
    kept.
    """

    tokens: list[int] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)

    @classmethod
    def of(cls, tokens: Sequence[int], pieces: Iterable[tuple[int, bool]]) -> Transcript:
        """From its tokens and pieces: how many tokens at a time, and whether as a prompt."""
        transcript = cls(list(tokens))
        for n_tokens, prefill in pieces:
            first = transcript.pieces[-1].end if transcript.pieces else 0
            transcript.pieces.append(Piece(first, n_tokens, prefill))
        return transcript

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def is_one_prompt(self) -> bool:
        """No token was decoded, and no prompt broke elsewhere than at a block."""
        return all(piece.prefill and piece.first == 0 for piece in self.pieces)

    def add_prompt(self, token_ids: Sequence[int]) -> None:
        """A prompt, or a part of one, was prefilled behind the rest."""
        joins = len(self.tokens) % BLOCK == 0
        self._add(Piece(len(self.tokens), len(token_ids), prefill=True), joins=joins)
        self.tokens += token_ids

    def add_decoded(self, token_id: int) -> None:
        """One more token was decoded."""
        self._add(Piece(len(self.tokens), 1, prefill=False), joins=True)
        self.tokens.append(token_id)

    def between(self, first: int, end: int) -> Iterator[Piece]:
        """The pieces of the positions first .. end - 1."""
        for piece in self.pieces:
            begin, last = max(first, piece.first), min(end, piece.end)
            if begin < last:
                yield Piece(begin, last - begin, piece.prefill)

    def truncate(self, position: int) -> None:
        """Forget the tokens from `position` on."""
        self.pieces = list(self.between(0, position))
        del self.tokens[position:]

    def copy(self) -> Transcript:
        return Transcript(self.tokens.copy(), self.pieces.copy())

    def _add(self, piece: Piece, *, joins: bool) -> None:
        last = self.pieces[-1] if self.pieces else None
        if joins and last is not None and last.prefill == piece.prefill:
            self.pieces[-1] = replace(last, n_tokens=last.n_tokens + piece.n_tokens)
        else:
            self.pieces.append(piece)
