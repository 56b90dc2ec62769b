"""Text generation: prompt in, events out. Joins session, sampler, detokeniser and stop strings."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

from moeflux.engine.runtime import Runtime
from moeflux.engine.sampler import Sampler, TokenHistory
from moeflux.engine.session import Session
from moeflux.engine.stop import StopMatcher
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
class GenerationStats:
    """What one generation cost.

    Times in seconds; the first generated token's logits come from the prefill.
    """

    prompt_tokens: int
    generated_tokens: int
    prefill_seconds: float
    decode_seconds: float
    bytes_read: int
    expert_hits: int
    expert_misses: int
    read_wait_seconds: float
    peak_memory_nbytes: int

    @property
    def prefill_tokens_per_second(self) -> float:
        return self.prompt_tokens / self.prefill_seconds if self.prefill_seconds > 0 else 0.0

    @property
    def decode_tokens_per_second(self) -> float:
        steps = self.generated_tokens - 1
        return steps / self.decode_seconds if steps > 0 and self.decode_seconds > 0 else 0.0


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


@dataclass
class Generation:
    """One run of the decode loop over a session."""

    session: Session
    runtime: Runtime
    tokenizer: Tokenizer
    sampler: Sampler
    limits: Limits

    def run(self, prompt_ids: Sequence[int]) -> Iterator[Event]:
        """Prefill the prompt, then sample and decode until a limit.

        The last sampled token is not decoded.
        """
        detokenizer, stop = self.tokenizer.detokenizer(), StopMatcher(self.limits.stop)
        counters = self.runtime.experts.counters
        before, started = counters.snapshot(), time.perf_counter()
        logits = self.session.prefill(prompt_ids)
        prefilled = time.perf_counter()
        history = TokenHistory(prompt_ids)
        room = self.session.context_size - self.session.position + 1
        max_tokens = min(self.limits.max_tokens, room)
        n_generated = 0
        while True:
            token_id = self.sampler.sample(logits, history)
            history.append(token_id)
            n_generated += 1
            ended = token_id in self.limits.eos_token_ids
            text, stopped = ("", False) if ended else stop.feed(detokenizer.add(token_id))
            if ended or stopped or n_generated == max_tokens:
                break
            yield Event(text, token_id)
            logits = self.session.decode(token_id)
        if not stopped:
            rest, stopped = stop.feed(detokenizer.finish())
            text += rest if stopped else rest + stop.finish()
        spent = counters.since(before)
        stats = GenerationStats(
            prompt_tokens=len(prompt_ids),
            generated_tokens=n_generated,
            prefill_seconds=prefilled - started,
            decode_seconds=time.perf_counter() - prefilled,
            bytes_read=spent.bytes_read,
            expert_hits=spent.n_ready,
            expert_misses=spent.n_late + spent.n_missed,
            read_wait_seconds=sum(spent.stall_seconds),
            peak_memory_nbytes=peak_memory(),
        )
        yield Event(text, token_id, "stop" if ended or stopped else "length", stats)
