"""The official OpenAI client, unmodified, against `moeflux serve demo`."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from openai import OpenAI
from server_processes import SECONDS, ServerProcess

QUESTION: Any = [{"role": "user", "content": "What does sorted do?"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 20},
                "unit": {"enum": ["C", "F"]},
            },
            "required": ["city", "unit"],
        },
    },
}
SCHEMA: Any = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "count": {"type": "integer", "minimum": 1, "maximum": 9},
        "kind": {"enum": ["a", "b"]},
    },
    "required": ["name", "count", "kind"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def client(demo: ServerProcess) -> OpenAI:
    return OpenAI(base_url=f"{demo.url}/v1", api_key="unused", max_retries=0, timeout=SECONDS)


def test_models_are_listed(client: OpenAI) -> None:
    (model,) = client.models.list().data
    assert model.id == "demo"
    assert client.models.retrieve("demo") == model


def test_an_answer_has_text_reasoning_and_usage(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="demo", messages=QUESTION, max_tokens=60, seed=1, temperature=0
    )
    (choice,) = answer.choices
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert "<think>" not in choice.message.content
    assert choice.message.reasoning_content  # type: ignore[attr-defined]
    usage = answer.usage
    assert usage is not None
    assert usage.completion_tokens_details is not None
    assert 0 < (usage.completion_tokens_details.reasoning_tokens or 0) < usage.completion_tokens
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_a_stream_gives_what_a_whole_answer_does(client: OpenAI) -> None:
    arguments: Any = {"model": "demo", "messages": QUESTION, "max_tokens": 60, "seed": 7}
    whole = client.chat.completions.create(**arguments)
    chunks = list(
        client.chat.completions.create(
            **arguments, stream=True, stream_options={"include_usage": True}
        )
    )
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason


def test_a_prompt_that_comes_again_is_restored(client: OpenAI) -> None:
    system: Any = {"role": "system", "content": "You sort lists of files by name. " * 20}

    def restored() -> int:
        found = client.chat.completions.create(
            model="demo", messages=[system, *QUESTION], max_tokens=4
        )
        assert found.usage is not None
        assert found.usage.prompt_tokens_details is not None
        return found.usage.prompt_tokens_details.cached_tokens or 0

    restored()
    assert restored() >= 64


def test_the_same_seed_gives_the_same_answer(client: OpenAI) -> None:
    def answer(seed: int) -> str | None:
        found = client.chat.completions.create(
            model="demo", messages=QUESTION, max_tokens=40, seed=seed, temperature=1.5
        )
        return found.choices[0].message.content

    assert answer(3) == answer(3)
    assert len({answer(seed) for seed in range(4)}) > 1


def test_a_required_call_fits_its_schema(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="demo", messages=QUESTION, tools=[WEATHER], tool_choice="required", max_tokens=200
    )
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls
    for call in choice.message.tool_calls:
        assert call.type == "function"
        assert call.function.name == "get_weather"
        arguments = json.loads(call.function.arguments)
        assert set(arguments) == {"city", "unit"}
        assert arguments["unit"] in ("C", "F")


def test_a_conversation_goes_on_with_the_result_of_a_streamed_call(client: OpenAI) -> None:
    messages = [*QUESTION]
    named: Any = {"type": "function", "function": {"name": "get_weather"}}
    stream = client.chat.completions.create(
        model="demo",
        messages=messages,
        tools=[WEATHER],
        tool_choice=named,
        parallel_tool_calls=False,
        max_tokens=200,
        stream=True,
    )
    calls = [
        call
        for chunk in stream
        if chunk.choices
        for call in chunk.choices[0].delta.tool_calls or []
    ]
    (call,) = calls
    assert call.function is not None
    assert json.loads(call.function.arguments or "")
    function = {"name": call.function.name, "arguments": call.function.arguments}
    messages += [
        {
            "role": "assistant",
            "tool_calls": [{"id": call.id, "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": call.id, "content": "4 degrees"},
    ]
    answer = client.chat.completions.create(
        model="demo", messages=messages, tools=[WEATHER], max_tokens=40, seed=2
    )
    assert answer.choices[0].finish_reason in ("stop", "length", "tool_calls")


@pytest.mark.parametrize("thinking", [True, False])
def test_json_fits_the_schema(client: OpenAI, thinking: bool) -> None:
    answer = client.chat.completions.create(
        model="demo",
        messages=QUESTION,
        response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}},
        max_tokens=400,
        temperature=0,
        extra_body={"chat_template_kwargs": {"enable_thinking": thinking}},
    )
    found = json.loads(answer.choices[0].message.content or "")
    assert set(found) == {"name", "count", "kind"}
    assert found["count"] in range(1, 10)
    assert found["kind"] in ("a", "b")
    assert hasattr(answer.choices[0].message, "reasoning_content") == thinking


def test_json_objects_are_objects(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="demo",
        messages=QUESTION,
        response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}},
        tools=[WEATHER],
        max_tokens=200,
    )
    message = answer.choices[0].message
    assert message.tool_calls or isinstance(json.loads(message.content or ""), dict)


def test_a_pattern_is_matched(client: OpenAI) -> None:
    pattern: Any = {"type": "regex", "pattern": "[0-9]{3}-[a-f]{2}"}
    answer = client.chat.completions.create(
        model="demo", messages=QUESTION, extra_body={"response_format": pattern}, max_tokens=30
    )
    text = answer.choices[0].message.content or ""
    assert len(text) == 6
    assert text[:3].isdigit()


def test_a_schema_that_cannot_be_enforced_is_refused(client: OpenAI) -> None:
    schema = {"type": "strange"}
    with pytest.raises(openai.BadRequestError, match="strange"):
        client.chat.completions.create(
            model="demo",
            messages=QUESTION,
            response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema}},
        )


@pytest.mark.parametrize(
    "form",
    [
        {"type": "regex", "pattern": "(a{1000}){1000}{1000}"},
        {"type": "regex", "pattern": "(a|bc)*" * 1000},
        {"type": "regex", "pattern": "(?=a)"},
        {"type": "json_schema", "json_schema": {"schema": {"enum": ["a" * 100] * 2000}}},
    ],
)
def test_a_form_that_is_too_much_is_refused(client: OpenAI, form: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model="demo", messages=QUESTION, extra_body={"response_format": form}
        )
    assert (caught.value.param or "").startswith("response_format")


def test_logarithms_come_with_the_tokens(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="demo",
        messages=QUESTION,
        max_tokens=8,
        logprobs=True,
        top_logprobs=3,
        temperature=0,
        extra_body={"chat_template_kwargs": {"enable_thinking": False}},
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert len(logprobs.content) == 8
    for token in logprobs.content:
        assert len(token.top_logprobs) == 3
        assert token.logprob == token.top_logprobs[0].logprob <= 0


def test_stop_ends_before_the_text(client: OpenAI) -> None:
    whole = client.completions.create(model="demo", prompt="def f(", max_tokens=40, temperature=0)
    text = whole.choices[0].text
    stop = text[10:14]
    cut = client.completions.create(
        model="demo", prompt="def f(", max_tokens=40, temperature=0, stop=stop
    )
    assert cut.choices[0].text == text[: text.index(stop)]
    assert cut.choices[0].finish_reason == "stop"


def test_a_response_has_text_and_usage(client: OpenAI) -> None:
    response = client.responses.create(
        model="demo",
        input="What does sorted do?",
        instructions="Be brief.",
        max_output_tokens=40,
        reasoning={"effort": "none"},
    )
    assert response.status in ("completed", "incomplete")
    assert response.output_text
    assert response.usage is not None
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens


def test_a_streamed_response_is_put_together(client: OpenAI) -> None:
    with client.responses.stream(
        model="demo", input="What does sorted do?", max_output_tokens=300, temperature=0
    ) as stream:
        events = list(stream)
        final = stream.get_final_response()
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert final.output_text == text
    assert [event.sequence_number for event in events] == sorted(
        event.sequence_number for event in events
    )


def test_a_response_calls_a_tool_and_goes_on(client: OpenAI) -> None:
    tool: Any = {"type": "function", **WEATHER["function"], "strict": True}
    question: Any = {"role": "user", "content": "Weather in Oslo?"}
    response = client.responses.create(
        model="demo",
        input=[question],
        tools=[tool],
        tool_choice={"type": "function", "name": "get_weather"},
        parallel_tool_calls=False,
        max_output_tokens=200,
    )
    (call,) = response.output
    assert call.type == "function_call"
    assert set(json.loads(call.arguments)) == {"city", "unit"}
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "4 degrees"}
    after = client.responses.create(
        model="demo", input=[question, call, result], tools=[tool], max_output_tokens=30
    )
    assert after.output


def test_a_response_of_a_schema(client: OpenAI) -> None:
    response = client.responses.create(
        model="demo",
        input="Any.",
        text={"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}},
        max_output_tokens=200,
    )
    assert set(json.loads(response.output_text)) == {"name", "count", "kind"}


def test_an_unknown_model_is_not_found(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="this server has 'demo'"):
        client.chat.completions.create(model="gpt-4", messages=QUESTION)


def test_a_prompt_beyond_the_context_is_refused(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="demo", prompt="word " * 5000)
    assert caught.value.code == "context_length_exceeded"
