"""Who may ask, how much, and how slowly: over scripted jobs, by a real server."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from server_processes import SECONDS, ScriptedJobs, served_application, served_by

from moeflux.server.options import ServerOptions
from moeflux.tokenizer import Tokenizer

KEY = "a-key-of-some-length"
CHAT: dict[str, Any] = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}]}
MESSAGE: dict[str, Any] = {**CHAT, "max_tokens": 5}


@contextmanager
def client_of(tokenizer: Tokenizer, **options: Any) -> Iterator[httpx.Client]:
    served = served_by(ScriptedJobs(tokenizer), tokenizer)
    with (
        served_application(served, ServerOptions(**options)) as address,
        httpx.Client(base_url=address, timeout=SECONDS) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def open_client(tokenizer: Tokenizer) -> Iterator[httpx.Client]:
    with client_of(tokenizer) as client:
        yield client


@pytest.fixture(scope="module")
def keyed_client(tokenizer: Tokenizer) -> Iterator[httpx.Client]:
    with client_of(tokenizer, api_keys=("another-key", KEY)) as client:
        yield client


@pytest.fixture(scope="module")
def small_client(tokenizer: Tokenizer) -> Iterator[httpx.Client]:
    with client_of(tokenizer, max_body=1000, body_timeout=0.5) as client:
        yield client


@pytest.mark.parametrize(
    "headers",
    [{"authorization": f"Bearer {KEY}"}, {"x-api-key": KEY}, {"x-api-key": "another-key"}],
)
def test_a_key_opens_the_api(keyed_client: httpx.Client, headers: dict[str, str]) -> None:
    assert keyed_client.get("/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": KEY},
        {"authorization": f"Basic {KEY}"},
        {"authorization": f"Bearer {KEY[:-1]}"},
        {"authorization": f"Bearer {KEY}x"},
        {"x-api-key": ""},
        {"x-api-key": "\xff" * 8},
    ],
)
@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/openapi.json", "/nothing"])
def test_without_the_key_nothing_is_told(
    keyed_client: httpx.Client, headers: dict[str, str], path: str
) -> None:
    encoded = {name.encode(): value.encode("latin-1") for name, value in headers.items()}
    response = keyed_client.get(path, headers=encoded)
    assert response.status_code == 401
    assert response.json()["error"]["type"] == "authentication_error"
    assert KEY not in response.text


def test_a_wrong_key_is_told_in_anthropics_shape(keyed_client: httpx.Client) -> None:
    response = keyed_client.post("/v1/messages", json=MESSAGE)
    assert response.status_code == 401
    assert response.json()["type"] == "error"
    assert response.json()["error"]["type"] == "authentication_error"


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready"])
def test_health_needs_no_key(keyed_client: httpx.Client, path: str) -> None:
    assert keyed_client.get(path).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:80", 200),
        ("localhost:1234", 200),
        ("[::1]:80", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
    ],
)
def test_without_keys_only_this_machine_is_a_host(
    open_client: httpx.Client, host: str, status: int
) -> None:
    assert open_client.get("/health", headers={"host": host}).status_code == status


def test_browsers_get_no_leave_unless_asked(open_client: httpx.Client) -> None:
    response = open_client.get("/health", headers={"origin": "https://page.example"})
    assert "access-control-allow-origin" not in response.headers


def test_a_page_that_was_named_may_ask(tokenizer: Tokenizer) -> None:
    with client_of(tokenizer, cors_origins=("https://page.example",)) as client:
        asked = {"origin": "https://page.example", "access-control-request-method": "POST"}
        response = client.options("/v1/chat/completions", headers=asked)
        assert response.headers["access-control-allow-origin"] == "https://page.example"
        response = client.get("/health", headers={"origin": "https://other.example"})
        assert "access-control-allow-origin" not in response.headers


def test_a_body_that_is_too_large_is_refused(small_client: httpx.Client) -> None:
    response = small_client.post("/v1/messages", content=b"x" * 1001)
    assert response.status_code == 413
    assert response.json()["error"]["type"] == "request_too_large"


def test_a_body_of_unknown_size_is_refused_when_it_gets_too_large(
    small_client: httpx.Client,
) -> None:
    pieces = (b"x" * 100 for _ in range(11))
    response = small_client.post("/v1/chat/completions", content=pieces)
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "body_too_large"


def test_bodies_of_all_requests_have_a_limit_together(tokenizer: Tokenizer) -> None:
    with client_of(tokenizer, max_body=1000, max_bodies=1500) as client:
        url = client.base_url
        with socket.create_connection((url.host, url.port or 0), timeout=SECONDS) as connection:
            connection.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
                b"content-type: application/json\r\ncontent-length: 1000\r\n\r\n" + b" " * 900
            )
            path, body = "/v1/chat/completions", b" " * 700
            deadline = time.monotonic() + SECONDS
            while (response := client.post(path, content=body)).status_code != 429:
                assert response.status_code == 400
                assert time.monotonic() < deadline, "the first body was never counted"
        assert response.json()["error"]["code"] == "bodies_too_large"
        assert response.headers["retry-after"] == "1"
        while client.post(path, content=body).status_code != 400:
            assert time.monotonic() < deadline, "the first body is still counted"


def test_a_body_that_never_comes_times_out(small_client: httpx.Client) -> None:
    url = small_client.base_url
    with socket.create_connection((url.host, url.port or 0), timeout=SECONDS) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
            b"content-type: application/json\r\ncontent-length: 100\r\n\r\n{"
        )
        assert b" 408 " in connection.recv(4096)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b'{"model": "\xff"}',
        b"[]",
        b"nothing",
        b'{"model": "demo"',
        b'{"model": "demo", "messages": NaN}',
        b'{"model": "demo", "messages": [], "temperature": 1e999}',
        b'{"model": "\\ud800"}',
        b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"model": "demo", "seed": ' + b"9" * 10_000 + b"}",
        b'{"model": "demo", "messages": [{"role": "user", "content": "\\udc00"}]}',
    ],
)
@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/tokenize",
        "/detokenize",
    ],
)
def test_a_body_that_is_no_request_is_refused(
    open_client: httpx.Client, path: str, body: bytes
) -> None:
    response = open_client.post(path, content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_json_under_another_name_is_refused(open_client: httpx.Client) -> None:
    # A page of another origin may send text without asking for leave.
    response = open_client.post(
        "/v1/chat/completions", content=b'{"model": "demo"}', headers={"content-type": "text/plain"}
    )
    assert response.status_code == 400


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nothing", 404), ("GET", "/v1/messages", 405), ("GET", "/v1/models/other", 404)],
)
def test_unknown_routes_are_errors_in_the_apis_shape(
    open_client: httpx.Client, method: str, path: str, status: int
) -> None:
    response = open_client.request(method, path)
    assert response.status_code == status
    assert response.json()["error"]["message"]


def test_no_page_loads_anything_from_elsewhere(open_client: httpx.Client) -> None:
    for path in ("/docs", "/redoc"):
        assert open_client.get(path).status_code == 404
    assert open_client.get("/openapi.json").status_code == 200
