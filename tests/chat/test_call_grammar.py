"""Which texts a grammar of tool calls lets a model write."""

from __future__ import annotations

from typing import Any

import pytest

from moeflux.chat import AnswerParser, AnswerStyle, ToolCall
from moeflux.chat.answer_style import CallStyle
from moeflux.chat.call_grammar import call_grammar, json_rule
from moeflux.engine.guidance import Guidance
from moeflux.errors import ConstraintError
from moeflux.tokenizer import Tokenizer

WEATHER = {
    "name": "weather",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "unit": {"type": "string", "enum": ["C", "F"]},
            "days": {"$ref": "#/$defs/Days"},
        },
        "required": ["city"],
        "$defs": {"Days": {"type": "integer", "minimum": 1}},
    },
}
NOW = {"type": "function", "function": {"name": "now"}}
TOOLS: list[Any] = [WEATHER, NOW]

JSON_CALL = (
    '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo", "days": 3}}\n</tool_call>'
)
JSON_NOW = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
XML_CALL = (
    "<tool_call>\n<function=weather>\n<parameter=city>\nOslo </parameter>\n</parameter>\n"
    "<parameter=unit>\nC\n</parameter>\n<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>"
)
XML_NOW = "<tool_call>\n<function=now>\n</function>\n</tool_call>"


def allows(tokenizer: Tokenizer, lark: str, text: str) -> bool:
    """Whether the grammar allows the whole text, and then an end."""
    run = Guidance(tokenizer).grammar(lark).start()
    for token_id in tokenizer.encode(text, allow_special=True):
        if run.ended or not run.allowed(tokenizer.vocab_size)[token_id]:
            return False
        run.accept(token_id)
    may_end = run.allowed(tokenizer.vocab_size)[list(tokenizer.eos_token_ids)].any()
    return run.ended or bool(may_end)


@pytest.mark.parametrize(
    ("style", "text"),
    [("json", JSON_CALL), ("json", JSON_NOW), ("xml", XML_CALL), ("xml", XML_NOW)],
)
def test_a_call_that_the_grammar_allows_is_read_back(
    demo_tokenizer: Tokenizer, style: CallStyle, text: str
) -> None:
    lark = call_grammar(style, TOOLS, demo_tokenizer, parallel=False)
    assert allows(demo_tokenizer, lark, text)
    parser = AnswerParser(AnswerStyle(calls=style), starts_in_reasoning=False, tools=TOOLS)
    (call,) = parser.feed(text)
    assert isinstance(call, ToolCall)


@pytest.mark.parametrize(
    ("style", "text"),
    [
        ("json", "Oslo"),
        ("json", JSON_CALL.replace("weather", "other")),
        ("json", JSON_CALL.replace("3", "0")),
        ("json", JSON_CALL.replace("city", "town")),
        ("json", JSON_CALL.replace('"city": "Oslo", ', "")),
        ("json", JSON_CALL.replace('"days": 3', '"rain": 3')),
        ("json", f"{JSON_NOW}\n{JSON_NOW}"),
        ("xml", "Oslo"),
        ("xml", XML_CALL.replace("weather", "other")),
        ("xml", XML_CALL.replace("\nC\n", "\nK\n")),
        ("xml", XML_CALL.replace("\n3\n", "\nthree\n")),
        ("xml", XML_CALL.replace("city", "town")),
        ("xml", f"{XML_NOW}\n{XML_NOW}"),
    ],
)
def test_what_is_no_call_is_not_allowed(
    demo_tokenizer: Tokenizer, style: CallStyle, text: str
) -> None:
    lark = call_grammar(style, TOOLS, demo_tokenizer, parallel=False)
    assert not allows(demo_tokenizer, lark, text)


@pytest.mark.parametrize(("style", "text"), [("json", JSON_NOW), ("xml", XML_NOW)])
def test_parallel_calls_follow_each_other(
    demo_tokenizer: Tokenizer, style: CallStyle, text: str
) -> None:
    lark = call_grammar(style, TOOLS, demo_tokenizer, parallel=True)
    assert allows(demo_tokenizer, lark, f"{text}\n{text}\n{text}")


@pytest.mark.parametrize("text", [JSON_NOW, '{"a": 1}'])
def test_an_answer_of_a_form_or_a_call(demo_tokenizer: Tokenizer, text: str) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    lark = call_grammar("json", TOOLS, demo_tokenizer, parallel=True, answer=json_rule(schema))
    assert allows(demo_tokenizer, lark, text)
    assert not allows(demo_tokenizer, lark, '{"a": "b"}')


def test_a_schema_that_cannot_be_enforced_is_an_error(demo_tokenizer: Tokenizer) -> None:
    bad = {"name": "bad", "parameters": {"properties": {"a": {"type": "strange"}}}}
    lark = call_grammar("json", [bad], demo_tokenizer, parallel=False)
    with pytest.raises(ConstraintError, match="strange"):
        Guidance(demo_tokenizer).grammar(lark)


def test_text_that_ends_a_rule_of_the_grammar_stays_text(demo_tokenizer: Tokenizer) -> None:
    name = 'a"\n/%json{}'
    tool = {"name": "f", "parameters": {"properties": {name: {"enum": [name]}}}}
    lark = call_grammar("json", [tool], demo_tokenizer, parallel=False)
    assert allows(demo_tokenizer, lark, '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>')


LENIENT = {"lenient": True, "whitespace_flexible": True}


@pytest.mark.parametrize("style", ["json", "xml"])
def test_a_schema_cannot_switch_its_own_enforcement_off(
    demo_tokenizer: Tokenizer, style: CallStyle
) -> None:
    strange = {"x-guidance": LENIENT, "type": ["string", "null"], "format": "strange"}
    parameters = {"x-guidance": LENIENT, "properties": {"a": strange}}
    tool = {"name": "f", "parameters": parameters}
    guidance = Guidance(demo_tokenizer)
    with pytest.raises(ConstraintError, match="strange"):
        guidance.grammar(call_grammar(style, [tool], demo_tokenizer, parallel=False))
    with pytest.raises(ConstraintError, match="strange"):
        guidance.grammar(f"start: {json_rule(strange)}")


def test_a_choice_of_one_schema_is_enforced(demo_tokenizer: Tokenizer) -> None:
    choices = [{"type": "integer"}, {"type": "object", "properties": {"a": {"type": "null"}}}]
    lark = f"start: {json_rule({'oneOf': choices})}"
    assert allows(demo_tokenizer, lark, "12")
    assert allows(demo_tokenizer, lark, '{"a": null}')
    assert not allows(demo_tokenizer, lark, '"a"')
