"""Fixtures of all tests: tiny random checkpoints, made once, and models loaded from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import settings

import moeflux
from tiny_checkpoint import CheckpointFolders, TinyModel, write_hf, write_mlx

# An example's time says nothing on a machine that has other work.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

KINDS = ("qwen3_5_moe", "qwen3_next", "qwen3_moe")

OPTIONAL_MARKERS = ("fuzz", "metal_bench", "readme")
LEFT_OUT = pytest.StashKey[Counter[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LEFT_OUT] = Counter()


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    for item in items:
        item.config.stash[LEFT_OUT].update(
            name for name in OPTIONAL_MARKERS if item.get_closest_marker(name)
        )


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    for name, count in sorted(config.stash[LEFT_OUT].items()):
        terminalreporter.write_line(f"left out without -m {name}: {count} tests")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> CheckpointFolders:
    """Folder of the tiny checkpoint of a kind in a style ("mlx": 4-bit, "hf": raw bfloat16)."""
    root = tmp_path_factory.mktemp("tiny")

    def folder(kind: str, style: str = "mlx") -> Path:
        target = root / f"{kind}-{style}"
        if not target.exists():
            write = write_mlx if style == "mlx" else write_hf
            write(TinyModel(kind=kind), target)
        return target

    return folder


@pytest.fixture(params=KINDS)
def model(
    request: pytest.FixtureRequest, tiny_folder: CheckpointFolders
) -> Iterator[moeflux.Model]:
    """A tiny model of each family, with all of its experts in memory."""
    with moeflux.load(tiny_folder(request.param, "mlx"), device="cpu") as loaded:
        yield loaded


@pytest.fixture
def hybrid(tiny_folder: CheckpointFolders) -> Iterator[moeflux.Model]:
    """A tiny model with gated delta nets and full attention."""
    with moeflux.load(tiny_folder("qwen3_5_moe", "mlx"), device="cpu") as loaded:
        yield loaded
