"""What parts of an answer become in each API, whole and streamed: over scripted jobs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from server_processes import SECONDS, ScriptedJobs, served_application, served_by

from moeflux.server.options import ServerOptions
from moeflux.tokenizer import Tokenizer

QUESTION = [{"role": "user", "content": "Hi"}]
FUNCTION: dict[str, Any] = {"name": "f", "parameters": {"type": "object"}}
CALL = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'
PIECES = ["Hm", ".\n</think>\n\n", "Look", ":\n<tool_", CALL.removeprefix("<tool_"), f"\n{CALL}"]

CHAT: dict[str, Any] = {
    "model": "demo",
    "messages": QUESTION,
    "tools": [{"type": "function", "function": FUNCTION}],
}
MESSAGE: dict[str, Any] = {
    "model": "demo",
    "messages": QUESTION,
    "max_tokens": 50,
    "thinking": {"type": "adaptive"},
    "tools": [{"name": "f", "input_schema": {"type": "object"}}],
}
RESPONSE: dict[str, Any] = {
    "model": "demo",
    "input": "Hi",
    "tools": [{"type": "function", **FUNCTION}],
}


@pytest.fixture(scope="module")
def jobs(tokenizer: Tokenizer) -> ScriptedJobs:
    return ScriptedJobs(tokenizer)


@pytest.fixture(scope="module")
def client(jobs: ScriptedJobs, tokenizer: Tokenizer) -> Iterator[httpx.Client]:
    with (
        served_application(served_by(jobs, tokenizer), ServerOptions()) as address,
        httpx.Client(base_url=address, timeout=SECONDS) as client,
    ):
        yield client


@pytest.fixture(autouse=True)
def script(jobs: ScriptedJobs) -> None:
    jobs.pieces, jobs.finish_reason, jobs.stop_text = list(PIECES), "stop", None


def post(client: httpx.Client, path: str, body: dict[str, Any], **fields: Any) -> Any:
    response = client.post(path, json=body | fields)
    assert response.status_code == 200, response.text
    if not fields.get("stream"):
        return response.json()
    data = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
    return [json.loads(text) for text in data if text != "[DONE]"]


def without_ids(call: dict[str, Any]) -> dict[str, Any]:
    assert call["id"]
    return {key: value for key, value in call.items() if key not in ("id", "index")}


TOOL_CALL = {"type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}


def test_a_chat_completion(client: httpx.Client) -> None:
    answer = post(client, "/v1/chat/completions", CHAT)
    (choice,) = answer["choices"]
    message = choice["message"]
    assert message["reasoning_content"] == "Hm."
    assert message["content"] == "Look:"
    assert [without_ids(call) for call in message["tool_calls"]] == [TOOL_CALL, TOOL_CALL]
    assert choice["finish_reason"] == "tool_calls"
    assert answer["usage"]["completion_tokens"] == len(PIECES)
    assert answer["usage"]["completion_tokens_details"] == {"reasoning_tokens": 2}


def test_a_streamed_chat_completion(client: httpx.Client) -> None:
    chunks = post(client, "/v1/chat/completions", CHAT, stream=True)
    assert {chunk["id"] for chunk in chunks} == {chunks[0]["id"]}
    assert all(chunk["object"] == "chat.completion.chunk" for chunk in chunks)
    assert "usage" not in chunks[-1]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "Hm."
    assert "".join(delta.get("content", "") for delta in deltas) == "Look:"
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert [call["index"] for call in calls] == [0, 1]
    assert [without_ids(call) for call in calls] == [TOOL_CALL, TOOL_CALL]
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert [reason for reason in reasons if reason] == ["tool_calls"]


@pytest.mark.parametrize("n_pieces", [1, len(PIECES)])
def test_one_call_ends_an_answer_that_may_have_one(
    client: httpx.Client, jobs: ScriptedJobs, n_pieces: int
) -> None:
    jobs.pieces = PIECES if n_pieces > 1 else ["".join(PIECES)]
    answer = post(client, "/v1/chat/completions", CHAT, parallel_tool_calls=False)
    (choice,) = answer["choices"]
    assert len(choice["message"]["tool_calls"]) == 1
    assert choice["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("fields", [{"tools": None}, {"tool_choice": "none"}])
def test_without_tools_a_call_is_text(client: httpx.Client, fields: dict[str, Any]) -> None:
    answer = post(client, "/v1/chat/completions", CHAT, **fields)
    message = answer["choices"][0]["message"]
    assert message["content"] == f"Look:\n{CALL}\n{CALL}"
    assert "tool_calls" not in message
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_half_a_call_is_text(client: httpx.Client, jobs: ScriptedJobs) -> None:
    jobs.pieces, jobs.finish_reason = ["</think>", CALL[:-20]], "length"
    (choice,) = post(client, "/v1/chat/completions", CHAT)["choices"]
    assert choice["message"]["content"] == CALL[:-20]
    assert choice["finish_reason"] == "length"


def test_a_message_of_anthropics(client: httpx.Client) -> None:
    message = post(client, "/v1/messages", MESSAGE)
    thinking, text, *calls = message["content"]
    assert thinking == {"type": "thinking", "thinking": "Hm.", "signature": ""}
    assert text == {"type": "text", "text": "Look:"}
    used = {"type": "tool_use", "name": "f", "input": {"x": 1}}
    assert [without_ids(call) for call in calls] == [used, used]
    assert message["stop_reason"] == "tool_use"
    assert message["stop_sequence"] is None


def test_a_streamed_message_of_anthropics(client: httpx.Client) -> None:
    events = post(client, "/v1/messages", MESSAGE, stream=True)
    kinds = [event["type"] for event in events]
    block = ["content_block_start", "content_block_delta", "content_block_stop"]
    assert kinds[:2] == ["message_start", "ping"]
    assert kinds[-2:] == ["message_delta", "message_stop"]
    starts = [event for event in events if event["type"] == "content_block_start"]
    assert [event["index"] for event in starts] == [0, 1, 2, 3]
    assert [event["content_block"]["type"] for event in starts] == [
        "thinking",
        "text",
        "tool_use",
        "tool_use",
    ]
    assert starts[2]["content_block"]["input"] == {}
    assert kinds[kinds.index("message_delta") - 3 : -2] == block
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    arguments = [delta["partial_json"] for delta in deltas if "partial_json" in delta]
    assert list(map(json.loads, arguments)) == [{"x": 1}, {"x": 1}]
    assert events[-2]["usage"]["output_tokens"] == len(PIECES)


def test_a_stop_sequence_is_named(client: httpx.Client, jobs: ScriptedJobs) -> None:
    jobs.pieces, jobs.stop_text = ["</think>", "text"], "END"
    message = post(client, "/v1/messages", MESSAGE, stop_sequences=["END"])
    assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", "END")


def test_restored_tokens_are_not_among_anthropics_input(client: httpx.Client) -> None:
    usage = post(client, "/v1/messages", MESSAGE)["usage"]
    counted = post(
        client, "/v1/messages/count_tokens", {k: v for k, v in MESSAGE.items() if k != "max_tokens"}
    )
    assert usage["cache_read_input_tokens"] == 2
    assert usage["input_tokens"] == counted["input_tokens"] - 2


def test_a_response(client: httpx.Client) -> None:
    response = post(client, "/v1/responses", RESPONSE)
    reasoning, message, *calls = response["output"]
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "Hm."}]
    assert message["content"][0]["text"] == "Look:"
    assert [(call["name"], call["arguments"]) for call in calls] == [("f", '{"x": 1}')] * 2
    assert response["status"] == "completed"
    assert response["usage"]["output_tokens_details"] == {"reasoning_tokens": 2}


def test_a_streamed_response(client: httpx.Client) -> None:
    events = post(client, "/v1/responses", RESPONSE, stream=True)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    final = events[-1]["response"]
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert final["output"] == done
    assert [item["type"] for item in done] == ["reasoning", "message", *["function_call"] * 2]
    added = [event for event in events if event["type"] == "response.output_item.added"]
    assert [event["output_index"] for event in added] == [0, 1, 2, 3]
    assert [event["item"]["id"] for event in added] == [item["id"] for item in done]


def test_a_response_that_was_cut_says_so(client: httpx.Client, jobs: ScriptedJobs) -> None:
    jobs.finish_reason = "length"
    response = post(client, "/v1/responses", RESPONSE)
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}


def test_a_raw_completion_is_left_as_it_is(client: httpx.Client) -> None:
    answer = post(client, "/v1/completions", {"model": "demo", "prompt": "Hi"})
    assert answer["choices"][0]["text"] == "".join(PIECES)


def test_usage_comes_last_where_it_is_asked_for(client: httpx.Client) -> None:
    wanted = {"stream": True, "stream_options": {"include_usage": True}}
    for path, body in (
        ("/v1/chat/completions", CHAT),
        ("/v1/completions", {"model": "demo", "prompt": "Hi"}),
    ):
        *chunks, last = post(client, path, body, **wanted)
        assert last["choices"] == []
        assert last["usage"]["completion_tokens"] == len(PIECES)
        assert all(chunk["usage"] is None for chunk in chunks)


def test_the_request_says_how_tokens_are_drawn(client: httpx.Client, jobs: ScriptedJobs) -> None:
    fields = {
        "temperature": 0.25,
        "top_p": 0.0,
        "top_k": -1,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "presence_penalty": -0.5,
        "frequency_penalty": 0.5,
        "seed": -1,
        "logit_bias": {"5": -100},
    }
    post(client, "/v1/chat/completions", CHAT, **fields)
    assert jobs.requests[-1].sampling == {
        **fields,
        "top_p": 1e-6,
        "top_k": 0,
        "seed": 2**64 - 1,
        "logit_bias": {5: -100.0},
    }


def test_the_checkpoint_says_the_rest(client: httpx.Client, jobs: ScriptedJobs) -> None:
    post(client, "/v1/chat/completions", CHAT)
    assert jobs.requests[-1].sampling == {"temperature": 0.5}
    post(client, "/v1/chat/completions", CHAT, temperature=0)
    assert jobs.requests[-1].sampling == {"temperature": 0.0}


@pytest.mark.parametrize(
    ("fields", "n_tokens"),
    [({"max_tokens": 7}, 7), ({"max_completion_tokens": 7}, 7), ({"max_tokens": 10**6}, None)],
)
def test_answers_are_as_long_as_asked_and_as_there_is_room(
    client: httpx.Client, jobs: ScriptedJobs, fields: dict[str, int], n_tokens: int | None
) -> None:
    post(client, "/v1/chat/completions", CHAT, **fields)
    request = jobs.requests[-1]
    assert request.max_tokens == (n_tokens or 4096 - len(request.prompt_ids))


@pytest.mark.parametrize("effort", ["none", "low"])
def test_no_effort_is_no_reasoning(
    client: httpx.Client, jobs: ScriptedJobs, effort: str, tokenizer: Tokenizer
) -> None:
    post(client, "/v1/chat/completions", CHAT, reasoning_effort=effort)
    closing = tokenizer.control_tokens["</think>"]
    assert (closing in jobs.requests[-1].prompt_ids) == (effort == "none")
