"""`moeflux serve` as a process: what it says, how it stops, and how it refuses."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from server_processes import SECONDS, server_process

from moeflux.server.run import listening_socket


def refused(*arguments: str) -> tuple[int, str]:
    """Exit code and standard error of a server that does not start."""
    command = [sys.executable, "-m", "moeflux.cli", "serve", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.stdout == ""
    return done.returncode, done.stderr


def test_it_says_where_it_listens_and_what_it_serves() -> None:
    with server_process("--alias", "one", "--alias", "two", "--ctx-size", "512") as served:
        text = "\n".join(served.lines)
        assert f"{served.url}/v1" in text
        assert "serves 'one'" in text
        assert "512 tokens" in text
        assert re.search(r"memory +\d.* in use, no cap", text)
        listed = httpx.get(f"{served.url}/v1/models", timeout=SECONDS).json()["data"]
        assert [model["id"] for model in listed] == ["one", "two"]
        assert served.terminate() == 0


def test_a_signal_lets_running_answers_end() -> None:
    body = {"model": "demo", "prompt": "def f(", "max_tokens": 300, "stream": True, "seed": 1}
    with server_process() as served:
        answer = httpx.stream("POST", f"{served.url}/v1/completions", json=body, timeout=SECONDS)
        with answer as response:
            lines = response.iter_lines()
            assert next(lines).startswith("data: ")
            served.process.terminate()
            assert [line for line in lines if line][-1] == "data: [DONE]"
        assert served.process.wait(SECONDS) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{served.url}/health")


def test_other_commands_do_not_load_what_a_server_needs() -> None:
    needed = ("fastapi", "uvicorn", "starlette", "llguidance", "prometheus_client")
    program = f"import sys, moeflux.cli.app; sys.exit(any(n in sys.modules for n in {needed}))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_second_interrupt_cuts_answers_off_with_an_error() -> None:
    endless = {"type": "regex", "pattern": "[a-z]{100000}"}
    body = {"model": "demo", "prompt": "a", "max_tokens": 4000, "response_format": endless}
    with server_process() as served:
        url = f"{served.url}/v1/completions"
        with httpx.stream("POST", url, json={**body, "stream": True}, timeout=SECONDS) as response:
            lines = response.iter_lines()
            assert next(lines).startswith("data: ")
            served.process.send_signal(signal.SIGINT)
            assert served.wait_for_line("stopping:")
            served.process.send_signal(signal.SIGINT)
            last = [line for line in lines if line][-1]
        assert "the server has stopped" in last
        assert served.process.wait(SECONDS) == 0
    assert "Traceback" not in "\n".join(served.lines)


def test_short_pieces_are_sent_at_once() -> None:
    with listening_socket("127.0.0.1", 0) as listener:
        assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_an_address_in_use_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, text = refused("demo", "--port", str(port))
    assert code == 1
    assert len(text.splitlines()) == 1
    assert f"127.0.0.1:{port}" in text


def test_another_address_needs_a_key() -> None:
    code, text = refused("demo", "--host", "0.0.0.0", "--port", "0")
    assert code == 2
    assert len(text.splitlines()) == 1
    assert "API key" in text


def test_a_short_key_is_refused() -> None:
    code, text = refused("demo", "--api-key", "short")
    assert code == 2
    assert "short" not in text.replace("serve", "")


def test_a_key_may_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("the-key-of-the-file\n")
    path.chmod(0o600)
    with server_process("--api-key", f"@{path}") as served:
        models = f"{served.url}/v1/models"
        assert httpx.get(models, timeout=SECONDS).status_code == 401
        headers = {"authorization": "Bearer the-key-of-the-file"}
        assert httpx.get(models, headers=headers, timeout=SECONDS).status_code == 200
        assert not any("the-key-of-the-file" in line for line in served.lines)


def test_a_model_that_cannot_be_loaded_ends_the_process(tmp_path: Path) -> None:
    code, text = refused(str(tmp_path), "--port", "0")
    assert code == 1
    assert "Traceback" not in text
    assert text.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize("cap", ["40 MB", "100 MB"])
def test_a_cap_without_room_for_model_and_requests_is_refused(cap: str) -> None:
    code, text = refused("demo", "--port", "0", "--memory", cap)
    assert code == 1
    assert text.splitlines()[-1].startswith(f"error: memory of {cap} is below the ")
    assert text.rstrip().endswith("requests 67.1 MB")


SCRIPTS = {
    "openai": """
from openai import OpenAI
client = OpenAI()
stream = client.chat.completions.create(
    model="gpt-4o-mini",
    messages=[
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "Say hello."},
    ],
    max_tokens=20,
    stream=True,
)
for chunk in stream:
    print(chunk.choices[0].delta.content or "", end="")
print("|", len(client.models.list().data))
""",
    "anthropic": """
from anthropic import Anthropic
client = Anthropic()
with client.messages.stream(
    model="claude-sonnet-4-5",
    system="You are a helpful assistant.",
    messages=[{"role": "user", "content": "Say hello."}],
    max_tokens=20,
) as stream:
    for text in stream.text_stream:
        print(text, end="")
    print("|", stream.get_final_message().usage.output_tokens)
""",
}


def test_scripts_of_others_run_with_another_base_url() -> None:
    names = ("--alias", "gpt-4o-mini", "--alias", "claude-sonnet-4-5")
    with server_process(*names) as served:
        addresses = {
            "OPENAI_BASE_URL": f"{served.url}/v1",
            "ANTHROPIC_BASE_URL": served.url,
            "OPENAI_API_KEY": "unused",
            "ANTHROPIC_API_KEY": "unused",
        }
        for script in SCRIPTS.values():
            done = subprocess.run(
                [sys.executable, "-c", script],
                env={**os.environ, **addresses},
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            text, _, count = done.stdout.rpartition("|")
            assert text.strip()
            assert int(count) > 0
