"""From what a chat request means to the work that answers it, the same for every API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from moeflux.engine.request import SamplingOptions
from moeflux.server.answer_format import FREE, AnswerFormat
from moeflux.server.constraints import answer_constraint
from moeflux.server.errors import refused
from moeflux.server.served_model import ServedModel
from moeflux.server.service import AnswerPlan
from moeflux.server.tool_fields import ToolOffer


@dataclass(frozen=True)
class ChatTask:
    """A conversation to go on with, whatever API it came by."""

    messages: Sequence[Mapping[str, Any]]
    variables: Mapping[str, Any]
    """Of the chat template."""
    offer: ToolOffer
    sampling: SamplingOptions
    answer_format: AnswerFormat = FREE
    max_tokens: int | None = None
    """None: as many as there is room for."""
    stops: Sequence[str] = field(default=())
    logprobs: int | None = None

    @property
    def is_constrained(self) -> bool:
        return self.offer.must_call or self.answer_format.kind != "text"


def plan_chat(served: ServedModel, task: ChatTask) -> AnswerPlan:
    """The work for a task.

    A form or a call that is wanted holds for the answer, not for reasoning before it. So that an
    answer of few tokens has room for it, the template is asked for no reasoning unless the request
    says otherwise; where there is reasoning, it is free until it ends.
    Raises ApiError (400), ChatTemplateError.
    """
    if task.offer.functions and served.style.calls is None:
        raise refused("tools", "the chat template of this model has no tools")
    variables = dict(task.variables)
    if task.is_constrained:
        variables.setdefault("enable_thinking", False)
    prompt = served.prompt(task.messages, task.offer.shown(), variables)
    return AnswerPlan(
        prompt,
        served.max_tokens(task.max_tokens, len(prompt.token_ids)),
        task.sampling,
        task.stops,
        task.logprobs,
        task.offer.callable(),
        one_call=not task.offer.parallel,
        constraint=answer_constraint(served, task.offer, task.answer_format, prompt),
    )
