"""Sources of conversions, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from conversion_sources import WRITERS, Sources


@pytest.fixture(scope="session")
def source_folder(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """The folder of a source by its name in WRITERS. Nobody may write to it."""
    root = tmp_path_factory.mktemp("sources")

    def folder(name: str) -> Path:
        if not (root / name).exists():
            WRITERS[name](root / name)
        return root / name

    return folder
