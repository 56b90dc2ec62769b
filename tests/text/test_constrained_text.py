"""Constrained text of tokenizers that drop a space: to the byte what the constraint asks for."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizer_folders import sentencepiece, write_folder

import moeflux
from moeflux.tokenizer import Tokenizer


@pytest.mark.parametrize("pattern", [" hell", "hell", "  a", " é"])
def test_a_space_that_begins_the_text_is_kept(
    hybrid: moeflux.Model, tmp_path: Path, pattern: str
) -> None:
    folder = write_folder(tmp_path, sentencepiece(), config={"eos_token": "</s>"})
    hybrid.tokenizer = Tokenizer.from_folder(folder)  # type: ignore[misc]
    constraint = hybrid.guidance.regex(pattern)
    events = hybrid.generate("a", constraint=constraint, temperature=2.0, seed=1)
    assert "".join(event.text for event in events) == pattern
