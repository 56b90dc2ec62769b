"""The official Anthropic client, unmodified, against `moeflux serve demo`."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest
from anthropic import Anthropic
from server_processes import SECONDS, ServerProcess

QUESTION: Any = [{"role": "user", "content": "What does sorted do?"}]
GREEDY = {"temperature": 0}
WEATHER: Any = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}},
        "required": ["city"],
    },
}
SCHEMA: Any = {
    "type": "object",
    "properties": {"count": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["count"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def client(demo: ServerProcess) -> Anthropic:
    return Anthropic(base_url=demo.url, api_key="unused", max_retries=0, timeout=SECONDS)


def n_prompt(message: anthropic.types.Message) -> int:
    """Tokens of the prompt, those included that were restored."""
    return message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0)


def test_models_are_listed(client: Anthropic) -> None:
    (model,) = client.models.list().data
    assert model.id == "demo"
    assert model.created_at.tzinfo is not None


def test_an_answer_has_text_and_usage(client: Anthropic) -> None:
    message = client.messages.create(
        model="demo", max_tokens=40, system="Be brief.", messages=QUESTION
    )
    (block,) = message.content
    assert block.type == "text"
    assert message.stop_reason in ("end_turn", "max_tokens")
    assert message.usage.input_tokens > 0
    assert 0 < message.usage.output_tokens <= 40


def test_thinking_comes_in_a_block_of_its_own(client: Anthropic) -> None:
    message = client.messages.create(
        model="demo",
        max_tokens=80,
        thinking={"type": "enabled", "budget_tokens": 1024},
        messages=QUESTION,
        extra_body=GREEDY,
    )
    assert [block.type for block in message.content] == ["thinking", "text"]


def test_a_stream_is_put_together(client: Anthropic) -> None:
    with client.messages.stream(
        model="demo",
        max_tokens=80,
        thinking={"type": "enabled", "budget_tokens": 1024},
        messages=QUESTION,
        extra_body=GREEDY,
    ) as stream:
        texts = list(stream.text_stream)
        message = stream.get_final_message()
    assert len(texts) > 1
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert "".join(texts) == message.content[-1].text  # type: ignore[union-attr]
    assert message.usage.output_tokens > len(texts)


@pytest.mark.parametrize("streams", [False, True])
def test_a_conversation_goes_on_with_the_result_of_a_call(client: Anthropic, streams: bool) -> None:
    arguments: Any = {
        "model": "demo",
        "max_tokens": 200,
        "tools": [WEATHER],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
    }
    if streams:
        with client.messages.stream(**arguments, messages=QUESTION) as stream:
            message = stream.get_final_message()
    else:
        message = client.messages.create(**arguments, messages=QUESTION)
    assert message.stop_reason == "tool_use"
    (call,) = message.content
    assert call.type == "tool_use"
    assert set(call.input) == {"city"}
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "4 degrees"}
    messages: Any = [
        *QUESTION,
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": [result, {"type": "text", "text": "So?"}]},
    ]
    after = client.messages.create(model="demo", max_tokens=20, tools=[WEATHER], messages=messages)
    assert n_prompt(after) > n_prompt(message)


def test_json_fits_the_schema(client: Anthropic) -> None:
    message = client.messages.create(
        model="demo",
        max_tokens=100,
        messages=QUESTION,
        extra_body={"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
    )
    (block,) = message.content
    assert block.type == "text"
    assert block.text in [f'{{"count": {n}}}' for n in range(1, 10)]


def test_a_stop_sequence_is_named(client: Anthropic) -> None:
    message = client.messages.create(
        model="demo",
        max_tokens=200,
        messages=QUESTION,
        stop_sequences=["e", "a"],
        extra_body=GREEDY,
    )
    assert message.stop_reason == "stop_sequence"
    assert message.stop_sequence in ("e", "a")


def test_tokens_are_counted_as_they_are_charged(client: Anthropic) -> None:
    counted = client.messages.count_tokens(model="demo", messages=QUESTION)
    message = client.messages.create(model="demo", max_tokens=1, messages=QUESTION)
    assert counted.input_tokens == n_prompt(message)


def test_an_unknown_model_is_not_found(client: Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match="this server has 'demo'"):
        client.messages.create(model="claude", max_tokens=1, messages=QUESTION)


def test_images_are_refused(client: Anthropic) -> None:
    source: Any = {"type": "base64", "media_type": "image/png", "data": "aaaa"}
    messages: Any = [{"role": "user", "content": [{"type": "image", "source": source}]}]
    with pytest.raises(anthropic.BadRequestError, match="'image' are not supported"):
        client.messages.create(model="demo", max_tokens=1, messages=messages)
