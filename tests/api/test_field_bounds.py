"""Numbers out of range, in every integer field of the OpenAPI document, are refused or taken."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from server_processes import SECONDS, ScriptedJobs, served_application, served_by

from moeflux.server.options import ServerOptions
from moeflux.tokenizer import Tokenizer

QUESTION = [{"role": "user", "content": "Hi"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "demo", "messages": QUESTION, "logprobs": True},
    "/v1/completions": {"model": "demo", "prompt": "Hi"},
    "/v1/responses": {"model": "demo", "input": "Hi"},
    "/v1/messages": {"model": "demo", "messages": QUESTION, "max_tokens": 5},
    "/v1/messages/count_tokens": {"model": "demo", "messages": QUESTION},
    "/tokenize": {"prompt": "Hi"},
    "/detokenize": {"tokens": [5]},
}
NUMBERS = (-1, 0, -(2**31), 2**31, -(2**63), 2**63, 2**64, 10**30, 10**400, 1.5, -0.0, 1e300, True)


@pytest.fixture(scope="module")
def client(tokenizer: Tokenizer) -> Iterator[httpx.Client]:
    served = served_by(ScriptedJobs(tokenizer), tokenizer)
    with (
        served_application(served, ServerOptions()) as address,
        httpx.Client(base_url=address, timeout=SECONDS) as client,
    ):
        yield client


def numeric_fields(document: dict[str, Any], path: str) -> list[str]:
    """Names of a request's fields that may be numbers or hold some."""
    content = document["paths"][path]["post"]["requestBody"]["content"]
    reference = content["application/json"]["schema"]["$ref"]
    schema = document["components"]["schemas"][reference.rpartition("/")[2]]
    return [
        name
        for name, field in schema["properties"].items()
        if '"integer"' in str(field).replace("'", '"') or '"number"' in str(field).replace("'", '"')
    ]


@pytest.mark.parametrize("path", BODIES)
def test_any_number_in_any_field_is_answered_or_refused(client: httpx.Client, path: str) -> None:
    fields = numeric_fields(client.get("/openapi.json").json(), path)
    for name in fields:
        for number in NUMBERS:
            for value in (number, [number], {"0": number}, {str(number): 1}):
                response = client.post(path, json=BODIES[path] | {name: value})
                assert response.status_code in (200, 400), (name, value, response.text)
                if response.status_code == 400:
                    assert response.json()["error"]["message"]


def test_the_document_names_the_fields_that_have_numbers(client: httpx.Client) -> None:
    fields = numeric_fields(client.get("/openapi.json").json(), "/v1/chat/completions")
    wanted = {"max_tokens", "n", "seed", "top_k", "top_logprobs", "temperature", "logit_bias"}
    assert wanted <= set(fields)


@pytest.mark.parametrize(
    ("path", "field", "value"),
    [
        ("/v1/chat/completions", "max_tokens", -1),
        ("/v1/chat/completions", "max_tokens", 0),
        ("/v1/chat/completions", "n", 2),
        ("/v1/chat/completions", "top_logprobs", 21),
        ("/v1/chat/completions", "temperature", -0.1),
        ("/v1/chat/completions", "top_p", 1.1),
        ("/v1/chat/completions", "presence_penalty", 2.1),
        ("/v1/chat/completions", "seed", 2**64),
        ("/v1/chat/completions", "logit_bias", {"5": 101}),
        ("/v1/chat/completions", "logit_bias", {"-5": 1}),
        ("/v1/chat/completions", "functions", [{"name": "f"}]),
        ("/v1/chat/completions", "messages", []),
        ("/v1/chat/completions", "stop", ""),
        ("/v1/completions", "best_of", 2),
        ("/v1/completions", "echo", True),
        ("/v1/completions", "suffix", "x"),
        ("/v1/completions", "prompt", ["a", "b"]),
        ("/v1/completions", "prompt", [2**31]),
        ("/v1/responses", "max_output_tokens", 0),
        ("/v1/responses", "previous_response_id", "resp_1"),
        ("/v1/responses", "background", True),
        ("/v1/responses", "conversation", "conv_1"),
        ("/v1/responses", "tools", [{"type": "web_search"}]),
        ("/v1/messages", "max_tokens", 0),
        ("/v1/messages", "tools", [{"type": "bash_20250124", "name": "bash"}]),
        ("/detokenize", "tokens", [-1]),
    ],
)
def test_what_cannot_be_served_is_refused_by_its_name(
    client: httpx.Client, path: str, field: str, value: Any
) -> None:
    response = client.post(path, json=BODIES[path] | {field: value})
    assert response.status_code == 400
    assert field in response.json()["error"]["message"]


@pytest.mark.parametrize("content", [[{"type": "image_url", "image_url": {"url": "data:"}}], None])
def test_content_that_cannot_be_read_is_refused_by_its_place(
    client: httpx.Client, content: Any
) -> None:
    messages = [*QUESTION, {"role": "user", "content": content}]
    response = client.post("/v1/chat/completions", json={"model": "demo", "messages": messages})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "messages.1.content"


@pytest.mark.parametrize("arguments", ['{"a": "\\ud800"}', '{"a": NaN}', "[1]", '{"a": ' * 2000])
def test_arguments_of_an_earlier_call_that_are_no_object_are_refused(
    client: httpx.Client, arguments: str
) -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": arguments}}
    messages = [*QUESTION, {"role": "assistant", "tool_calls": [call]}]
    response = client.post("/v1/chat/completions", json={"model": "demo", "messages": messages})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "messages.1.tool_calls"


@pytest.mark.parametrize(
    "parameters",
    [
        {"properties": 5},
        {"properties": [1]},
        {"required": 5},
        {"$defs": [1]},
        {"properties": {"a": {"type": "string", "enum": 5}}},
    ],
)
def test_a_tool_whose_schema_is_none_is_refused(
    client: httpx.Client, parameters: dict[str, Any]
) -> None:
    function = {"name": "f", "parameters": parameters}
    chat = BODIES["/v1/chat/completions"] | {"tools": [{"type": "function", "function": function}]}
    response = client.post("/v1/chat/completions", json=chat)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "tools.0.function.parameters"


def test_a_token_beyond_the_vocabulary_is_refused(client: httpx.Client) -> None:
    for body in ({"prompt": [100_000]}, {"prompt": "Hi", "logit_bias": {"100000": 1}}):
        response = client.post("/v1/completions", json={"model": "demo", **body})
        assert response.status_code == 400
        assert "100000" in response.json()["error"]["message"]


def test_fields_that_are_not_known_are_left_aside(client: httpx.Client) -> None:
    for path, body in BODIES.items():
        response = client.post(path, json=body | {"user": "me", "store": True, "x": [{}]})
        assert response.status_code == 200, path
