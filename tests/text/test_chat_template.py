"""Chat templates: rendering as transformers does, choice of template, messages that are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from moeflux.chat import ChatTemplate
from moeflux.errors import ChatTemplateError
from moeflux.tokenizer import Tokenizer
from text.conversations import CONVERSATIONS, TEMPLATES, WEATHER
from text.tokenizer_folders import byte_level, write_folder

GOLDENS = json.loads(
    (Path(__file__).parent.parent / "goldens" / "chat.json").read_text(encoding="utf-8")
)
QUESTION = [{"role": "user", "content": "Hi"}]
Compile = Callable[[object], ChatTemplate]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    root = tmp_path_factory.mktemp("templates")
    return {
        name: Tokenizer.from_folder(write_folder(root / name, byte_level(), template=name))
        for name in TEMPLATES
    }


@pytest.fixture
def compiled(tmp_path: Path) -> Compile:
    """A template from its source, or from a list of named ones."""

    def compile_template(source: object) -> ChatTemplate:
        folder = write_folder(tmp_path, byte_level(), config={"chat_template": source})
        return ChatTemplate(Tokenizer.from_folder(folder), now=lambda: datetime(2024, 2, 29, 13, 5))

    return compile_template


@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_text_is_that_of_transformers(
    tokenizers: dict[str, Tokenizer], template: str, name: str
) -> None:
    conversation, expected = CONVERSATIONS[name], GOLDENS[template][name]
    chat = ChatTemplate(tokenizers[template])

    def render() -> str:
        return chat.render(
            conversation.messages,
            tools=conversation.tools,
            add_generation_prompt=conversation.add_generation_prompt,
            **conversation.variables,
        )

    if expected is None:
        with pytest.raises(ChatTemplateError):
            render()
    else:
        assert render() == expected


@pytest.mark.parametrize("template", TEMPLATES)
def test_token_ids_of_ordinary_text_are_those_of_the_whole_text(
    tokenizers: dict[str, Tokenizer], template: str
) -> None:
    messages = [{"role": "user", "content": "if a < b: [print('<b>Größe')]"}]
    chat = ChatTemplate(tokenizers[template])
    text = chat.render(messages)
    assert chat.encode(messages) == tokenizers[template].encode(text, allow_special=True)


def test_parts_of_a_content_are_joined(tokenizers: dict[str, Tokenizer]) -> None:
    chat = ChatTemplate(tokenizers["chatml"])
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    whole = chat.render([{"role": "user", "content": "one two"}])
    assert chat.render([{"role": "user", "content": parts}]) == whole


def test_namespace_and_dict_work_as_in_jinja(compiled: Compile) -> None:
    source = "{% set n = namespace({'a': 1}, self=2) %}{% set n.b = dict(c=3) %}"
    assert compiled(source + "{{ n.a }}{{ n.self }}{{ n.b }}").render(QUESTION) == "12{'c': 3}"


def test_variables_override_the_named_tokens(compiled: Compile) -> None:
    chat = compiled("{{ eos_token }} {{ bos_token }} {{ pad_token }}")
    assert chat.render(QUESTION, bos_token="^") == "<|im_end|> ^ <|endoftext|>"


def test_clock_of_a_template_is_the_one_given(compiled: Compile) -> None:
    assert (
        compiled("{{ strftime_now('%d %b %Y, %H:%M') }}").render(QUESTION) == "29 Feb 2024, 13:05"
    )


def test_tool_use_template_is_taken_for_tools(compiled: Compile) -> None:
    chat = compiled(
        [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
    )
    assert chat.render(QUESTION) == "plain"
    assert chat.render(QUESTION, tools=[WEATHER]) == "tools"
    assert chat.render(QUESTION, tools=[WEATHER], template="default") == "plain"


def test_unknown_template_is_refused_with_those_there_are(compiled: Compile) -> None:
    chat = compiled([{"name": "rag", "template": "x"}, {"name": "tool_use", "template": "y"}])
    with pytest.raises(ChatTemplateError, match=r"no chat template 'default'.* 'rag', 'tool_use'"):
        chat.render(QUESTION)


def test_checkpoint_without_a_template_is_refused(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(write_folder(tmp_path, byte_level()))
    with pytest.raises(ChatTemplateError, match="no chat template"):
        ChatTemplate(tokenizer)


def test_broken_template_is_refused_with_its_line(compiled: Compile) -> None:
    with pytest.raises(ChatTemplateError, match="chat template 'default', line 2: "):
        compiled("{% for m in messages %}\n{% endif %}")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ raise_exception('Only one question, please') }}", "Only one question, please"),
        ("{{ messages[0].nothing.at_all }}", "has no attribute 'nothing'"),
        ("{{ 1 + messages[0].content }}", "unsupported operand"),
        ("{{ 1 // 0 }}", "by zero"),
        ("{{ messages.append(1) }}", "access to attribute 'append'"),
        ("{{ messages.__class__.__base__ }}", "access to attribute '__class__'"),
        ("{% set n = namespace() %}{% set n.__class__ = 1 %}", "set the attribute '__class__'"),
        ("{{ namespace(__init__=1) }}", "set the attribute '__init__'"),
        ("{{ dict.fromkeys }}{{ dict.mro() }}", "has no attribute 'mro'"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "Range too big"),
        ("{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}", "recursion"),
    ],
)
def test_failure_of_a_template_is_a_chat_template_error(
    compiled: Compile, source: str, message: str
) -> None:
    with pytest.raises(ChatTemplateError, match=message):
        compiled(source).render(QUESTION)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "at least one message, got none"),
        ("Hi", "list of messages, got str"),
        ({"role": "user", "content": "Hi"}, "list of messages, got dict"),
        (["Hi"], "message 0: wanted role and content, got str"),
        ([{"content": "Hi"}], "message 0: role must be one of .*, got None"),
        ([*QUESTION, {"role": "im_end", "content": "x"}], "message 1: role must be one of"),
        ([{"role": ["user"], "content": "x"}], "role must be one of"),
        ([{"role": "user"}], "message 0: a user message must have content"),
        ([{"role": "user", "content": None}], "message 0: a user message must have content"),
        ([{"role": "user", "content": 5}], "content must be a text or a list of parts, got int"),
        ([{"role": "user", "content": ["x"]}], "of type text with a text, got 'x'"),
        ([{"role": "user", "content": [{"type": "image"}]}], "with a text, got 'image'"),
        ([{"role": "user", "content": [{"type": "text"}]}], "of type text with a text"),
        ([{"role": "user", "content": "x", "extra": object()}], "wanted a JSON value, got object"),
        ([{"role": "user", "content": "x", "extra": {1: 2}}], "key of an object, got 1"),
    ],
)
def test_malformed_messages_are_refused(
    tokenizers: dict[str, Tokenizer], messages: list[dict[str, object]], message: str
) -> None:
    with pytest.raises(ChatTemplateError, match=message):
        ChatTemplate(tokenizers["chatml"]).render(messages)


def test_rendering_leaves_its_arguments_as_they_are(tokenizers: dict[str, Tokenizer]) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "<|im_end|>"}]}]
    before = json.dumps(messages)
    ChatTemplate(tokenizers["chatml"]).render(messages)
    assert json.dumps(messages) == before
