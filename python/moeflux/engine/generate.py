"""Text generation: prompt in, events out. Joins session, sampler, detokeniser and stop strings."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

from moeflux.engine.account import Account
from moeflux.engine.receipt import GenerationStats, phase_stats, predictor_stats
from moeflux.engine.routes import RouteRecorder
from moeflux.engine.runtime import Runtime
from moeflux.engine.sampler import Sampler, TokenHistory
from moeflux.engine.session import Session
from moeflux.engine.stop import StopMatcher
from moeflux.experts.timeline import Timeline
from moeflux.memory import peak_memory
from moeflux.tokenizer import Tokenizer


class SamplingOptions(TypedDict, total=False):
    """Keyword arguments of `Model.generate` that become SamplingParams."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    seed: int | None


FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Event:
    """One generated token; its text may be empty while a character or a stop string is incomplete.

    Only the last event of a generation has `finish_reason` ("stop" or "length") and `stats`.
    """

    text: str
    token_id: int
    finish_reason: FinishReason | None = None
    stats: GenerationStats | None = None


@dataclass(frozen=True)
class Limits:
    """A generation ends after `max_tokens`, at an end-of-sequence id, or before a stop string."""

    max_tokens: int
    eos_token_ids: frozenset[int]
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {self.max_tokens}")


@dataclass(frozen=True)
class Request:
    """What to generate, and how tokens are drawn."""

    prompt_ids: Sequence[int]
    sampler: Sampler
    limits: Limits


@dataclass
class _Phase:
    """Prefill or decode of a generation while it goes on."""

    account: Account
    n_tokens: int = 0
    seconds: float = 0.0


class Generation(Iterator[Event]):
    """One run of the decode loop over a session: an iterator of events.

    `stats` says at any time what it has cost so far, also after an interrupt or an error.
    """

    def __init__(
        self,
        session: Session,
        runtime: Runtime,
        tokenizer: Tokenizer,
        request: Request,
        timeline: Timeline | None = None,
        routes: RouteRecorder | None = None,
    ) -> None:
        """`timeline` gets the spans of its steps, `routes` the experts that they route to."""
        self._session = session
        self._runtime = runtime
        self._tokenizer = tokenizer
        self._request = request
        self._prefill = _Phase(Account(timeline, routes))
        self._decode = _Phase(Account(timeline, routes))
        self._phase = self._prefill
        self._n_generated = 0
        self._resumed = 0.0
        self._events = self._run()

    def __next__(self) -> Event:
        self._resumed = time.perf_counter()
        self._session.account = self._phase.account
        try:
            return next(self._events)
        finally:
            self._note_time()
            self._session.account = None

    def close(self) -> None:
        """End it here; the session can be used further."""
        self._events.close()

    @property
    def stats(self) -> GenerationStats:
        """What it has cost until the last event, an interrupt or an error."""
        runtime, experts = self._runtime, self._runtime.experts
        runtime.settle()
        prefill, decode = (
            phase_stats(phase.account, phase.n_tokens, phase.seconds, experts.layer_indices)
            for phase in (self._prefill, self._decode)
        )
        spent = self._decode.account.spent
        return GenerationStats(
            prompt_tokens=len(self._request.prompt_ids),
            generated_tokens=self._n_generated,
            prefill=prefill,
            decode=decode,
            peak_memory_nbytes=peak_memory(),
            memory_cap_nbytes=runtime.memory_cap,
            n_slots=experts.n_slots,
            n_experts=experts.n_experts,
            weight_nbytes_per_token=runtime.weight_nbytes_per_token,
            predictors=predictor_stats(spent) if spent is not None else (),
            governor=tuple(self._prefill.account.decisions + self._decode.account.decisions),
        )

    def _run(self) -> Generator[Event, None, None]:
        """Prefill the prompt, then sample and decode until a limit.

        The last sampled token is not decoded.
        """
        prompt_ids, limits = self._request.prompt_ids, self._request.limits
        detokenizer, stop = self._tokenizer.detokenizer(), StopMatcher(limits.stop)
        logits = self._session.prefill(prompt_ids)
        self._begin_decode()
        history = TokenHistory(prompt_ids)
        room = self._session.context_size - self._session.position + 1
        max_tokens = min(limits.max_tokens, room)
        while True:
            token_id = self._request.sampler.sample(logits, history)
            history.append(token_id)
            self._n_generated += 1
            ended = token_id in limits.eos_token_ids
            text, stopped = ("", False) if ended else stop.feed(detokenizer.add(token_id))
            if ended or stopped or self._n_generated == max_tokens:
                break
            yield Event(text, token_id)
            logits = self._session.decode(token_id)
            self._decode.n_tokens += 1
        if not stopped:
            rest, stopped = stop.feed(detokenizer.finish())
            text += rest if stopped else rest + stop.finish()
        self._runtime.settle_guesses(self._decode.account)
        self._note_time()
        yield Event(text, token_id, "stop" if ended or stopped else "length", self.stats)

    def _begin_decode(self) -> None:
        self._prefill.n_tokens = len(self._request.prompt_ids)
        self._note_time()
        self._phase = self._decode
        self._session.account = self._decode.account

    def _note_time(self) -> None:
        """Charge the phase with the time since the last note or resumption."""
        now = time.perf_counter()
        self._phase.seconds += now - self._resumed
        self._resumed = now
