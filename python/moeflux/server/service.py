"""What every API's routes need: the model, work for it, and an account of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request

from moeflux.chat import AnswerParser
from moeflux.engine.constraint import Constraint
from moeflux.engine.request import SamplingOptions
from moeflux.errors import ContextOverflowError
from moeflux.server.answer_stream import Answer, AnswerStream, whole_answer
from moeflux.server.errors import ApiError
from moeflux.server.jobs.job import GenerationRequest
from moeflux.server.jobs.refusals import DrainingError, QueueFullError
from moeflux.server.metrics import Metrics
from moeflux.server.model_holder import ModelHolder
from moeflux.server.options import ServerOptions
from moeflux.server.served_model import Prompt, ServedModel
from moeflux.server.streaming import until_gone

RETRY_AFTER = 2
"""Seconds after which a client whose request did not fit the queue may try again."""


@dataclass(frozen=True)
class AnswerPlan:
    """Everything that makes an answer, of whatever API."""

    prompt: Prompt
    max_tokens: int
    sampling: SamplingOptions
    stops: Sequence[str] = ()
    logprobs: int | None = None
    tools: Sequence[Mapping[str, Any]] = field(default=())
    """That the answer may call."""
    one_call: bool = False
    constraint: Constraint | None = None
    raw: bool = False
    """The text is what was asked for: nothing in it is reasoning or a call."""


class AnswerService:
    """One server's model and metrics."""

    def __init__(self, holder: ModelHolder, metrics: Metrics, options: ServerOptions) -> None:
        self.holder, self.metrics, self.options = holder, metrics, options

    def model(self, name: str | None = None) -> ServedModel:
        """The model. Raises ApiError: 503 before it is ready, 404 for another name."""
        served = self.holder.model()
        if name is not None:
            served.check_name(name)
        return served

    def start(self, served: ServedModel, plan: AnswerPlan, api: str) -> AnswerStream:
        """Submit the work.

        Raises ApiError: 429 with a full queue, 503 at the end, 400 for what the engine refuses.
        """
        request = GenerationRequest(
            plan.prompt.token_ids,
            max_tokens=plan.max_tokens,
            sampling=plan.sampling,
            stop=plan.stops,
            logprobs=plan.logprobs,
            constraint=plan.constraint,
        )
        try:
            job = served.jobs.submit(request)
        except QueueFullError as error:
            raise ApiError(429, str(error), None, "queue_full", RETRY_AFTER) from error
        except (DrainingError, ContextOverflowError):
            raise
        except ValueError as error:
            raise ApiError(400, str(error)) from error
        parser = None
        if not plan.raw:
            parser = AnswerParser(
                served.style, starts_in_reasoning=plan.prompt.in_reasoning, tools=plan.tools
            )
        return AnswerStream(job, parser, self.metrics.meter(api), one_call=plan.one_call)


async def answer_while_wanted(request: Request, stream: AnswerStream) -> Answer:
    """The whole answer. Raises ClientGoneError when the client leaves before."""
    try:
        return await until_gone(request.receive, whole_answer(stream))
    finally:
        stream.close()
