"""The demo model served by the program in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from server_processes import ServerProcess, server_process

from moeflux.hub import resolve
from moeflux.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_folder(resolve("demo"))


@pytest.fixture(scope="session")
def demo() -> Iterator[ServerProcess]:
    """`moeflux serve demo`, ready."""
    with server_process("--threads", "2", "--max-queued", "8") as served:
        yield served
