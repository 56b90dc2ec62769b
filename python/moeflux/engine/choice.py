"""Choosing the tokens of one answer: sampler, what came before, and the constraint."""

from __future__ import annotations

from moeflux.engine.events import TokenLogprobs
from moeflux.engine.request import Request
from moeflux.engine.sampler import Logits, TokenHistory


class TokenChoice:
    """Goes on with each token that it chose; for one answer to one request."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._history = TokenHistory(request.prompt_ids)
        self._constraint = None if request.constraint is None else request.constraint.start()
        self._is_eos = False

    @property
    def is_eos(self) -> bool:
        """The last token chosen ends the sequence, and is no text."""
        return self._is_eos

    @property
    def ended(self) -> bool:
        """No token may follow the last one chosen."""
        return self._is_eos or (self._constraint is not None and self._constraint.ended)

    def choose(self, logits: Logits) -> int:
        """The token that follows, from logits [V].

        Raises what Sampler.sample and a constraint raise.
        """
        constraint = self._constraint
        allowed = None if constraint is None else constraint.allowed(len(logits))
        token_id = self._request.sampler.sample(logits, self._history, allowed)
        self._history.append(token_id)
        self._is_eos = token_id in self._request.limits.eos_token_ids
        if constraint is not None and not self._is_eos:
            constraint.accept(token_id)
        return token_id

    def logprobs(self, logits: Logits, token_id: int) -> TokenLogprobs | None:
        """Those of a token, from the logits that it was chosen from, if they were asked for."""
        n_top = self._request.logprobs
        return None if n_top is None else TokenLogprobs.of(logits, token_id, n_top)
