"""What the page cache is said to hold is what was read, and dropped means dropped."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np
import pytest

from moeflux.checkpoint import Checkpoint
from moeflux.evaluation import page_cache
from moeflux.evaluation.page_cache import FileRange, drop, expert_ranges, resident_share, state_name
from tiny_checkpoint import CheckpointFolders

PAGE = mmap.PAGESIZE
N_PAGES = 4096

needs_advice = pytest.mark.skipif(
    not hasattr(os, "posix_fadvise"), reason="the system takes no advice on its page cache"
)


@pytest.fixture
def file(tmp_path: Path) -> FileRange:
    path = tmp_path / "file.bin"
    path.write_bytes(os.urandom(N_PAGES * PAGE))
    return FileRange(path, 0, N_PAGES * PAGE)


@needs_advice
def test_dropped_bytes_are_absent_and_read_ones_are_there(file: FileRange) -> None:
    assert resident_share([file]) == 1.0
    assert drop([file])
    assert resident_share([file]) == 0.0
    file.path.read_bytes()
    assert resident_share([file]) == 1.0


@needs_advice
def test_only_the_ranges_that_are_given_count(file: FileRange) -> None:
    half = N_PAGES // 2 * PAGE
    first, second = FileRange(file.path, 0, half), FileRange(file.path, half, half)
    drop([first])
    assert resident_share([first]) == 0.0
    assert resident_share([second]) == 1.0
    assert resident_share([first, second]) == 0.5


@needs_advice
def test_asking_brings_nothing_in(file: FileRange) -> None:
    drop([file])
    resident_share([file])
    assert resident_share([file]) == 0.0


def test_a_system_that_calls_untouched_pages_resident_is_not_believed(
    file: FileRange, monkeypatch: pytest.MonkeyPatch
) -> None:
    def all_resident(_mapping: mmap.mmap, nbytes: int) -> int:
        return -(-nbytes // PAGE)

    monkeypatch.setattr(page_cache, "_count", all_resident)
    assert resident_share([file]) is None


def test_nothing_has_no_share() -> None:
    assert resident_share([]) is None


@pytest.mark.parametrize(
    ("share", "name"),
    [
        (0.0, "cold"),
        (0.01, "cold"),
        (0.011, "partly warm"),
        (0.989, "partly warm"),
        (0.99, "warm"),
        (1.0, "warm"),
        (None, "unknown"),
    ],
)
def test_state_has_a_name(share: float | None, name: str) -> None:
    assert state_name(share) == name


def test_expert_ranges_hold_every_expert_once(tiny_folder: CheckpointFolders) -> None:
    checkpoint = Checkpoint.open(tiny_folder("qwen3_moe", "mlx"))
    covered: dict[Path, np.ndarray] = {}
    for part in expert_ranges(checkpoint):
        size = part.path.stat().st_size
        count = covered.setdefault(part.path, np.zeros(size, np.uint8))
        count[part.offset : part.offset + part.nbytes] += 1
    assert all(count.max() == 1 for count in covered.values())
    assert sum(int(count.sum()) for count in covered.values()) == checkpoint.expert_nbytes
