"""The live comparisons need requirements.txt and are collected only by `pytest -m oracle`."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    asked_for = "oracle" in config.option.markexpr and "not oracle" not in config.option.markexpr
    return True if collection_path.name.startswith("test_") and not asked_for else None


def pytest_configure(config: pytest.Config) -> None:
    # Their own deprecations are not ours to fix.
    config.addinivalue_line("filterwarnings", "ignore::DeprecationWarning")
    config.addinivalue_line("filterwarnings", "ignore::FutureWarning")
