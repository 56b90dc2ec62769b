"""Fixtures of the CUDA backend's tests: the fake, built once, and devices on it."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from fake_cuda import FakeCuda, build

from moeflux import _core


@pytest.fixture(scope="session")
def built_fake(tmp_path_factory: pytest.TempPathFactory) -> FakeCuda:
    return build(tmp_path_factory.mktemp("fake_cuda"))


@pytest.fixture
def fake(built_fake: FakeCuda) -> Iterator[FakeCuda]:
    """As it is without any test's wishes, and without objects of earlier tests."""
    gc.collect()
    built_fake.reset()
    yield built_fake
    built_fake.reset()


@pytest.fixture
def cuda(fake: FakeCuda) -> _core.Device:
    return _core.open_device("cuda", cuda=fake.options())
