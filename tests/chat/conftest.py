"""The tokenizer of the model that ships."""

from __future__ import annotations

import pytest

from moeflux.hub import resolve
from moeflux.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def demo_tokenizer() -> Tokenizer:
    return Tokenizer.from_folder(resolve("demo"))
