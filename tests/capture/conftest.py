"""Fixtures of the capture tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from tracing_device import TracingDevice


@pytest.fixture
def device() -> TracingDevice:
    """Captures, and notes what is asked of it."""
    return TracingDevice()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of a trace that is not there yet."""
    return tmp_path / "step.gputrace"
