"""Constraints by llguidance: JSON of a schema, a regular expression, a context-free grammar.

Imported only where a constraint is asked for. Control tokens never stand for the text that they
spell, so that a constrained text cannot contain one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from numpy.typing import NDArray

from moeflux.errors import ConstraintError
from moeflux.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

JSON_WHITESPACE = r"[ \t]{1,4}|\r?\n[ \t]{0,40}"
"""Between the parts of JSON: bounded, so that a model cannot go on with it for ever."""

JSON_OPTIONS: JsonCompileOptions = {
    "whitespace_flexible": True,
    "whitespace_pattern": JSON_WHITESPACE,
    "lenient": False,
}
"""Stronger than what a schema says of itself under "x-guidance"."""


class Guidance:
    """Makes constraints over the tokens of one tokenizer, whose vocabulary it prepares once.

    Compiling takes up to a second for the largest grammars; from any thread.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        vocabulary: Any = _Vocabulary(tokenizer)
        self._vocabulary = LLTokenizer(vocabulary, eos_token=vocabulary.eos_token_ids)

    def json_schema(self, schema: Mapping[str, Any]) -> GrammarConstraint:
        """JSON values of a schema, properties in its order.

        {"type": "object"} is any object, {} any value. Raises ConstraintError for a schema that is
        wrong or uses what llguidance cannot enforce.
        """
        kind = "JSON schema"
        if not isinstance(schema, Mapping):
            raise ConstraintError(f"{kind}: wanted an object, got {schema!r}")
        try:
            text = json.dumps(dict(schema), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConstraintError(f"{kind}: wanted JSON, got {error}") from error
        return self._compiled(
            kind, LLMatcher.grammar_from_json_schema(text, overrides=JSON_OPTIONS)
        )

    def regex(self, pattern: str) -> GrammarConstraint:
        """Texts that a regular expression of Rust's `regex` syntax matches as a whole.

        Raises ConstraintError for a pattern that is wrong, or empty, or looks around.
        """
        if not pattern:
            raise ConstraintError("regular expression: wanted a pattern, got an empty one")
        grammar = LLMatcher.grammar_from_regex(pattern)
        return self._compiled(f"regular expression {pattern!r}", grammar)

    def grammar(self, lark: str) -> GrammarConstraint:
        """Texts of a context-free grammar in llguidance's variant of Lark, from rule `start` on.

        Raises ConstraintError for a grammar that is wrong.
        """
        return self._compiled("grammar", LLMatcher.grammar_from_lark(lark))

    def _compiled(self, kind: str, grammar: str) -> GrammarConstraint:
        limits = LLParserLimits(verbose_errors=False)
        matcher = LLMatcher(self._vocabulary, grammar, log_level=0, limits=limits)
        return GrammarConstraint(matcher, kind, self._vocabulary.vocab_size)


class GrammarConstraint:
    """A compiled grammar; see Constraint."""

    def __init__(self, matcher: LLMatcher, kind: str, n_tokens: int) -> None:
        """`kind` says in errors what the grammar was made of, `n_tokens` is the vocabulary.

        Raises ConstraintError for a grammar that is wrong or beyond llguidance's limits.
        """
        self._matcher = matcher
        self._kind = kind
        _check(matcher, kind)
        # What is beyond the limits shows with the first token.
        run = self.start()
        if len(first := np.flatnonzero(run.allowed(n_tokens))):
            run.accept(int(first[0]))

    def start(self) -> GrammarRun:
        """The grammar before the first token of one generation."""
        return GrammarRun(self._matcher.deep_copy(), self._kind)


class GrammarRun:
    """One generation under a grammar; see ConstraintRun."""

    def __init__(self, matcher: LLMatcher, kind: str) -> None:
        self._matcher = matcher
        self._kind = kind

    @property
    def ended(self) -> bool:
        return self._matcher.is_stopped()

    def allowed(self, vocabulary: int) -> NDArray[np.bool_]:
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        _check(self._matcher, self._kind)
        known = np.unpackbits(bits, count=min(vocabulary, 8 * len(bits)), bitorder="little")
        allowed = np.zeros(vocabulary, np.bool_)
        allowed[: len(known)] = known
        return allowed

    def accept(self, token_id: int) -> None:
        self._matcher.consume_token(token_id)
        _check(self._matcher, self._kind)


class _Vocabulary:
    """What llguidance asks of a tokenizer.

    Where the checkpoint names no end-of-sequence token, one beyond its vocabulary stands for it.
    """

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.tokens: Sequence[bytes] = list(map(tokenizer.token_bytes, range(tokenizer.vocab_size)))
        self.eos_token_ids = sorted(tokenizer.eos_token_ids)
        if not self.eos_token_ids:
            self.eos_token_ids = [len(self.tokens)]
            self.tokens = [*self.tokens, b"<end of text>"]
        self.eos_token_id = self.eos_token_ids[0]
        control = tokenizer.control_tokens.values()
        self.special_token_ids = sorted({*control, *self.eos_token_ids})
        special = set(self.special_token_ids)
        self._ids = {
            token: index
            for index, token in enumerate(self.tokens)
            if token and index not in special
        }
        self._longest = max(map(len, self._ids), default=0)

    def __call__(self, text: str) -> list[int]:
        """Token ids of these very bytes: the tokenizer's own, unless it adds or drops a space."""
        token_ids, wanted = self._tokenizer.encode(text), text.encode()
        if b"".join(self.tokens[token_id] for token_id in token_ids) == wanted:
            return token_ids
        return self._by_longest_tokens(wanted)

    def _by_longest_tokens(self, wanted: bytes) -> list[int]:
        """Up to a byte that no token begins with."""
        token_ids: list[int] = []
        while wanted:
            sizes = range(min(self._longest, len(wanted)), 0, -1)
            size = next((size for size in sizes if wanted[:size] in self._ids), None)
            if size is None:
                break
            token_ids.append(self._ids[wanted[:size]])
            wanted = wanted[size:]
        return token_ids


def _check(matcher: LLMatcher, kind: str) -> None:
    if matcher.is_error():
        message = matcher.get_error().replace("<non-verbose/>", "")
        raise ConstraintError(f"{kind}: {message.strip()}")
