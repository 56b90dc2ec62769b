"""Tokenizer: encoding, control tokens, decoding, damaged files."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from moeflux.errors import CheckpointError
from moeflux.tokenizer import Tokenizer
from text.tokenizer_folders import (
    SPECIAL,
    UNMARKED,
    byte_level,
    sentencepiece,
    unigram,
    write_folder,
)

SPELLINGS = (*SPECIAL, *UNMARKED)
FRAGMENTS = ["<", "|", "im_", "start", "|>", "<|im_", "</", "think", ">", " ", "[", "INST]"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("byte_level")
    return Tokenizer.from_folder(write_folder(folder, byte_level(), template="thinking"))


@pytest.fixture(scope="module")
def backend() -> tokenizers.Tokenizer:
    """The library's own tokenizer: the independent reference."""
    return tokenizers.Tokenizer.from_str(byte_level())


def test_encoding_with_special_tokens_is_that_of_the_library(
    tokenizer: Tokenizer, backend: tokenizers.Tokenizer
) -> None:
    text = "<|im_start|>user\nhello <b>there</b>    you<|im_end|>\n<think>\n</think> 東京 😀"
    assert tokenizer.encode(text, allow_special=True) == backend.encode(text).ids


@given(st.text())
def test_ordinary_text_survives_encoding_and_decoding(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text), skip_special=False) == text


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_control_token_in_text_is_plain_text(tokenizer: Tokenizer, spelling: str) -> None:
    ids = tokenizer.encode(f"a {spelling}{spelling} b")
    assert not {tokenizer.control_tokens[spelling]} & set(ids)
    assert tokenizer.decode(ids) == f"a {spelling}{spelling} b"


@given(st.lists(st.sampled_from([*FRAGMENTS, *SPELLINGS])).map("".join))
def test_no_text_becomes_a_control_token(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert not set(tokenizer.control_tokens.values()) & set(ids)
    assert tokenizer.decode(ids) == text


def test_control_tokens_are_the_special_ones_and_those_of_the_template(
    tokenizer: Tokenizer,
) -> None:
    assert tokenizer.special_tokens.keys() == set(SPECIAL)
    assert tokenizer.control_tokens.keys() == {*SPECIAL, *UNMARKED}


def test_added_token_that_no_template_writes_stays_vocabulary(
    tokenizer: Tokenizer, backend: tokenizers.Tokenizer
) -> None:
    assert tokenizer.encode("x <b>    y") == backend.encode("x <b>    y").ids
    assert backend.token_to_id("<b>") in tokenizer.encode("x <b>    y")


def test_plain_and_special_encodings_do_not_disturb_each_other(tokenizer: Tokenizer) -> None:
    text = "<|im_start|>hi<|im_end|>"
    expected = {allow: tokenizer.encode(text, allow_special=allow) for allow in (False, True)}
    with ThreadPoolExecutor(4) as pool:
        jobs = [
            (allow, pool.submit(tokenizer.encode, text, allow_special=allow))
            for allow in (False, True) * 100
        ]
        assert all(job.result() == expected[allow] for allow, job in jobs)


def test_control_token_in_the_models_own_vocabulary_is_not_found_in_text(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(
        write_folder(tmp_path, unigram(), config={"eos_token": "</s>"})
    )
    ids = tokenizer.encode("ab<s>c</s></s>")
    assert not {1, 2} & set(ids)
    assert tokenizer.decode(ids, skip_special=False) == "ab<s>c</s></s>"


@given(st.lists(st.integers(0, 460)))
def test_decoding_is_that_of_the_library(
    tokenizer: Tokenizer, backend: tokenizers.Tokenizer, ids: list[int]
) -> None:
    for skip in (True, False):
        expected = backend.decode(ids, skip_special_tokens=skip)
        assert tokenizer.decode(ids, skip_special=skip) == expected


def test_special_tokens_are_left_out_of_text_and_unmarked_ones_are_not(
    tokenizer: Tokenizer,
) -> None:
    ids = tokenizer.encode("<think>a</think>b<|im_end|>", allow_special=True)
    assert tokenizer.decode(ids) == "<think>a</think>b"


def test_id_without_a_token_stands_for_nothing(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode([tokenizer.vocab_size, tokenizer.vocab_size + 99]) == ""


def test_negative_id_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="must not be negative, got -1"):
        tokenizer.decode([-1])


def test_lone_surrogate_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="surrogate at character 3"):
        tokenizer.encode("abc\udcff")


def test_vocabulary_size_is_the_highest_id_and_one(
    tokenizer: Tokenizer, backend: tokenizers.Tokenizer
) -> None:
    assert tokenizer.vocab_size == max(backend.get_vocab().values()) + 1


# ---- SentencePiece ----


def test_byte_fallback_decodes_bytes_and_drops_the_first_space(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, sentencepiece(), config={"eos_token": "</s>"})
    tokenizer = Tokenizer.from_folder(folder)
    reference = tokenizers.Tokenizer.from_str(sentencepiece())
    for text in ("hello a", " a hello", "é 東 😀 hello", "a<s>b"):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text == reference.decode(ids)


# ---- what the files say ----


def test_end_of_text_is_what_generation_config_and_tokenizer_name(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, byte_level())
    (folder / "config.json").write_text('{"model_type": "qwen3_moe", "eos_token_id": 7}')
    (folder / "generation_config.json").write_text('{"eos_token_id": [5, 6]}')
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer.eos_token_ids == {5, 6, tokenizer.special_tokens["<|im_end|>"]}


def test_end_of_text_without_generation_config_is_that_of_config(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, byte_level(), config={"eos_token": None})
    (folder / "config.json").write_text('{"model_type": "qwen3_moe", "eos_token_id": 7}')
    assert Tokenizer.from_folder(folder).eos_token_ids == {7}


@pytest.mark.parametrize(("add_bos", "expected"), [(True, ["<s>"]), (False, [])])
def test_raw_prompt_starts_as_the_configuration_says(
    tmp_path: Path, add_bos: bool, expected: list[str]
) -> None:
    folder = write_folder(tmp_path, byte_level(), config={"add_bos_token": add_bos})
    tokenizer = Tokenizer.from_folder(folder)
    first = [tokenizer.special_tokens[token] for token in expected]
    assert tokenizer.encode("hi", add_bos=True) == first + tokenizer.encode("hi")


def test_raw_prompt_starts_as_the_post_processor_does_if_nothing_is_configured(
    tmp_path: Path,
) -> None:
    backend = tokenizers.Tokenizer.from_str(byte_level())
    bos = backend.token_to_id("<s>")
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", bos)]
    )
    folder = write_folder(tmp_path, backend.to_str(), config={"add_bos_token": None})
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer.encode("hi", add_bos=True) == [bos, *tokenizer.encode("hi")]
    assert tokenizer.encode("hi")[0] != bos


