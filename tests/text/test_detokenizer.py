"""Incremental decoding: whole characters, as early as possible, equal to decoding at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from moeflux.tokenizer import Detokenizer, Tokenizer
from text.tokenizer_folders import byte_level, sentencepiece, write_folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("byte_level")
    return Tokenizer.from_folder(write_folder(folder, byte_level()))


def byte_ids(tokenizer: Tokenizer, data: bytes) -> list[int]:
    """One token for each byte."""
    ids = {tokenizer.token_bytes(token_id): token_id for token_id in range(tokenizer.vocab_size)}
    return [ids[bytes([byte])] for byte in data]


def pieces(detokenizer: Detokenizer, ids: list[int]) -> list[str]:
    return [*map(detokenizer.add, ids), detokenizer.finish()]


@given(st.lists(st.integers(0, 460)), st.booleans())
def test_pieces_make_up_the_text_of_the_whole(
    tokenizer: Tokenizer, ids: list[int], skip_special: bool
) -> None:
    reference = tokenizers.Tokenizer.from_str(byte_level())
    expected = reference.decode(ids, skip_special_tokens=skip_special)
    assert "".join(pieces(tokenizer.detokenizer(skip_special=skip_special), ids)) == expected


@given(st.binary())
def test_any_bytes_give_the_text_of_the_whole(tokenizer: Tokenizer, data: bytes) -> None:
    ids = byte_ids(tokenizer, data)
    assert "".join(pieces(tokenizer.detokenizer(), ids)) == data.decode(errors="replace")


@given(st.text(min_size=1))
def test_a_character_comes_whole_with_its_last_byte(tokenizer: Tokenizer, text: str) -> None:
    detokenizer = tokenizer.detokenizer()
    for character in text:
        *others, last = byte_ids(tokenizer, character.encode())
        assert [detokenizer.add(token_id) for token_id in others] == [""] * len(others)
        assert detokenizer.add(last) == character
    assert detokenizer.finish() == ""


def test_replacement_character_comes_as_soon_as_bytes_cannot_be_completed(
    tokenizer: Tokenizer,
) -> None:
    ids = byte_ids(tokenizer, b"\xe6\x9da\xff")
    assert pieces(tokenizer.detokenizer(), ids) == ["", "", "\ufffda", "\ufffd", ""]


def test_unfinished_character_is_replaced_at_the_end(tokenizer: Tokenizer) -> None:
    ids = byte_ids(tokenizer, "東".encode()[:2])
    assert pieces(tokenizer.detokenizer(), ids) == ["", "", "\ufffd"]


def test_special_token_within_a_character_does_not_break_it_when_left_out(
    tokenizer: Tokenizer,
) -> None:
    first, *others = byte_ids(tokenizer, "é".encode())
    ids = [first, tokenizer.special_tokens["<|im_end|>"], *others]
    assert pieces(tokenizer.detokenizer(), ids) == ["", "", "é", ""]


def test_first_space_of_sentencepiece_text_is_dropped_once(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, sentencepiece(), config={"eos_token": "</s>"})
    tokenizer = Tokenizer.from_folder(folder)
    ids = tokenizer.encode("hello hello")
    assert pieces(tokenizer.detokenizer(), ids) == ["he", "ll", "o", " he", "ll", "o", ""]
