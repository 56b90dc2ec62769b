"""One request from submission to its end, as whoever submitted it sees it."""

from __future__ import annotations

import traceback
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from moeflux.engine.constraint import Constraint
from moeflux.engine.events import Event, PrefillProgress
from moeflux.engine.model import Model
from moeflux.engine.receipt import GenerationStats
from moeflux.engine.request import Request, SamplingOptions
from moeflux.errors import ContextOverflowError
from moeflux.server.jobs.mailbox import Mailbox

JobState = Literal["queued", "active", "finished", "cancelled", "failed"]


@dataclass(frozen=True)
class GenerationRequest:
    """What to generate after a prompt; the fields mean what they do for `Model.request`."""

    prompt_ids: Sequence[int]
    max_tokens: int = 256
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    stop: Sequence[str] = ()
    logprobs: int | None = None
    constraint: Constraint | None = None

    def checked(self, model: Model) -> Request:
        """What to begin on the model.

        Raises ValueError for what is wrong in itself, ContextOverflowError for a prompt longer than
        a session of the model.
        """
        if not self.prompt_ids:
            raise ValueError("the prompt is empty, at least one token is wanted")
        if len(self.prompt_ids) > model.context_size:
            raise ContextOverflowError(0, len(self.prompt_ids), model.context_size)
        return model.request(
            self.prompt_ids,
            max_tokens=self.max_tokens,
            stop=self.stop,
            logprobs=self.logprobs,
            constraint=self.constraint,
            **self.sampling,
        )


class Job(AsyncIterator[Event | PrefillProgress]):
    """`async for item in job` gives progress and events as they come; one consumer.

    An error of the generation is raised after the items before it. Of a job that was cancelled
    nothing more comes. Whoever stops reading before the end calls cancel(), else it runs on to its
    last token.
    """

    def __init__(self, number: int, request: Request, cancel: Callable[[Job], None]) -> None:
        """`cancel` ends a job within one unit of work."""
        self.number = number
        """Counts the jobs of a scheduler."""
        self.request = request
        self.state: JobState = "queued"
        self.is_cancelled = False
        """Its end has been asked for."""
        self.n_prefilled = 0
        """Tokens of the prompt that are done, stored ones included."""
        self.n_generated = 0
        self.stats: GenerationStats | None = None
        """What it cost, once it has ended; None if it ended in the queue."""
        self._cancel = cancel
        self._mailbox: Mailbox[Event | PrefillProgress] = Mailbox()

    async def __anext__(self) -> Event | PrefillProgress:
        return await self._mailbox.get()

    def cancel(self) -> None:
        """End it: at once in the queue, else within one unit of work.

        From any thread; idempotent; after the end nothing happens.
        """
        self._cancel(self)

    def deliver(self, item: Event | PrefillProgress) -> bool:
        """Note an item and pass it on; False if the consumer's event loop is gone."""
        if isinstance(item, Event):
            self.n_generated += 1
        else:
            self.n_prefilled = item.n_done
        return self._mailbox.put(item)

    def end(
        self, state: JobState, stats: GenerationStats | None, error: BaseException | None = None
    ) -> None:
        """Nothing follows but `error`."""
        self.state, self.stats = state, stats
        self._mailbox.close(error)


def forget_frames(error: BaseException | None) -> None:
    """Drop the locals of an error's frames, which would keep the session's memory as long as it."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