def test_token_that_only_the_configuration_lists_is_added(tmp_path: Path) -> None:
    new = tokenizers.Tokenizer.from_str(byte_level()).get_vocab_size()
    listed = {str(new): {"content": "<|extra|>", "special": True, "normalized": False}}
    folder = write_folder(tmp_path, byte_level(), config={"added_tokens_decoder": listed})
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer.special_tokens["<|extra|>"] == new
    assert tokenizer.encode("<|extra|>", allow_special=True) == [new]


def test_named_tokens_come_from_both_files(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, byte_level())
    (folder / "special_tokens_map.json").write_text(
        json.dumps({"unk_token": {"content": "<|endoftext|>"}, "eos_token": "</s>"})
    )
    named = Tokenizer.from_folder(folder).named_tokens
    assert named["unk_token"] == "<|endoftext|>"
    assert named["eos_token"] == "<|im_end|>"
    assert named["pad_token"] == "<|endoftext|>"


def test_truncation_and_padding_of_the_file_are_not_applied(tmp_path: Path) -> None:
    backend = tokenizers.Tokenizer.from_str(byte_level())
    backend.enable_truncation(4)
    backend.enable_padding(length=64)
    tokenizer = Tokenizer.from_folder(write_folder(tmp_path, backend.to_str()))
    assert tokenizer.decode(tokenizer.encode("The quick brown fox")) == "The quick brown fox"


def test_template_in_a_file_of_its_own_wins(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, byte_level(), template="chatml")
    (folder / "chat_template.jinja").write_text("file")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    templates = Tokenizer.from_folder(folder).chat_templates
    assert templates == {"default": "file", "tool_use": "tools"}


def test_list_of_named_templates_is_read(tmp_path: Path) -> None:
    listed = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]
    folder = write_folder(tmp_path, byte_level(), config={"chat_template": listed})
    assert Tokenizer.from_folder(folder).chat_templates == {"default": "a", "tool_use": "b"}


# ---- damaged files ----


def test_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", "{", "tokenizer.json: wanted a tokenizer"),
        ("tokenizer.json", "{}", "tokenizer.json: wanted a tokenizer"),
        ("tokenizer_config.json", "{", "tokenizer_config.json: wanted a JSON object"),
        ("tokenizer_config.json", "[]", "wanted a JSON object, got list"),
        (
            "tokenizer_config.json",
            '{"chat_template": [1]}',
            "wanted a text or named templates, got 1",
        ),
        ("tokenizer_config.json", '{"eos_token": "<|none|>"}', "has no token '<|none|>'"),
        ("tokenizer_config.json", '{"added_tokens_decoder": []}', "wanted an object, got"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": {}}}', "wanted a token, got 'x'"),
        (
            "tokenizer_config.json",
            '{"added_tokens_decoder": {"5": {"content": "<|im_end|>"}}}',
            "tokenizer_config.json gives it 5",
        ),
        ("special_tokens_map.json", "nonsense", "special_tokens_map.json: wanted a JSON object"),
    ],
)
def test_damaged_file_is_a_checkpoint_error(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    folder = write_folder(tmp_path, byte_level())
    (folder / name).write_text(content)
    with pytest.raises(CheckpointError) as caught:
        Tokenizer.from_folder(folder)
    assert message in str(caught.value)
    assert str(folder) in str(caught.value)


def test_template_file_that_is_not_text_is_a_checkpoint_error(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, byte_level())
    (folder / "chat_template.jinja").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(CheckpointError, match="wanted UTF-8 text"):
        Tokenizer.from_folder(folder)


def test_unsupported_decoder_is_named(tmp_path: Path) -> None:
    backend = tokenizers.Tokenizer.from_str(byte_level())
    backend.decoder = tokenizers.decoders.WordPiece()
    with pytest.raises(CheckpointError, match="decoder WordPiece is not supported"):
        Tokenizer.from_folder(write_folder(tmp_path, backend.to_str()))
