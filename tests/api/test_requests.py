"""What is read before a model is asked: JSON, checkpoint defaults, options, and reasoning first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from moeflux.server.errors import ApiError
from moeflux.server.generation_defaults import generation_defaults
from moeflux.server.loading import ModelSource
from moeflux.server.options import ServerOptions
from moeflux.server.reasoning_first import ReasoningFirst
from moeflux.server.strict_json import MAX_DEPTH, parse_request
from moeflux.tokenizer import Tokenizer

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("ab[]{}\\\""), inner),
    max_leaves=20,
)  # fmt: skip


@settings(deadline=None)
@given(value=VALUES)
def test_json_is_read_as_it_was_written(value: Any) -> None:
    assert parse_request(json.dumps(value).encode()) == value
    assert parse_request(json.dumps(value, ensure_ascii=False).encode()) == value


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_nesting_has_a_limit(opening: str) -> None:
    closing = "]" if opening == "[" else "}"

    def nested(depth: int) -> bytes:
        return (opening * depth + "1" + closing * depth).encode()

    parse_request(nested(MAX_DEPTH))
    with pytest.raises(ApiError, match="deep"):
        parse_request(nested(MAX_DEPTH + 1))


def test_brackets_in_a_text_are_no_nesting() -> None:
    text = '\\"[' * 1000
    assert parse_request(f'"{text}"'.encode()) == '"[' * 1000


@pytest.mark.parametrize("body", [b'"' + b'\\"' * 500_000, b'["' + b'\\"' * 500_000 + b"\\"])
def test_a_text_without_its_end_takes_no_longer_than_another(body: bytes) -> None:
    with pytest.raises(ApiError, match="Unterminated"):
        parse_request(body)


@settings(deadline=None)
@given(body=st.binary(max_size=64))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    try:
        parse_request(body)
    except ApiError as error:
        json.dumps(error.as_openai(), ensure_ascii=False).encode()


def write_defaults(folder: Path, **values: Any) -> Path:
    (folder / "generation_config.json").write_text(json.dumps(values))
    return folder


def test_defaults_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    folder = write_defaults(tmp_path, temperature=0.6, top_p=0.95, top_k=20, do_sample=True)
    assert generation_defaults(folder) == {
        "temperature": 0.6,
        "top_p": 0.95,
        "top_k": 20,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
    }


def test_a_checkpoint_that_does_not_sample_is_greedy(tmp_path: Path) -> None:
    folder = write_defaults(tmp_path, temperature=0.6, do_sample=False)
    assert generation_defaults(folder)["temperature"] == 0


@pytest.mark.parametrize(
    "values", [{}, {"temperature": -1, "top_p": 7, "top_k": "x", "min_p": True}]
)
def test_without_usable_values_all_tokens_may_be_drawn(
    tmp_path: Path, values: dict[str, Any]
) -> None:
    defaults = generation_defaults(write_defaults(tmp_path, **values))
    assert defaults == generation_defaults(tmp_path / "none")
    assert (defaults["temperature"], defaults["top_p"], defaults["top_k"]) == (1.0, 1.0, 0)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "server.example"])
def test_other_addresses_need_a_key(host: str) -> None:
    with pytest.raises(ValueError, match="API key"):
        ServerOptions(host=host)
    assert ServerOptions(host=host, api_keys=("long-enough",)).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost"])
def test_this_machine_needs_none(host: str) -> None:
    assert ServerOptions(host=host).api_keys == ()


@pytest.mark.parametrize("key", ["short", "with a space", "küche-küche", ""])
def test_keys_that_no_header_carries_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match="API key"):
        ServerOptions(api_keys=(key,))


@pytest.mark.parametrize(
    ("memory", "left"),
    [(None, None), (192 * 2**20, 128 * 2**20), (2**20, 1), ("8GiB", 8 * 2**30 - 64 * 2**20)],
)
def test_a_memory_cap_leaves_room_for_requests(memory: int | str | None, left: int | None) -> None:
    assert ModelSource("demo", memory=memory).model_memory == left


class OnlyToken:
    """A constraint that allows one token, then ends."""

    def __init__(self, token_id: int) -> None:
        self.token_id = token_id
        self.accepted: list[int] = []

    def start(self) -> OnlyToken:
        return self

    @property
    def ended(self) -> bool:
        return bool(self.accepted)

    def allowed(self, vocabulary: int) -> NDArray[np.bool_]:
        return np.arange(vocabulary) == self.token_id

    def accept(self, token_id: int) -> None:
        self.accepted.append(token_id)


@pytest.mark.parametrize("spelled", [True, False])
def test_reasoning_is_free_and_the_answer_is_not(tokenizer: Tokenizer, spelled: bool) -> None:
    answer = OnlyToken(7)
    run = ReasoningFirst(answer, tokenizer, "</think>").start()
    reasoning = tokenizer.encode("so </thin k>, then")
    closing = tokenizer.encode("</think>", allow_special=not spelled)
    assert (len(closing) > 1) == spelled
    for token_id in reasoning + closing:
        allowed = run.allowed(tokenizer.vocab_size)
        assert allowed.sum() == tokenizer.vocab_size - len(tokenizer.eos_token_ids)
        assert not allowed[list(tokenizer.eos_token_ids)].any()
        run.accept(token_id)
    assert list(np.flatnonzero(run.allowed(tokenizer.vocab_size))) == [7]
    assert not run.ended
    run.accept(7)
    assert run.ended
    assert answer.accepted == [7]
