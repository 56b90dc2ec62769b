"""The page in a real browser: needs Chromium, chromedriver and the extra `browser`.

Collected only by `pytest -m browser`. `--page-screenshots FOLDER` keeps pictures of the page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from scripted_server import ScriptedServer, scripted_server

if TYPE_CHECKING:
    from page import Browsers, Page

LEFT_OUT = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--page-screenshots", type=Path, help="Folder for pictures of the page.")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LEFT_OUT] = []


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    wanted = config.option.markexpr
    if not collection_path.name.startswith("test_") or (
        "browser" in wanted and "not" not in wanted
    ):
        return None
    config.stash[LEFT_OUT].append(collection_path.name)
    return True


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if names := config.stash[LEFT_OUT]:
        terminalreporter.write_line(f"left out without -m browser: {', '.join(sorted(names))}")


@pytest.fixture(scope="session")
def browsers() -> Iterator[Browsers]:
    """One browser for each look; they take long to start."""
    from page import Browsers  # noqa: PLC0415 - needs the extra `browser`

    browsers = Browsers()
    yield browsers
    browsers.close()


@pytest.fixture
def browse(request: pytest.FixtureRequest, browsers: Browsers) -> Iterator[Callable[..., Page]]:
    """Opens a page in a tab of its own; in the end it may have no error in its console."""
    folder: Path | None = request.config.getoption("--page-screenshots", default=None)
    pages: list[Page] = []

    def browse(url: str, **look: bool) -> Page:
        pages.append(browsers.open(url, folder, **look))
        return pages[-1]

    yield browse
    for page in pages:
        page.close()


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    """The page in front of answers that a test writes."""
    with scripted_server() as server:
        yield server
