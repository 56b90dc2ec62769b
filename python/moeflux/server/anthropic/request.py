"""A request to /v1/messages: its fields, and what they mean for an answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from moeflux.server.answer_format import FREE, AnswerFormat
from moeflux.server.errors import refused
from moeflux.server.openai.chat_request import MAX_MESSAGES
from moeflux.server.request_fields import (
    ApiFields,
    Name,
    SamplingFields,
    StopText,
    TemplateFields,
    Text,
    TokenCount,
    example,
)
from moeflux.server.tool_fields import (
    MAX_TOOLS,
    Choice,
    FunctionFields,
    JsonSchema,
    ToolName,
    ToolOffer,
)


class Block(ApiFields):
    """A piece of a message; which fields count depends on its type."""

    type: Name
    text: Text | None = None
    thinking: Text | None = None
    id: Name | None = None
    name: Name | None = None
    input: dict[str, Any] | None = None
    tool_use_id: Name | None = None
    content: Text | Annotated[list[Block], Field(max_length=4096)] | None = None


Content = Text | Annotated[list[Block], Field(max_length=4096)]


class AnthropicMessage(ApiFields):
    """One message of the conversation."""

    role: Literal["user", "assistant"]
    content: Content


class AnthropicTool(ApiFields):
    """A tool on offer; those that Anthropic's own servers run are not."""

    type: Literal["custom"] | None = None
    name: ToolName
    description: Text | None = None
    input_schema: JsonSchema


class AnthropicToolChoice(ApiFields):
    """Which tool an answer calls."""

    type: Literal["auto", "any", "tool", "none"]
    name: ToolName | None = None
    disable_parallel_tool_use: bool = False


class Thinking(ApiFields):
    """Whether the answer may begin with reasoning."""

    type: Name


class OutputFormat(ApiFields):
    """The form of the answer."""

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(ApiFields):
    """How the answer is to be."""

    format: OutputFormat | None = None


_CHOICES: dict[str, Choice] = {
    "auto": "auto",
    "any": "required",
    "tool": "named",
    "none": "none",
}


class ConversationFields(TemplateFields):
    """What a prompt is made of."""

    model: Name
    messages: Annotated[list[AnthropicMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    system: Content | None = None
    tools: Annotated[list[AnthropicTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: AnthropicToolChoice | None = None
    thinking: Thinking | None = None

    @property
    def offer(self) -> ToolOffer:
        """The tools. Raises ApiError (400)."""
        functions = [
            FunctionFields(name=t.name, description=t.description, parameters=t.input_schema)
            for t in self.tools or ()
        ]
        choice = self.tool_choice
        if choice is None:
            return ToolOffer(functions).checked()
        name = choice.name if choice.type == "tool" else None
        parallel = not choice.disable_parallel_tool_use
        return ToolOffer(functions, _CHOICES[choice.type], name, parallel).checked()

    def template_variables(self) -> dict[str, Any]:
        """Of the chat template; without `thinking` there is none, as with Anthropic."""
        enabled = self.thinking is not None and self.thinking.type != "disabled"
        return {"enable_thinking": enabled} | (self.chat_template_kwargs or {})

    def template_messages(self) -> list[dict[str, Any]]:
        """The messages as chat templates take them. Raises ApiError (400)."""
        if self.messages[-1].role == "assistant":
            raise refused("messages", "the last message must be the user's: no answer is prefilled")
        found: list[dict[str, Any]] = []
        if self.system is not None:
            found.append({"role": "system", "content": _text(self.system, "system")})
        for n, message in enumerate(self.messages):
            param = f"messages.{n}.content"
            if message.role == "assistant":
                found.append(_assistant(message.content, param))
            else:
                found += _user(message.content, param)
        return found


class AnthropicRequest(SamplingFields, ConversationFields):
    """The body of a request."""

    model_config = example(
        messages=[{"role": "user", "content": "What does sorted do?"}], max_tokens=50
    )

    max_tokens: TokenCount
    stop_sequences: Annotated[list[StopText], Field(max_length=64)] | None = None
    stream: bool = False
    output_format: OutputFormat | None = None
    output_config: OutputConfig | None = None

    @property
    def format(self) -> AnswerFormat:
        """The form of the answer."""
        nested = self.output_config.format if self.output_config is not None else None
        found = self.output_format or nested
        return FREE if found is None else AnswerFormat("json_schema", found.schema_)


def _user(content: str | list[Block], param: str) -> Iterator[dict[str, Any]]:
    """A message of the user: results of tools as messages of their own, then the text."""
    if isinstance(content, str):
        yield {"role": "user", "content": content}
        return
    for block in content:
        if block.type == "tool_result":
            result = "" if block.content is None else _text(block.content, param)
            yield {"role": "tool", "tool_call_id": block.tool_use_id or "", "content": result}
    texts = [block for block in content if block.type != "tool_result"]
    if texts:
        yield {"role": "user", "content": _text(texts, param)}


def _assistant(content: str | list[Block], param: str) -> dict[str, Any]:
    if isinstance(content, str):
        return {"role": "assistant", "content": content}
    calls, texts, reasoning = [], [], ""
    for block in content:
        if block.type == "tool_use":
            if block.name is None or block.input is None:
                raise refused(param, "a tool_use block needs name and input")
            function = {"name": block.name, "arguments": block.input}
            calls.append({"type": "function", "function": function})
        elif block.type == "thinking":
            reasoning += block.thinking or ""
        elif block.type != "redacted_thinking":
            texts.append(block)
    message: dict[str, Any] = {"role": "assistant", "content": _text(texts, param)}
    if calls:
        message["tool_calls"] = calls
    if reasoning:
        message["reasoning_content"] = reasoning
    return message


def _text(content: str | list[Block], param: str) -> str:
    if isinstance(content, str):
        return content
    for block in content:
        if block.type != "text" or block.text is None:
            raise refused(param, f"blocks of type {block.type!r} are not supported: only text is")
    return "".join(block.text or "" for block in content)
