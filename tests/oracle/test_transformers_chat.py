"""Chat templates and special tokens, against what transformers makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from moeflux.chat import ChatTemplate
from moeflux.errors import ChatTemplateError
from moeflux.tokenizer import Tokenizer
from text.conversations import CONVERSATIONS, TEMPLATES
from text.tokenizer_folders import byte_level, write_folder

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_text_and_ids_of_a_conversation_agree(tmp_path: Path, template: str, name: str) -> None:
    folder = write_folder(tmp_path, byte_level(), template=template)
    reference = PreTrainedTokenizerFast.from_pretrained(folder)
    chat = ChatTemplate(Tokenizer.from_folder(folder))
    conversation = CONVERSATIONS[name]
    messages = [dict(message) for message in conversation.messages]
    arguments = {
        "tools": conversation.tools,
        "add_generation_prompt": conversation.add_generation_prompt,
        **conversation.variables,
    }
    try:
        text = chat.render(messages, **arguments)
    except ChatTemplateError:
        with pytest.raises(Exception, match=r"alternate|no attribute"):
            reference.apply_chat_template(messages, tokenize=False, **arguments)
        return
    assert text == reference.apply_chat_template(messages, tokenize=False, **arguments)
    if name != "special tokens in text":  # where transformers makes control tokens of text
        ids = reference.apply_chat_template(messages, return_dict=False, **arguments)
        assert chat.encode(messages, **arguments) == ids


@pytest.mark.parametrize("add_bos", [True, False])
def test_raw_text_agrees(tmp_path: Path, add_bos: bool) -> None:
    folder = write_folder(tmp_path, byte_level(), config={"add_bos_token": add_bos})
    reference = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer = Tokenizer.from_folder(folder)
    text = "<|im_start|>Größe <b>  東京</b> </s>"
    ids = reference.encode(text, add_special_tokens=False)
    assert tokenizer.encode(text, allow_special=True) == ids
    assert tokenizer.decode(ids) == reference.decode(ids, skip_special_tokens=True)
