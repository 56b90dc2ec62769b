"""Fixtures of the Metal layer's tests: the fake's settings and figures, and a device over it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_metal import FakeMetal

from moeflux import _core


@pytest.fixture
def fake() -> Iterator[FakeMetal]:
    """The fake Metal. What a test sets is taken back after it."""
    settings = FakeMetal()
    yield settings
    settings.restore()


@pytest.fixture
def metal() -> _core.Device:
    return _core.open_device("metal")


@pytest.fixture
def in_own_process(tmp_path: Path) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Runs a script in a process of its own, for what ends one or needs one thread."""

    def run(script: str) -> subprocess.CompletedProcess[str]:
        path = tmp_path / "script.py"
        path.write_text(script)
        command = [sys.executable, "-W", "ignore", str(path)]
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        )

    return run
