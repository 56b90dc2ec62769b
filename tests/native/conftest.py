"""Fixtures of the native core's tests: a device of two threads, and files with known bytes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from moeflux import _core


@pytest.fixture
def cpu() -> _core.Device:
    return _core.open_device("cpu", n_threads=2)


@pytest.fixture
def random_file(tmp_path: Path) -> Callable[[int], tuple[Path, bytes]]:
    """Makes a file of so many random bytes; gives its path and content."""

    def make(nbytes: int) -> tuple[Path, bytes]:
        content = np.random.default_rng(nbytes).bytes(nbytes)
        path = tmp_path / f"random_{nbytes}"
        path.write_bytes(content)
        return path, content

    return make
