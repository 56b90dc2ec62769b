"""Conversations: what a session that begins anew would answer, at the cost of one that goes on."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

import moeflux
from moeflux.chat import Content, Part, Reasoning
from moeflux.engine import conversation as module
from moeflux.engine.conversation import Conversation, ConversationError, snapshot_path
from moeflux.engine.events import PrefillProgress
from moeflux.engine.request import RequestOptions
from moeflux.engine.state_budget import SessionMemoryError
from tiny_checkpoint import CheckpointFolders

SHORT = RequestOptions(max_tokens=12, temperature=0.0)
NO_THINKING = RequestOptions(max_tokens=12, temperature=0.0, template={"enable_thinking": False})


@pytest.fixture(scope="module")
def demo() -> Iterator[moeflux.Model]:
    """A hybrid model, whose template leaves reasoning out of what it has answered before."""
    settings = moeflux.Settings(context_size=1024)
    with moeflux.load("demo", device="cpu", settings=settings) as model:
        yield model


def answer(conversation: Conversation, text: str) -> list[Part]:
    return [part for part in conversation.ask(text) if not isinstance(part, PrefillProgress)]


def text_of(parts: list[Part], kind: type[Content] | type[Reasoning]) -> str:
    return "".join(part.text for part in parts if isinstance(part, kind))


def prompt_tokens(model: moeflux.Model, conversation: Conversation) -> int:
    """Of the last turn's prompt."""
    asked = conversation.messages[:-1]
    return len(model.chat_template.encode(asked, **conversation.template))


def test_messages_are_what_was_said(demo: moeflux.Model) -> None:
    conversation = Conversation(demo, "Be brief.", SHORT)
    parts = answer(conversation, "Write a function that adds.")
    assert conversation.messages[:2] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Write a function that adds."},
    ]
    said = conversation.messages[2]
    assert said["role"] == "assistant"
    assert said["content"] == text_of(parts, Content)
    assert said.get("reasoning_content", "") == text_of(parts, Reasoning)


@pytest.mark.parametrize("options", [SHORT, NO_THINKING], ids=["thinking", "not thinking"])
def test_the_session_has_seen_what_the_template_writes(
    demo: moeflux.Model, options: RequestOptions
) -> None:
    """Logits after the last prompt are those of a session that sees it for the first time."""
    conversation = Conversation(demo, options=options)
    for question in ("What is 2 + 2?", "And 3 + 3?", "Write a class."):
        n_prompt = 0
        for part in conversation.ask(question):
            if isinstance(part, PrefillProgress):
                n_prompt = part.n_tokens
        tokens = conversation.session.tokens
        whole = demo.chat_template.encode(conversation.messages[:-1], **conversation.template)
        assert list(tokens[:n_prompt]) == whole
    alone = demo.session().prefill(tokens)
    np.testing.assert_allclose(conversation.session.logits, alone, atol=0.15)


@pytest.mark.parametrize("options", [SHORT, NO_THINKING], ids=["thinking", "not thinking"])
def test_only_what_is_new_is_prefilled(demo: moeflux.Model, options: RequestOptions) -> None:
    conversation = Conversation(demo, "You are a helper that writes Python.", options)
    answer(conversation, "Write a function that reads a file, line by line, and returns a list.")
    question_end = conversation.session.checkpoints[-1]
    answer(conversation, "Thanks.")
    assert conversation.stats is not None
    assert conversation.stats.n_kept >= question_end > 20
    assert conversation.stats.n_kept + conversation.stats.n_prefilled == prompt_tokens(
        demo, conversation
    )
    assert conversation.stats.n_prefilled < 40


