"""A request to /v1/responses: its fields, and what they mean for an answer."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from moeflux.server.answer_format import ANY_OBJECT, FREE, AnswerFormat
from moeflux.server.errors import refused
from moeflux.server.openai.chat_request import MAX_MESSAGES, CalledFunction, template_call
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
from moeflux.server.tool_fields import MAX_TOOLS, FunctionFields, ToolName, ToolOffer

_TEXT_PARTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text")


class ItemPart(ApiFields):
    """Only parts with text can be read."""

    type: Name
    text: Text | None = None
    refusal: Text | None = None


Parts = Text | Annotated[list[ItemPart], Field(max_length=4096)]


class InputItem(ApiFields):
    """A message, a call of a tool, its result, or reasoning; by its type."""

    type: Name = "message"
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: Parts | None = None
    summary: Annotated[list[ItemPart], Field(max_length=4096)] | None = None
    name: Name | None = None
    arguments: Text | None = None
    call_id: Name | None = None
    output: Parts | None = None


class ResponseTool(FunctionFields):
    """A function on offer; tools that OpenAI's own servers run are not."""

    type: Literal["function"]


class ChosenTool(ApiFields):
    """The choice of one tool."""

    type: Literal["function"]
    name: ToolName


class TextFormat(ApiFields):
    """The form of the answer."""

    type: Literal["text", "json_object", "json_schema", "regex"]
    name: Name | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    pattern: Pattern | None = None


class TextOptions(ApiFields):
    """How the text of the answer is to be."""

    format: TextFormat | None = None


class ReasoningOptions(ApiFields):
    """How much the answer is thought about."""

    effort: Name | None = None


class ResponsesRequest(SamplingFields, StopFields, TemplateFields):
    """The body of a request. Nothing is stored, so that earlier turns come in `input`."""

    model_config = example(input="What does sorted do?", max_output_tokens=50)

    model: Name
    input: Text | Annotated[list[InputItem], Field(min_length=1, max_length=MAX_MESSAGES)]
    instructions: Text | None = None
    max_output_tokens: TokenCount | None = None
    stream: bool = False
    tools: Annotated[list[ResponseTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    include: Annotated[list[Name], Field(max_length=64)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    metadata: dict[str, Any] | None = None
    background: Literal[False] | None = None
    previous_response_id: None = None
    conversation: None = None
    prompt: None = None

    @property
    def offer(self) -> ToolOffer:
        """The tools. Raises ApiError (400)."""
        parallel = self.parallel_tool_calls is not False
        functions = self.tools or ()
        if isinstance(self.tool_choice, ChosenTool):
            return ToolOffer(functions, "named", self.tool_choice.name, parallel).checked()
        return ToolOffer(functions, self.tool_choice or "auto", None, parallel).checked()

    @property
    def format(self) -> AnswerFormat:
        """The form of the answer. Raises ApiError (400)."""
        found = None if self.text is None else self.text.format
        if found is None or found.type == "text":
            return FREE
        if found.type == "json_object":
            return ANY_OBJECT
        if found.type == "json_schema":
            if found.schema_ is None:
                raise refused("text.format.schema", "type json_schema needs a schema")
            return AnswerFormat("json_schema", found.schema_)
        if found.pattern is None:
            raise refused("text.format.pattern", "type regex needs a pattern")
        return AnswerFormat("regex", pattern=found.pattern)

    @property
    def n_logprobs(self) -> int | None:
        """How many of the likeliest tokens are told of; None for no logarithms."""
        wanted = "message.output_text.logprobs" in (self.include or ())
        return (self.top_logprobs or 0) if wanted or self.top_logprobs else None

    def template_variables(self) -> dict[str, Any]:
        """Of the chat template; what chat_template_kwargs says goes first."""
        variables: dict[str, Any] = {}
        effort = None if self.reasoning is None else self.reasoning.effort
        if effort == "none":
            variables["enable_thinking"] = False
        elif effort is not None:
            variables["reasoning_effort"] = effort
        return variables | (self.chat_template_kwargs or {})

    def template_messages(self) -> list[dict[str, Any]]:
        """The messages as chat templates take them. Raises ApiError (400)."""
        found: list[dict[str, Any]] = []
        if self.instructions is not None:
            found.append({"role": "system", "content": self.instructions})
        if isinstance(self.input, str):
            return [*found, {"role": "user", "content": self.input}]
        for n, item in enumerate(self.input):
            _add_item(found, item, f"input.{n}")
        return found


def _add_item(messages: list[dict[str, Any]], item: InputItem, param: str) -> None:
    """Add an item; what one answer had (reasoning, text, calls) becomes one message."""
    if item.type == "message":
        if item.role is None or item.content is None:
            raise refused(param, "a message needs role and content")
        text = _text(item.content, param)
        if item.role == "assistant":
            answer = _open_answer(messages)
            answer["content"] = answer.get("content", "") + text
        else:
            messages.append({"role": item.role, "content": text})
    elif item.type == "reasoning":
        parts = item.content if isinstance(item.content, list) else item.summary
        answer = _open_answer(messages)
        answer["reasoning_content"] = answer.get("reasoning_content", "") + _text(
            parts or "", param
        )
    elif item.type == "function_call":
        if item.name is None or item.arguments is None:
            raise refused(param, "a function_call needs name and arguments")
        function = CalledFunction(name=item.name, arguments=item.arguments)
        _open_answer(messages).setdefault("tool_calls", []).append(template_call(function, param))
    elif item.type == "function_call_output":
        if item.output is None:
            raise refused(param, "a function_call_output needs output")
        result = _text(item.output, param)
        messages.append({"role": "tool", "tool_call_id": item.call_id or "", "content": result})
    else:
        raise refused(param, f"items of type {item.type!r} are not supported")


def _open_answer(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """The assistant's message that the items before belong to, or a new one."""
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant"})
    return messages[-1]


def _text(parts: str | list[ItemPart], param: str) -> str:
    return parts if isinstance(parts, str) else "".join(_part(part, param) for part in parts)


def _part(part: ItemPart, param: str) -> str:
    text = part.refusal if part.type == "refusal" else part.text
    if text is None or part.type not in (*_TEXT_PARTS, "refusal"):
        raise refused(param, f"parts of type {part.type!r} are not supported: only text is")
    return text
