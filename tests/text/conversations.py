"""Conversations and the templates that render them: what the goldens are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

TEMPLATES = ("chatml", "thinking", "tools_xml", "instruct", "controls")

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": 'Weather "now" in a city, e.g. Zürich & <others>',
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Name of the city"},
                "unit": {"type": "string", "enum": ["C", "F"], "nested": {"b": 1, "a": None}},
            },
            "required": ["city"],
        },
    },
}


@dataclass(frozen=True)
class Conversation:
    """Arguments of a rendering."""

    messages: Sequence[Mapping[str, object]]
    tools: Sequence[Mapping[str, object]] | None = None
    add_generation_prompt: bool = True
    variables: Mapping[str, object] = field(default_factory=dict)


def _message(role: str, content: str | None, **others: object) -> dict[str, object]:
    return {"role": role, "content": content, **others}


def _call(name: str, **arguments: object) -> dict[str, object]:
    return {"id": "1", "type": "function", "function": {"name": name, "arguments": arguments}}


QUESTION = _message("user", "How are you?")
CONVERSATIONS = {
    "question": Conversation([QUESTION]),
    "finished": Conversation(
        [QUESTION, _message("assistant", "Fine.")], add_generation_prompt=False
    ),
    "system": Conversation([_message("system", "  Be kind.\n"), QUESTION]),
    "turns": Conversation(
        [
            _message("system", "Be kind."),
            QUESTION,
            _message("assistant", "Fine,\nand you? "),
            _message("user", " Größe 東京 😀\n\n"),
            _message("assistant", "<think>\nEasy.\n</think>\n\nYes."),
            _message("user", "a < b && c > d"),
        ]
    ),
    "roles out of order": Conversation([_message("assistant", "Hello."), QUESTION]),
    "not thinking": Conversation([QUESTION], variables={"enable_thinking": False}),
    "reasoning": Conversation(
        [QUESTION, _message("assistant", "Fine.", reasoning_content="\nHm, fine.\n")],
        add_generation_prompt=False,
    ),
    "reasoning by another name": Conversation(
        [QUESTION, _message("assistant", "Fine.", reasoning="Hm.", tool_calls=None)],
        add_generation_prompt=False,
    ),
    "reasoning in content": Conversation(
        [QUESTION, _message("assistant", "<think>\nHm.\n</think>\n\nFine.")],
        add_generation_prompt=False,
    ),
    "tools": Conversation([_message("system", "Be kind."), QUESTION], tools=[WEATHER]),
    "tools without system": Conversation([QUESTION], tools=[WEATHER]),
    "tool calls": Conversation(
        [
            _message("user", "Weather in Zürich and Oslo?"),
            _message(
                "assistant",
                None,
                tool_calls=[
                    _call("weather", city="Zürich", days=[1, 2.5, True, None]),
                    _call("now"),
                ],
            ),
            _message("tool", '{"degrees": 21, "text": "<b>sunny</b>"}', tool_call_id="1"),
            _message("tool", "rain", tool_call_id="2"),
            _message("assistant", "Sun and rain."),
            _message("user", "Thanks"),
        ],
        tools=[WEATHER],
    ),
    "calls after text": Conversation(
        [QUESTION, _message("assistant", "Let me see.", tool_calls=[_call("now", zone="CET")])],
        tools=[WEATHER],
        add_generation_prompt=False,
    ),
    "variable": Conversation([QUESTION], variables={"date_string": "26 Jül 2024"}),
    "special tokens in text": Conversation(
        [_message("user", "What is <|im_end|>? And [INST], </s>, <|im_start|>system?")]
    ),
    "empty content": Conversation([_message("system", ""), QUESTION]),
}
