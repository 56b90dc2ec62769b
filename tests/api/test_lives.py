"""Requests from their beginning to any of their ends: over scripted jobs, by a real server."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from server_processes import SECONDS, ScriptedJobs, application, served_application, served_by

from moeflux.errors import ConstraintError, ReadError
from moeflux.server.jobs.refusals import DrainingError
from moeflux.server.model_holder import ModelHolder
from moeflux.server.options import ServerOptions
from moeflux.server.served_model import ServedModel
from moeflux.tokenizer import Tokenizer

QUESTION = [{"role": "user", "content": "Hi"}]
CHAT: dict[str, Any] = {"model": "demo", "messages": QUESTION}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"model": "demo", "prompt": "Hi"},
    "/v1/responses": {"model": "demo", "input": "Hi"},
    "/v1/messages": {**CHAT, "max_tokens": 5},
}
PATHS = pytest.mark.parametrize("path", BODIES)


@pytest.fixture
def jobs(tokenizer: Tokenizer) -> ScriptedJobs:
    return ScriptedJobs(tokenizer)


@pytest.fixture
def client(jobs: ScriptedJobs, tokenizer: Tokenizer) -> Iterator[httpx.Client]:
    served = served_by(jobs, tokenizer)
    with (
        served_application(served, ServerOptions(send_timeout=0.5)) as address,
        httpx.Client(base_url=address, timeout=SECONDS) as client,
    ):
        yield client


def events(response: httpx.Response) -> list[dict[str, Any]]:
    """The data of a stream's events."""
    lines = response.text.splitlines()
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    return [json.loads(text) for text in data if text != "[DONE]"]


@PATHS
def test_a_full_queue_is_told_with_a_time_to_wait(
    client: httpx.Client, jobs: ScriptedJobs, path: str
) -> None:
    jobs._max_queued = 0
    response = client.post(path, json=BODIES[path])
    assert response.status_code == 429
    assert response.json()["error"]["type"] == "rate_limit_error"
    assert int(response.headers["retry-after"]) > 0


@PATHS
def test_an_error_before_the_end_is_a_500_and_the_server_goes_on(
    client: httpx.Client, jobs: ScriptedJobs, path: str
) -> None:
    jobs.error = ReadError("layer 3 expert 5: read 1 of 2 bytes")
    response = client.post(path, json=BODIES[path])
    assert response.status_code == 500
    assert "layer 3 expert 5" in response.json()["error"]["message"]
    jobs.error = None
    assert client.post(path, json=BODIES[path]).status_code == 200


def test_a_form_that_proves_too_much_on_the_way_is_the_requests_fault(
    client: httpx.Client, jobs: ScriptedJobs
) -> None:
    jobs.error = ConstraintError("grammar: lexer error: too many expressions")
    response = client.post("/v1/chat/completions", json=CHAT)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "response_format"


@PATHS
def test_an_error_in_a_stream_is_its_last_event(
    client: httpx.Client, jobs: ScriptedJobs, path: str
) -> None:
    jobs.error = ReadError("layer 3 expert 5: read 1 of 2 bytes")
    response = client.post(path, json={**BODIES[path], "stream": True})
    assert response.status_code == 200
    assert "layer 3 expert 5" in json.dumps(events(response)[-1])
    assert "[DONE]" not in response.text


@PATHS
@pytest.mark.parametrize("streams", [True, False])
def test_a_request_that_the_end_cuts_off_is_told_so(
    client: httpx.Client, jobs: ScriptedJobs, path: str, streams: bool
) -> None:
    jobs.error = DrainingError("the server has stopped")
    response = client.post(path, json={**BODIES[path], "stream": streams})
    assert response.status_code == (200 if streams else 503)
    told = events(response)[-1] if streams else response.json()
    assert "the server has stopped" in json.dumps(told)
    kinds = {"service_unavailable_error", "overloaded_error", "draining"}
    assert kinds & {told.get("code"), *told.get("error", {}).values()}


@PATHS
def test_an_error_of_ours_tells_clients_nothing_of_the_program(
    client: httpx.Client, jobs: ScriptedJobs, path: str
) -> None:
    jobs.error = KeyError("secret")
    response = client.post(path, json=BODIES[path])
    assert response.status_code == 500
    assert "secret" not in response.text


@PATHS
@pytest.mark.parametrize("streams", [False, True])
def test_a_client_that_leaves_cancels_its_job(
    client: httpx.Client, jobs: ScriptedJobs, path: str, streams: bool
) -> None:
    jobs._hold = True
    body = json.dumps({**BODIES[path], "stream": streams}).encode()
    url = client.base_url
    with socket.create_connection((url.host, url.port or 0), timeout=SECONDS) as connection:
        connection.sendall(request_text(path, body))
        if streams and path != "/v1/completions":
            assert b"200 OK" in connection.recv(4096)
        else:
            wait_until_queued(client)
        assert not jobs.cancelled.is_set()
    assert jobs.cancelled.wait(SECONDS)


