"""The soak bench finds the server well after some seconds of load and of all that goes wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from server_processes import SECONDS

BENCH = Path(__file__).resolve().parents[2] / "bench" / "server_soak.py"


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="the shim needs LD_PRELOAD")


@pytest.mark.parametrize("options", [(), pytest.param(("--read-faults",), marks=on_linux)])
def test_a_short_soak_leaves_the_server_well(tmp_path: Path, options: tuple[str, ...]) -> None:
    command = [sys.executable, str(BENCH), "demo", "--seconds", "6", "--clients", "4", *options]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=4 * SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["n_wrong"] == 0
    assert {"chat", "stream", "refused"} <= found["counts"].keys()
