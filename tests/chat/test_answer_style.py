"""What a checkpoint's template and a prompt tell of the answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from moeflux.chat import AnswerStyle, ChatTemplate, starts_in_reasoning
from moeflux.tokenizer import Tokenizer
from text.tokenizer_folders import byte_level, write_folder


def tokenizer_with(folder: Path, template: str) -> Tokenizer:
    return Tokenizer.from_folder(write_folder(folder, byte_level(), template=template))


@pytest.mark.parametrize(
    ("template", "style"),
    [
        ("chatml", AnswerStyle()),
        ("thinking", AnswerStyle(reasoning=True, calls="json")),
        ("tools_xml", AnswerStyle(reasoning=False, calls="xml")),
    ],
)
def test_the_template_tells_the_style(tmp_path: Path, template: str, style: AnswerStyle) -> None:
    assert AnswerStyle.of(tokenizer_with(tmp_path, template)) == style


@pytest.mark.parametrize(("enabled", "begun"), [(True, True), (False, False)])
def test_a_prompt_that_ends_with_an_open_tag_starts_in_reasoning(
    demo_tokenizer: Tokenizer, enabled: bool, begun: bool
) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    prompt_ids = ChatTemplate(demo_tokenizer).encode(messages, enable_thinking=enabled)
    assert starts_in_reasoning(demo_tokenizer, prompt_ids) is begun


def test_text_of_users_does_not_open_reasoning(demo_tokenizer: Tokenizer) -> None:
    assert not starts_in_reasoning(demo_tokenizer, demo_tokenizer.encode("<think>\n"))


def test_no_prompt_does_not_open_reasoning(demo_tokenizer: Tokenizer) -> None:
    assert not starts_in_reasoning(demo_tokenizer, [])