def test_without_recurrent_states_every_common_token_is_kept(
    tiny_folder: CheckpointFolders,
) -> None:
    with moeflux.load(tiny_folder("qwen3_moe", "mlx"), device="cpu") as model:
        conversation = Conversation(model, options=SHORT)
        answer(conversation, "Hello there.")
        seen = conversation.session.tokens
        answer(conversation, "More of it.")
        prompt = model.chat_template.encode(conversation.messages[:-1])
        n_common = next(
            (n for n, (a, b) in enumerate(zip(seen, prompt, strict=False)) if a != b), len(seen)
        )
        assert n_common > 5
        assert conversation.stats is not None
        assert conversation.stats.n_kept == n_common


def test_progress_counts_from_what_is_kept_to_the_end_of_the_prompt(demo: moeflux.Model) -> None:
    conversation = Conversation(demo, options=SHORT)
    answer(conversation, "Hello there, write something.")
    told = [p for p in conversation.ask("More.") if isinstance(p, PrefillProgress)]
    n_tokens = prompt_tokens(demo, conversation)
    assert conversation.stats is not None
    assert {p.n_cached for p in told} == {conversation.stats.n_kept}
    assert [p.n_done for p in told] == sorted(p.n_done for p in told)
    assert told[-1].n_done == told[-1].n_tokens == n_tokens


def test_an_answer_that_is_stopped_stays_as_far_as_it_came(demo: moeflux.Model) -> None:
    conversation = Conversation(demo, options=SHORT)
    asked = conversation.ask("Write a class.")
    parts = [p for p in islice(asked, 5) if not isinstance(p, PrefillProgress)]
    asked.close()
    assert conversation.messages[-1]["role"] == "assistant"
    said = conversation.messages[-1]
    assert said["content"] + said.get("reasoning_content", "") == (
        text_of(parts, Content) + text_of(parts, Reasoning)
    )
    assert answer(conversation, "Go on.")


def test_stats_say_why_an_answer_ended(demo: moeflux.Model) -> None:
    conversation = Conversation(demo, options=RequestOptions(max_tokens=3, temperature=0.0))
    answer(conversation, "Write a class.")
    assert conversation.stats is not None
    assert conversation.stats.finish_reason == "length"
    assert conversation.stats.generation.generated_tokens == 3
    stopped = conversation.ask("Write another class.")
    next(part for part in stopped if not isinstance(part, PrefillProgress))
    stopped.close()
    assert conversation.stats.finish_reason is None


