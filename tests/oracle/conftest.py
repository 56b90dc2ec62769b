"""The live comparisons need requirements.txt and are collected only by `pytest -m oracle`."""

from __future__ import annotations

from pathlib import Path

import pytest

LEFT_OUT = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LEFT_OUT] = []
    # Deprecations inside the programs compared with are not ours to fix.
    config.addinivalue_line("filterwarnings", "ignore::DeprecationWarning")
    config.addinivalue_line("filterwarnings", "ignore::FutureWarning")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    wanted = config.option.markexpr
    if not collection_path.name.startswith("test_") or ("oracle" in wanted and "not" not in wanted):
        return None
    config.stash[LEFT_OUT].append(collection_path.name)
    return True


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if names := config.stash[LEFT_OUT]:
        terminalreporter.write_line(f"left out without -m oracle: {', '.join(sorted(names))}")