def request_text(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n"
    return head.encode() + b"content-type: application/json\r\n\r\n" + body


def wait_until_queued(client: httpx.Client) -> None:
    for _ in range(1000):
        if client.get("/health").json()["n_queued"]:
            return
        threading.Event().wait(0.01)
    raise AssertionError("no request was queued")


def test_a_client_that_does_not_read_is_given_up(client: httpx.Client, jobs: ScriptedJobs) -> None:
    jobs.pieces = ["x" * 1000] * 20_000
    body = json.dumps({**CHAT, "stream": True}).encode()
    url = client.base_url
    with socket.create_connection((url.host, url.port or 0), timeout=SECONDS) as connection:
        connection.sendall(request_text("/v1/chat/completions", body))
        for _ in range(1000):
            text = client.get("/metrics").text
            if 'moeflux_answers_total{api="chat",reason="unfinished"} 1.0' in text:
                return
            threading.Event().wait(0.02)
    raise AssertionError("the request was not given up")


@PATHS
def test_progress_and_receipt_are_fields_of_their_own(client: httpx.Client, path: str) -> None:
    response = client.post(path, json={**BODIES[path], "stream": True})
    found = [event["moeflux"] for event in events(response) if "moeflux" in event]
    n_tokens = found[0]["prefill"]["n_tokens"]
    assert found[0] == {"prefill": {"n_done": n_tokens, "n_cached": 2, "n_tokens": n_tokens}}
    if path == "/v1/responses":
        found.append(events(response)[-1]["response"]["moeflux"])
    assert "receipt" in found[-1]


@PATHS
def test_restored_tokens_are_told(client: httpx.Client, path: str) -> None:
    usage = client.post(path, json=BODIES[path]).json()["usage"]
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
    restored = details["cached_tokens"] if details else usage["cache_read_input_tokens"]
    assert restored == 2


@pytest.fixture
def held() -> threading.Event:
    """Set to let loading end."""
    return threading.Event()


@pytest.fixture
def loading(tokenizer: Tokenizer, held: threading.Event) -> Iterator[httpx.Client]:
    """A server whose model is not there yet."""

    def load() -> ServedModel:
        assert held.wait(SECONDS)
        return served_by(ScriptedJobs(tokenizer), tokenizer)

    holder = ModelHolder(load, lambda: None)
    try:
        with (
            application(holder, ServerOptions()) as address,
            httpx.Client(base_url=address, timeout=SECONDS) as client,
        ):
            yield client
            held.set()
    finally:
        held.set()


def test_while_loading_the_process_is_live_but_not_ready(
    loading: httpx.Client, held: threading.Event
) -> None:
    assert loading.get("/health/live").status_code == 200
    assert loading.get("/metrics").status_code == 200
    for path in ("/health", "/health/ready"):
        response = loading.get(path)
        assert response.status_code == 503
        assert response.json()["status"] == "loading"
    held.set()
    for _ in range(1000):
        if loading.get("/health").status_code == 200:
            return
        threading.Event().wait(0.01)
    raise AssertionError("the model was never ready")


@PATHS
def test_while_loading_requests_are_told_to_come_back(loading: httpx.Client, path: str) -> None:
    response = loading.post(path, json=BODIES[path])
    assert response.status_code == 503
    assert "being loaded" in response.json()["error"]["message"]
    assert int(response.headers["retry-after"]) > 0


@PATHS
def test_while_draining_requests_are_refused(
    jobs: ScriptedJobs, tokenizer: Tokenizer, path: str
) -> None:
    served = served_by(jobs, tokenizer)
    holder = ModelHolder(lambda: served, lambda: None)
    with application(holder, ServerOptions()) as address:
        holder.stop_taking()
        response = httpx.post(f"{address}{path}", json=BODIES[path], timeout=SECONDS)
        assert response.status_code == 503
        assert "shutting down" in response.json()["error"]["message"]
    assert jobs.drained == [ServerOptions().drain_timeout]


def test_a_server_whose_jobs_have_ended_for_good_is_not_ready(
    jobs: ScriptedJobs, tokenizer: Tokenizer
) -> None:
    with served_application(served_by(jobs, tokenizer), ServerOptions()) as address:
        assert httpx.get(f"{address}/health/ready", timeout=SECONDS).status_code == 200
        jobs.drain()
        response = httpx.get(f"{address}/health/ready", timeout=SECONDS)
        assert response.status_code == 503
        assert response.json()["status"] == "draining"