def test_an_interrupt_inside_a_step_does_not_end_the_conversation(
    demo: moeflux.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation = Conversation(demo, options=SHORT)
    answer(conversation, "Write a function.")
    steps = iter([None, KeyboardInterrupt()])
    decode = conversation.session._decode

    def interrupted(token: int, position: int) -> np.ndarray:
        if (raised := next(steps, None)) is not None:
            raise raised
        return decode(token, position)

    monkeypatch.setattr(conversation.session, "_decode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        answer(conversation, "And another one.")
    assert conversation.session.dirty
    assert answer(conversation, "And now?")


def test_undo_takes_the_last_exchange_back_and_nothing_is_prefilled_twice(
    demo: moeflux.Model,
) -> None:
    conversation = Conversation(demo, options=SHORT)
    answer(conversation, "First question, with some words to read.")
    before = [dict(message) for message in conversation.messages]
    end_of_first = conversation.session.checkpoints[-1]
    answer(conversation, "Second question.")
    assert conversation.undo() == "Second question."
    assert conversation.messages == before
    answer(conversation, "Another second question.")
    assert conversation.stats is not None
    assert conversation.stats.n_kept >= end_of_first
    while conversation.undo() is not None:
        pass
    assert conversation.messages == []


def test_reset_keeps_the_system_message_only(demo: moeflux.Model) -> None:
    conversation = Conversation(demo, "Be brief.", SHORT)
    answer(conversation, "Hello.")
    conversation.reset()
    assert conversation.messages == [{"role": "system", "content": "Be brief."}]
    assert conversation.session.position == 0
    assert conversation.stats is None


def test_the_system_message_can_change_and_go(demo: moeflux.Model) -> None:
    conversation = Conversation(demo, options=SHORT)
    answer(conversation, "Hello.")
    conversation.system = "Be long."
    assert conversation.messages[0] == {"role": "system", "content": "Be long."}
    answer(conversation, "Hello again.")
    assert "Be long." in demo.tokenizer.decode(conversation.session.tokens)
    conversation.system = None
    assert conversation.system is None
    assert [message["role"] for message in conversation.messages] == ["user", "assistant"] * 2


def test_a_message_that_does_not_fit_is_taken_back(demo: moeflux.Model) -> None:
    conversation = Conversation(demo, options=SHORT)
    answer(conversation, "Hello.")
    before = [dict(message) for message in conversation.messages]
    with pytest.raises(moeflux.ContextOverflowError, match="context of 1024 positions"):
        answer(conversation, "word " * 2000)
    assert conversation.messages == before
    assert answer(conversation, "Hello again.")


def test_few_checkpoints_are_kept(demo: moeflux.Model) -> None:
    conversation = Conversation(demo, options=SHORT)
    for number in range(module.MAX_CHECKPOINTS + 2):
        answer(conversation, f"Question {number}.")
    assert len(conversation.session.checkpoints) == module.MAX_CHECKPOINTS


def test_without_memory_for_checkpoints_the_conversation_goes_on(
    demo: moeflux.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation = Conversation(demo, options=SHORT)

    def full() -> int:
        raise SessionMemoryError("a checkpoint", 10, 5, 100)

    monkeypatch.setattr(conversation.session, "checkpoint", full)
    answer(conversation, "One.")
    answer(conversation, "Two.")
    assert conversation.session.checkpoints == ()
    assert conversation.stats is not None
    assert conversation.stats.n_kept == 0


def test_a_saved_conversation_goes_on_without_prefilling_it_again(
    demo: moeflux.Model, tmp_path: Path
) -> None:
    first = Conversation(demo, "Be brief.", SHORT)
    answer(first, "Write a function that reads a file, line by line.")
    first.save(tmp_path / "talk.json")
    second = Conversation(demo, options=SHORT)
    assert second.load(tmp_path / "talk.json") is None
    assert second.messages == first.messages
    assert answer(second, "Thanks.") == answer(first, "Thanks.")
    assert second.stats is not None
    assert second.stats.n_kept > 20
    assert second.messages == first.messages


def test_a_conversation_without_its_snapshot_is_prefilled(
    demo: moeflux.Model, tmp_path: Path
) -> None:
    first = Conversation(demo, options=SHORT)
    answer(first, "Write a function.")
    first.save(tmp_path / "talk.json")
    snapshot_path(tmp_path / "talk.json").write_bytes(b"other bytes")
    second = Conversation(demo, options=SHORT)
    error = second.load(tmp_path / "talk.json")
    assert isinstance(error, moeflux.SnapshotError)
    assert second.messages == first.messages
    assert answer(second, "Thanks.")
    assert second.stats is not None
    assert second.stats.n_kept == 0


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        '{"format": "moeflux conversation"}',
        '{"format": "moeflux conversation", "messages": [{"role": "user"}]}',
        '{"format": "moeflux conversation", "messages": [{"role": "user", "content": 3}]}',
        '{"format": "other", "messages": []}',
    ],
)
def test_a_file_that_is_no_conversation_changes_nothing(
    demo: moeflux.Model, tmp_path: Path, text: str
) -> None:
    conversation = Conversation(demo, "Be brief.", SHORT)
    (tmp_path / "talk.json").write_text(text)
    with pytest.raises(ConversationError, match="wanted a conversation saved by moeflux"):
        conversation.load(tmp_path / "talk.json")
    assert conversation.messages == [{"role": "system", "content": "Be brief."}]


def test_a_model_without_a_chat_template_cannot_talk(
    hybrid: moeflux.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hybrid.tokenizer, "chat_templates", {})
    with pytest.raises(moeflux.ChatTemplateError, match="no chat template"):
        Conversation(hybrid)
