"""The model as requests see it: its name, its texts, its defaults, and where work is submitted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from moeflux.chat import AnswerStyle, ChatTemplate, starts_in_reasoning
from moeflux.engine.constraint import Constraint
from moeflux.engine.request import SamplingOptions
from moeflux.server.errors import ApiError, context_error, refused
from moeflux.server.jobs.job import GenerationRequest, Job
from moeflux.server.jobs.status import SchedulerStatus
from moeflux.tokenizer import Tokenizer

_RESERVED = frozenset({"messages", "tools", "add_generation_prompt", "template", "self"})
"""What a request says in other fields, and so not as a variable of the template."""


class Jobs(Protocol):
    """Where requests go: the scheduler, or what stands for it."""

    def submit(self, request: GenerationRequest) -> Job: ...
    def status(self) -> SchedulerStatus: ...
    def drain(self, timeout: float | None = None) -> bool: ...
    def close(self) -> None: ...


class Grammars(Protocol):
    """Compiles constraints for the model's tokenizer. Raises ConstraintError."""

    def grammar(self, lark: str) -> Constraint: ...
    def regex(self, pattern: str) -> Constraint: ...


class View(Protocol):
    """What can be seen of a model while it works."""

    def look(self, seen: int | None = None) -> dict[str, Any]:
        """Fields for JSON, from any thread. `seen`: the last picture of the experts that came."""


@dataclass(frozen=True)
class Prompt:
    """A conversation as the model reads it."""

    token_ids: Sequence[int]
    in_reasoning: bool
    """It ends inside reasoning that the answer goes on with."""


@dataclass(frozen=True)
class ServedModel:
    """One loaded model. Everything here may be used from several threads."""

    names: tuple[str, ...]
    """What requests may call it; the first is its own name."""
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    """None if the checkpoint has none: then only raw text can be completed."""
    context_size: int
    defaults: SamplingOptions
    jobs: Jobs
    created: int
    """Seconds since 1970, of loading."""
    grammars: Callable[[], Grammars]
    """Made when they are first asked for."""
    view: View | None = None
    """What the page shows of the model."""

    @property
    def created_at(self) -> str:
        """The same as RFC 3339."""
        return datetime.fromtimestamp(self.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def style(self) -> AnswerStyle:
        return AnswerStyle.of(self.tokenizer)

    def check_name(self, name: str) -> None:
        """Raises ApiError (404) unless `name` is one of the model's."""
        if name not in self.names:
            known = ", ".join(map(repr, self.names))
            raise ApiError(
                404,
                f"there is no model {name[:200]!r}; this server has {known}",
                "model",
                "model_not_found",
            )

    def prompt(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        variables: Mapping[str, Any],
    ) -> Prompt:
        """A conversation that leaves room for an answer. Raises as encode(), and ApiError (400)."""
        token_ids = self.encode(messages, tools, variables)
        self.check_room(token_ids)
        return Prompt(token_ids, starts_in_reasoning(self.tokenizer, token_ids))

    def encode(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        variables: Mapping[str, Any],
    ) -> list[int]:
        """Token ids of messages through the chat template.

        Raises ApiError (400), ChatTemplateError.
        """
        if self.chat_template is None:
            raise refused("messages", "this model has no chat template; use /v1/completions")
        if wrong := _RESERVED & variables.keys():
            raise refused("chat_template_kwargs", f"must not set {', '.join(sorted(wrong))}")
        if self.merges_developer:
            messages = [_without_developer(message) for message in messages]
        try:
            return self.chat_template.encode(messages, tools=tools or None, **variables)
        except RecursionError as error:
            raise refused("messages", "the messages are nested too deep") from error

    @property
    def merges_developer(self) -> bool:
        """The chat template does not know the role developer, so that it is called system."""
        return not any("developer" in text for text in self.tokenizer.chat_templates.values())

    def raw_prompt(self, text: str) -> list[int]:
        """Text to complete; the spelling of a control token in it stays text."""
        token_ids = self.tokenizer.encode(text, add_bos=True)
        if not token_ids:
            raise refused("prompt", "the prompt is empty, at least one token is wanted")
        self.check_room(token_ids)
        return token_ids

    def check_room(self, token_ids: Sequence[int]) -> None:
        """Raises ApiError (400) for a prompt that the context does not hold."""
        if len(token_ids) > self.context_size:
            raise context_error(len(token_ids), self.context_size)

    def max_tokens(self, asked: int | None, n_prompt: int) -> int:
        """Tokens that an answer can have: those asked for, or all that the context has room for."""
        room = max(1, self.context_size - n_prompt)
        return room if asked is None else min(asked, room)


def chat_template_of(tokenizer: Tokenizer) -> ChatTemplate | None:
    """The checkpoint's chat template, None without one. Raises ChatTemplateError for a bad one."""
    return ChatTemplate(tokenizer) if tokenizer.chat_templates else None


def _without_developer(message: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**message, "role": "system"} if message["role"] == "developer" else message
