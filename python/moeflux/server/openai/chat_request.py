"""A request to /v1/chat/completions: its fields, and what they mean for an answer."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from moeflux.server.answer_format import ANY_OBJECT, FREE, AnswerFormat
from moeflux.server.errors import refused
from moeflux.server.request_fields import (
    MAX_TOP_LOGPROBS,
    ApiFields,
    Name,
    Pattern,
    SamplingFields,
    StopFields,
    TemplateFields,
    Text,
    TokenCount,
    example,
)
from moeflux.server.strict_json import parse_text
from moeflux.server.tool_fields import MAX_TOOLS, FunctionFields, ToolName, ToolOffer

MAX_MESSAGES = 16384


class ContentPart(ApiFields):
    """Only parts with text can be read."""

    type: Name
    text: Text | None = None
    refusal: Text | None = None


class CalledFunction(ApiFields):
    """What an earlier answer called."""

    name: Name
    arguments: Text


class ToolCallFields(ApiFields):
    """One call of an earlier answer."""

    id: Name | None = None
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(ApiFields):
    """One message of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | Annotated[list[ContentPart], Field(max_length=4096)] | None = None
    name: Name | None = None
    reasoning_content: Text | None = None
    tool_calls: Annotated[list[ToolCallFields], Field(max_length=4096)] | None = None
    tool_call_id: Name | None = None


class ToolFields(ApiFields):
    """A tool on offer."""

    type: Literal["function"]
    function: FunctionFields


class NamedFunction(ApiFields):
    """The name in a choice of tool."""

    name: ToolName


class NamedTool(ApiFields):
    """The choice of one tool."""

    type: Literal["function"]
    function: NamedFunction


class SchemaFields(ApiFields):
    """A JSON schema with its name."""

    name: Name | None = None
    schema_: dict[str, Any] = Field(alias="schema")


class ResponseFormat(ApiFields):
    """OpenAI's forms of an answer, and "regex" with a pattern."""

    type: Literal["text", "json_object", "json_schema", "regex"]
    json_schema: SchemaFields | None = None
    pattern: Pattern | None = None

    def meant(self, param: str = "response_format") -> AnswerFormat:
        """Raises ApiError (400) where the form lacks its schema or pattern."""
        if self.type == "json_object":
            return ANY_OBJECT
        if self.type == "json_schema":
            if self.json_schema is None:
                raise refused(f"{param}.json_schema", "type json_schema needs a schema")
            return AnswerFormat("json_schema", self.json_schema.schema_)
        if self.type == "regex":
            if self.pattern is None:
                raise refused(f"{param}.pattern", "type regex needs a pattern")
            return AnswerFormat("regex", pattern=self.pattern)
        return FREE


class StreamOptions(ApiFields):
    """What a stream tells besides its text."""

    include_usage: bool = False


class ChatRequest(SamplingFields, StopFields, TemplateFields):
    """The body of a request."""

    model_config = example(
        messages=[{"role": "user", "content": "What does sorted do?"}], max_tokens=50
    )

    model: Name
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_tokens: TokenCount | None = None
    max_completion_tokens: TokenCount | None = None
    n: Annotated[int, Field(ge=1, le=1)] | None = None
    """Only one answer at a time."""
    stream: bool = False
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    tools: Annotated[list[ToolFields], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: Name | None = None
    """ "none" asks the template for an answer without reasoning; others are passed on to it."""
    modalities: list[Literal["text"]] | None = None
    functions: None = None
    function_call: None = None
    audio: None = None
    web_search_options: None = None

    @property
    def offer(self) -> ToolOffer:
        """The tools. Raises ApiError (400)."""
        functions = [tool.function for tool in self.tools or ()]
        parallel = self.parallel_tool_calls is not False
        if isinstance(self.tool_choice, NamedTool):
            named = self.tool_choice.function.name
            return ToolOffer(functions, "named", named, parallel).checked()
        return ToolOffer(functions, self.tool_choice or "auto", None, parallel).checked()

    @property
    def format(self) -> AnswerFormat:
        """The form of the answer. Raises ApiError (400)."""
        return FREE if self.response_format is None else self.response_format.meant()

    @property
    def n_logprobs(self) -> int | None:
        """How many of the likeliest tokens are told of; None for no logarithms."""
        if self.logprobs:
            return self.top_logprobs or 0
        if self.top_logprobs is not None:
            raise refused("top_logprobs", "needs logprobs to be true")
        return None

    def template_variables(self) -> dict[str, Any]:
        """Of the chat template; what chat_template_kwargs says goes first."""
        variables: dict[str, Any] = {}
        if self.reasoning_effort == "none":
            variables["enable_thinking"] = False
        elif self.reasoning_effort is not None:
            variables["reasoning_effort"] = self.reasoning_effort
        return variables | (self.chat_template_kwargs or {})

    def template_messages(self) -> list[dict[str, Any]]:
        """The messages as chat templates take them. Raises ApiError (400) for images and sound."""
        return [as_template(message, n) for n, message in enumerate(self.messages)]


def as_template(message: ChatMessage, index: int) -> dict[str, Any]:
    """A message as chat templates take it. Raises ApiError (400)."""
    found: dict[str, Any] = {"role": message.role}
    for name in ("name", "reasoning_content", "tool_call_id"):
        if (value := getattr(message, name)) is not None:
            found[name] = value
    if message.content is not None:
        found["content"] = _text(message.content, f"messages.{index}.content")
    elif message.role != "assistant":
        raise refused(f"messages.{index}.content", f"a {message.role} message needs content")
    if message.tool_calls:
        found["tool_calls"] = [
            template_call(call.function, f"messages.{index}.tool_calls")
            for call in message.tool_calls
        ]
    return found


def _text(content: str | list[ContentPart], param: str) -> str:
    return content if isinstance(content, str) else "".join(_part(part, param) for part in content)


def _part(part: ContentPart, param: str) -> str:
    text = part.text if part.type == "text" else part.refusal if part.type == "refusal" else None
    if text is None:
        raise refused(param, f"parts of type {part.type!r} are not supported: only text is")
    return text


def template_call(function: CalledFunction, param: str) -> dict[str, Any]:
    """A call as chat templates take it: arguments are an object. Raises ApiError (400)."""
    wanted = f"arguments of {function.name!r} must be a JSON object"
    try:
        arguments = parse_text(function.arguments or "{}")
    except ValueError as error:
        raise refused(param, f"{wanted}: {error}") from error
    if not isinstance(arguments, dict):
        raise refused(param, wanted)
    return {"type": "function", "function": {"name": function.name, "arguments": arguments}}
