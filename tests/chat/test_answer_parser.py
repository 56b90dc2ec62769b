"""An answer's parts, whatever pieces its text comes in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moeflux.chat import AnswerParser, AnswerStyle, Content, Part, Reasoning, ToolCall
from moeflux.chat.parts import joined

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer"},
                "exact": {"type": "boolean"},
                "factor": {"type": "number"},
                "places": {"type": "array", "items": {"type": "string"}},
            },
        },
    },
}
BARE = {"name": "now", "parameters": {"type": "object", "properties": {}}}
TOOLS = [WEATHER, BARE]
JSON, XML = AnswerStyle(reasoning=True, calls="json"), AnswerStyle(reasoning=True, calls="xml")

FRAGMENTS = [
    *("<think>", "</think>", "<tool_call>", "</tool_call>", "<", "</", "<tool", "_call>", "think>"),
    *("\n", " ", "\n\n", "text", "é", "{", "}", '"', "\\", "</parameter>", "</function>"),
    '{"name": "weather", "arguments": {"city": "Oslo"}}',
    '{"name": "now", "arguments": {}}',
    '{"name": "weather", "arguments": {"city": "</tool_call>"}}',
    "<function=weather>\n<parameter=city>\nOslo\n</parameter>\n</function>",
    "<function=now></function>",
    "<parameter=days>",
    "<function=weather>",
    "3",
]
ANSWERS = st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join)


def parts_of(
    pieces: Sequence[str],
    style: AnswerStyle = JSON,
    *,
    reasoning: bool = False,
    tools: Sequence[dict[str, Any]] = TOOLS,
) -> list[Part]:
    parser = AnswerParser(style, starts_in_reasoning=reasoning, tools=tools)
    parts = [part for piece in pieces for part in parser.feed(piece)]
    return joined(parts + parser.finish())


@pytest.mark.parametrize("style", [JSON, XML, AnswerStyle(), AnswerStyle(calls="json")])
@pytest.mark.parametrize("reasoning", [False, True])
@settings(deadline=None)
@given(text=ANSWERS, data=st.data())
def test_parts_do_not_depend_on_the_pieces(
    style: AnswerStyle, reasoning: bool, text: str, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole = parts_of([text], style, reasoning=reasoning)
    assert parts_of(pieces, style, reasoning=reasoning) == whole
    assert parts_of(list(text), style, reasoning=reasoning) == whole


TWO_JSON_CALLS = (
    "Let me look.\n\n"
    '<tool_call>\n{"name": "weather", "arguments": {"city": "</tool_call>"}}\n</tool_call>'
    '\n<tool_call>\n{"name": "now"}\n</tool_call>'
)
AN_XML_CALL = (
    "<tool_call>\n<function=weather>\n<parameter=city>\nA </parameter> b\n</parameter>\n"
    "<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>"
)


@pytest.mark.parametrize("style", [JSON, XML])
@pytest.mark.parametrize("text", [TWO_JSON_CALLS, AN_XML_CALL])
def test_every_pair_of_cuts_gives_the_same_parts(style: AnswerStyle, text: str) -> None:
    text = f"<think>\nhm\n</think>\n\n{text}"
    whole = parts_of([text], style)
    for first in range(len(text)):
        for second in range(first, len(text)):
            assert parts_of([text[:first], text[first:second], text[second:]], style) == whole


@pytest.mark.parametrize("style", [JSON, XML])
@settings(deadline=None)
@given(text=ANSWERS)
def test_arguments_are_always_a_json_object(style: AnswerStyle, text: str) -> None:
    for part in parts_of([text], style):
        if isinstance(part, ToolCall):
            assert isinstance(json.loads(part.arguments), dict)
            assert part.name in ("weather", "now")


@settings(deadline=None)
@given(text=ANSWERS)
def test_without_tags_to_look_for_text_comes_as_it_is(text: str) -> None:
    parts = parts_of(list(text), AnswerStyle())
    assert parts == ([Content(text)] if text else [])


@pytest.mark.parametrize("style", [JSON, XML])
@settings(deadline=None)
@given(text=ANSWERS)
def test_without_calls_no_character_but_blanks_and_reasoning_tags_is_lost(
    style: AnswerStyle, text: str
) -> None:
    parts = parts_of([text], style)
    if any(isinstance(part, ToolCall) for part in parts):
        return
    shown = "".join("".join(part.text.split()) for part in parts if not isinstance(part, ToolCall))
    wanted = "".join(text.split())
    if (parts and isinstance(parts[0], Reasoning)) or wanted.startswith("<think>"):
        wanted = wanted.removeprefix("<think>").replace("</think>", "", 1)
    assert shown == wanted


def test_reasoning_is_separated_and_its_blank_frame_dropped() -> None:
    text = "<think>\nIt is\n\nplain.\n</think>\n\nYes."
    assert parts_of([text]) == [Reasoning("It is\n\nplain."), Content("Yes.")]


def test_reasoning_may_begin_in_the_prompt() -> None:
    parts = parts_of(["Plain.\n</think>\n\nYes."], reasoning=True)
    assert parts == [Reasoning("Plain."), Content("Yes.")]


def test_reasoning_that_never_ends_is_reasoning() -> None:
    assert parts_of(["Plain, </thin"], reasoning=True) == [Reasoning("Plain, </thin")]


def test_empty_reasoning_is_no_part() -> None:
    assert parts_of(["<think>\n\n</think>\n\nYes."]) == [Content("Yes.")]


def test_a_reasoning_tag_within_the_answer_is_content() -> None:
    assert parts_of(["Write <think> first."]) == [Content("Write <think> first.")]


def test_a_style_without_reasoning_has_none() -> None:
    text = "<think>a</think>b"
    assert parts_of([text], AnswerStyle()) == [Content(text)]


def test_text_before_a_call_is_content() -> None:
    text = 'I look.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
    assert parts_of([text]) == [Content("I look."), ToolCall("weather", '{"city": "Oslo"}')]


def test_several_calls_come_one_by_one() -> None:
    call = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    assert parts_of([f"{call}\n{call}"]) == [ToolCall("now", "{}"), ToolCall("now", "{}")]


def test_a_call_comes_as_soon_as_its_tag_is_closed() -> None:
    parser = AnswerParser(JSON, starts_in_reasoning=False, tools=TOOLS)
    assert parser.feed('<tool_call>{"name": "now"}</tool_call') == []
    assert parser.feed(">") == [ToolCall("now", "{}")]


def test_content_is_not_held_back_longer_than_it_can_be_a_tag() -> None:
    parser = AnswerParser(JSON, starts_in_reasoning=False, tools=TOOLS)
    assert parser.feed("a <tool") == [Content("a")]
    assert parser.feed("box") == [Content(" <toolbox")]


@pytest.mark.parametrize(
    "call",
    [
        '{"name": "weather", "arguments": {"city": "Os',
        '{"name": "weather", "arguments": {"city": "Oslo"}}',
        '{"name": "weather", "arguments": {"city": "Oslo"}}</tool_cal',
    ],
)
def test_half_a_call_at_the_end_is_content(call: str) -> None:
    assert parts_of([f"So:\n<tool_call>{call}"]) == [Content(f"So:\n<tool_call>{call}")]


@pytest.mark.parametrize(
    "call",
    [
        "weather(Oslo)",
        '{"name": "weather", "arguments": {"days": NaN}}',
        '{"name": "weather", "arguments": {"factor": 1e999}}',
        '{"name": "weather", "arguments": [1]}',
        '{"name": "weather", "arguments": {"city": "Oslo"}} and more',
        '{"name": "unknown", "arguments": {}}',
        '{"name": ["weather"]}',
        '"weather"',
        '{"name": "weather", "arguments": ' + '{"a":' * 5000,
        '{"name": "weather", "arguments": {"days": ' + "9" * 5000 + "}}",
    ],
)
def test_what_is_no_call_of_a_tool_on_offer_is_content(call: str) -> None:
    text = f"<tool_call>{call}</tool_call>"
    assert parts_of([text]) == [Content(text)]


def test_a_malformed_call_does_not_hide_the_next() -> None:
    text = '<tool_call>{"name": "a</tool_call>\n<tool_call>{"name": "now"}</tool_call>'
    assert parts_of([text]) == [
        Content('<tool_call>{"name": "a</tool_call>'),
        ToolCall("now", "{}"),
    ]


def test_line_breaks_in_json_strings_become_escapes() -> None:
    text = '<tool_call>{"name": "weather", "arguments": {"city": "a\nb"}}</tool_call>'
    assert parts_of([text]) == [ToolCall("weather", '{"city": "a\\nb"}')]


def test_lone_surrogates_stay_escapes() -> None:
    text = '<tool_call>{"name": "weather", "arguments": {"city": "\\ud800"}}</tool_call>'
    assert parts_of([text]) == [ToolCall("weather", '{"city": "\\ud800"}')]


def test_without_tools_nothing_is_a_call() -> None:
    text = '<tool_call>{"name": "now"}</tool_call>'
    assert parts_of([text], tools=[]) == [Content(text)]


def xml_arguments(*parameters: tuple[str, str]) -> dict[str, Any]:
    inner = "".join(f"<parameter={name}>\n{text}\n</parameter>\n" for name, text in parameters)
    text = f"<tool_call>\n<function=weather>\n{inner}</function>\n</tool_call>"
    (call,) = parts_of([text], XML)
    assert isinstance(call, ToolCall)
    assert call.name == "weather"
    arguments: dict[str, Any] = json.loads(call.arguments)
    return arguments


def test_xml_parameters_get_the_types_of_the_schema() -> None:
    given_text = [
        ("city", "007"),
        ("days", "3"),
        ("exact", "True"),
        ("factor", "2.5"),
        ("places", '["a", "b"]'),
    ]
    assert xml_arguments(*given_text) == {
        "city": "007",
        "days": 3,
        "exact": True,
        "factor": 2.5,
        "places": ["a", "b"],
    }


def test_xml_values_of_other_types_stay_text() -> None:
    given_text = [("days", "three"), ("places", "[1"), ("factor", "NaN"), ("exact", "1")]
    assert xml_arguments(*given_text) == dict(given_text)


def test_xml_text_keeps_its_lines_and_tags() -> None:
    text = "\n  a </parameter> b\n</tool_call>\n<b>"
    assert xml_arguments(("city", text)) == {"city": text}


def test_an_xml_call_without_parameters_has_an_empty_object() -> None:
    text = "<tool_call>\n<function=now>\n</function>\n</tool_call>"
    assert parts_of([text], XML) == [ToolCall("now", "{}")]


@pytest.mark.parametrize(
    "call",
    [
        "<function=weather>\n<parameter=city>\nOslo\n</parameter>\n",
        "<function=weather>\n<parameter=city>\nOslo\n</function>\n",
        "<function=weather\n",
        "<function=weather>Oslo</function>",
        "<function=now></function> and more",
        '{"name": "now"}',
    ],
)
def test_a_malformed_xml_call_is_content(call: str) -> None:
    text = f"<tool_call>\n{call}</tool_call>"
    assert parts_of([text], XML) == [Content(text)]
