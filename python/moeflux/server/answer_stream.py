"""One answer while it is generated: parts, logarithms, progress, and what it has cost in the end.

Joins a job with the parser of its answer. Knows no API and no HTTP.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from moeflux.chat import AnswerParser, Content, Part, ToolCall
from moeflux.chat.parts import joined
from moeflux.engine.events import Event, PrefillProgress, TokenLogprobs
from moeflux.engine.receipt import GenerationStats
from moeflux.server.jobs.job import Job

Reason = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True)
class TokenScore:
    """A token of the answer with its logarithms."""

    token_id: int
    logprobs: TokenLogprobs


@dataclass(frozen=True)
class Usage:
    """Tokens that were paid for."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True)
class Ending:
    """Why and how an answer ended."""

    reason: Reason
    usage: Usage
    stop_text: str | None = None
    stats: GenerationStats | None = None


@dataclass(frozen=True)
class Delta:
    """What came since the last one. The last of an answer has `ending`."""

    parts: tuple[Part, ...] = ()
    scores: tuple[TokenScore, ...] = ()
    progress: PrefillProgress | None = None
    ending: Ending | None = None


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    parts: tuple[Part, ...]
    scores: tuple[TokenScore, ...]
    ending: Ending


class Meter(Protocol):
    """Times an answer."""

    def work(self) -> None: ...
    def token(self) -> None: ...
    def end(self, ending: Ending | None) -> None: ...


class AnswerStream(AsyncIterator[Delta]):
    """`async for delta in stream` follows a job to its end; then, or before, close() is called."""

    def __init__(
        self, job: Job, parser: AnswerParser | None, meter: Meter, *, one_call: bool = False
    ) -> None:
        """parser: None leaves the text as it is. one_call: end after the first tool call."""
        self._job, self._parser, self._meter = job, parser, meter
        self._one_call = one_call
        self._usage = Usage(prompt_tokens=len(job.request.prompt_ids))
        self._has_calls = False
        self._ended: Ending | None = None
        self._is_closed = False

    def close(self) -> None:
        """Stop generating, within one token. Idempotent."""
        self._job.cancel()
        if not self._is_closed:
            self._is_closed = True
            self._meter.end(self._ended)

    async def __anext__(self) -> Delta:
        if self._ended is not None:
            raise StopAsyncIteration
        try:
            item = await anext(self._job)
        except StopAsyncIteration:
            raise RuntimeError("the job ended without an end of its answer") from None
        delta = self._delta(item)
        self._ended = delta.ending
        return delta

    def _delta(self, item: Event | PrefillProgress) -> Delta:
        if isinstance(item, PrefillProgress):
            self._meter.work()
            self._usage = replace(self._usage, cached_tokens=item.n_cached)
            return Delta(progress=item)
        self._meter.token()
        delta = self._of_event(item)
        if not (self._has_calls and self._one_call):
            return delta
        calls = [n for n, part in enumerate(delta.parts) if isinstance(part, ToolCall)]
        parts = delta.parts[: calls[0] + 1]
        return replace(delta, parts=parts, ending=delta.ending or Ending("tool_calls", self._usage))

    def _of_event(self, event: Event) -> Delta:
        in_reasoning = self._parser is not None and self._parser.in_reasoning
        self._usage = replace(
            self._usage,
            completion_tokens=self._usage.completion_tokens + 1,
            reasoning_tokens=self._usage.reasoning_tokens + in_reasoning,
        )
        parts = self._parsed(event)
        self._has_calls |= any(isinstance(part, ToolCall) for part in parts)
        scores: tuple[TokenScore, ...] = ()
        if event.logprobs is not None and not in_reasoning:
            scores = (TokenScore(event.token_id, event.logprobs),)
        return Delta(tuple(parts), scores, ending=self._ending(event))

    def _parsed(self, event: Event) -> list[Part]:
        if self._parser is None:
            return [Content(event.text)] if event.text else []
        parts = self._parser.feed(event.text)
        if event.finish_reason is not None:
            parts = joined([*parts, *self._parser.finish()])
        return parts

    def _ending(self, event: Event) -> Ending | None:
        if event.finish_reason is None:
            return None
        reason: Reason = event.finish_reason
        if self._has_calls and reason == "stop":
            reason = "tool_calls"
        if event.stats is not None:
            self._usage = replace(self._usage, cached_tokens=event.stats.cached_tokens)
        return Ending(reason, self._usage, event.stop_text, event.stats)


async def whole_answer(stream: AnswerStream) -> Answer:
    """Everything a stream gives, at its end."""
    parts: list[Part] = []
    scores: list[TokenScore] = []
    ending: Ending | None = None
    async for delta in stream:
        parts += delta.parts
        scores += delta.scores
        ending = delta.ending
    assert ending is not None, "a stream ends with the end of its answer"
    return Answer(tuple(joined(parts)), tuple(scores), ending)
