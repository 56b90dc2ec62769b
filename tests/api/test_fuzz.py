"""Requests that the OpenAPI document allows and that it does not, made by schemathesis.

Over scripted jobs there are many; over the demo model, in a small context, what a request asks for
is computed as well. None may end in an error of the server, and the server must be well after.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from server_processes import SECONDS, ScriptedJobs, served_application, served_by, server_process

from moeflux.server.options import ServerOptions
from moeflux.tokenizer import Tokenizer

pytestmark = pytest.mark.fuzz


def fuzz(address: str, folder: Path, n_examples: int, seconds: int) -> None:
    """Raises AssertionError with what schemathesis found."""
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{address}/openapi.json"]
    bounds = [f"--max-examples={n_examples}", f"--max-time={seconds}", "--seed=1"]
    checks = ["--checks=not_a_server_error", "--phases=examples,coverage,fuzzing"]
    quiet = ["--suppress-health-check=all", "--warnings=off", "--request-timeout=60"]
    done = subprocess.run(
        [*command, *bounds, *checks, *quiet],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=seconds + 10 * SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert httpx.get(f"{address}/health", timeout=SECONDS).status_code == 200
    told = httpx.get(f"{address}/metrics", timeout=SECONDS).text
    for status in (200, 400):
        assert f'path="/v1/chat/completions",status="{status}"' in told, done.stdout


def test_no_request_breaks_the_server(tokenizer: Tokenizer, tmp_path: Path) -> None:
    served = served_by(ScriptedJobs(tokenizer), tokenizer, context_size=512)
    with served_application(served, ServerOptions()) as address:
        fuzz(address, tmp_path, n_examples=50, seconds=60)


def test_no_request_breaks_the_model(tmp_path: Path) -> None:
    with server_process("--ctx-size", "96", "--threads", "2") as served:
        fuzz(served.url, tmp_path, n_examples=5, seconds=60)
        assert served.process.poll() is None
