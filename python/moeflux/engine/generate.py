"""Text generation: prompt in, events out. Joins session, sampler, detokeniser and stop strings."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass

from moeflux.engine.account import Account
from moeflux.engine.choice import TokenChoice
from moeflux.engine.events import Event, FinishReason, PrefillProgress
from moeflux.engine.prefixes.store import PrefixStore
from moeflux.engine.prompt import PromptRun
from moeflux.engine.receipt import GenerationStats, phase_stats, predictor_stats
from moeflux.engine.request import Request
from moeflux.engine.routes import RouteRecorder
from moeflux.engine.runtime import Runtime
from moeflux.engine.session import Session
from moeflux.engine.stop import StopMatcher
from moeflux.experts.timeline import Timeline
from moeflux.memory import peak_memory
from moeflux.tokenizer import Tokenizer


@dataclass(frozen=True)
class Watchers:
    """Who else is told of a generation's steps."""

    timeline: Timeline | None = None
    """Gets their spans."""
    routes: RouteRecorder | None = None
    """Gets the experts that they route to."""

    def account(self) -> Account:
        """One that tells them."""
        return Account(self.timeline, self.routes)


@dataclass
class _Phase:
    """Prefill or decode of a generation while it goes on."""

    account: Account
    n_tokens: int = 0
    seconds: float = 0.0


class Generation(Iterator[Event]):
    """One run of the decode loop over a session: an iterator of events.

    `advance` does the same in units of work, so that several can share a thread. `stats` says at
    any time what it has cost so far, also after an interrupt or an error.
    """

    def __init__(
        self,
        session: Session,
        runtime: Runtime,
        tokenizer: Tokenizer,
        request: Request,
        prefixes: PrefixStore | None = None,
        watchers: Watchers | None = None,
    ) -> None:
        """`prefixes`: where beginnings of prompts are stored, for a session that is empty."""
        self._session = session
        self._runtime = runtime
        self._tokenizer = tokenizer
        self._request = request
        self._prompt = PromptRun(
            session, request.prompt_ids, prefixes, request.limits.eos_token_ids
        )
        watchers = watchers or Watchers()
        self._prefill = _Phase(watchers.account())
        self._decode = _Phase(watchers.account())
        self._phase = self._prefill
        self._n_generated = 0
        self._resumed = 0.0
        self._units = self._run()

    def __next__(self) -> Event:
        while (unit := self.advance()) is not None:
            if isinstance(unit, Event):
                return unit
        raise StopIteration

    def advance(self) -> Event | PrefillProgress | None:
        """Do one unit of work: a prefill chunk, or a decode step with its sampling.

        None once it has ended. Raises what Session.prefill, Session.decode and Sampler.sample
        raise, and has ended then.
        """
        self._resumed = time.perf_counter()
        self._session.account = self._phase.account
        try:
            return next(self._units, None)
        finally:
            self._note_time()
            self._session.account = None

    def close(self) -> None:
        """End it here; the session can be used further."""
        self._units.close()

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
            cached_tokens=self._prompt.n_cached,
            generated_tokens=self._n_generated,
            prefill=prefill,
            decode=decode,
            peak_memory_nbytes=peak_memory(),
            memory_cap_nbytes=runtime.memory_cap,
            vram_cap_nbytes=runtime.vram_cap,
            lossy=runtime.lossy,
            n_slots=experts.n_slots,
            n_records=experts.settings.n_records,
            n_experts=experts.n_experts,
            weight_nbytes_per_token=runtime.weight_nbytes_per_token,
            predictors=predictor_stats(spent) if spent is not None else (),
            governor=tuple(self._prefill.account.decisions + self._decode.account.decisions),
        )

    def _run(self) -> Generator[Event | PrefillProgress, None, None]:
        """Prefill the prompt, then sample and decode until a limit.

        The last sampled token is not decoded.
        """
        request, limits = self._request, self._request.limits
        # What a grammar asks for is to the byte.
        detokenizer = self._tokenizer.detokenizer(exact=request.constraint is not None)
        stop = StopMatcher(limits.stop)
        yield from self._prefill_prompt()
        logits = self._session.logits
        self._begin_decode()
        choice = TokenChoice(request)
        room = self._session.context_size - self._session.position + 1
        max_tokens = min(limits.max_tokens, room)
        while True:
            token_id = choice.choose(logits)
            self._n_generated += 1
            logprobs = choice.logprobs(logits, token_id)
            text, stopped = ("", False) if choice.is_eos else stop.feed(detokenizer.add(token_id))
            if choice.ended or stopped or self._n_generated == max_tokens:
                break
            yield Event(text, token_id, logprobs=logprobs)
            logits = self._session.decode(token_id)
            self._decode.n_tokens += 1
        if not stopped:
            rest, stopped = stop.feed(detokenizer.finish())
            text += rest if stopped else rest + stop.finish()
        self._runtime.settle_guesses(self._decode.account)
        self._note_time()
        reason: FinishReason = "stop" if choice.ended or stopped else "length"
        yield Event(text, token_id, reason, self.stats, logprobs, stop.matched)

    def _prefill_prompt(self) -> Iterator[PrefillProgress]:
        for progress in self._prompt.units():
            self._prefill.n_tokens = self._prompt.n_computed
            yield progress

    def _begin_decode(self) -> None:
        self._note_time()
        self._phase = self._decode
        self._session.account = self._decode.account

    def _note_time(self) -> None:
        """Charge the phase with the time since the last note or resumption."""
        now = time.perf_counter()
        self._phase.seconds += now - self._resumed
        self._resumed = now
