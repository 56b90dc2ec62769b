"""A conversation with a model: messages, and the one session that has seen them.

Knows no terminal and no HTTP.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from moeflux.chat import (
    AnswerParser,
    AnswerStyle,
    Content,
    Part,
    Reasoning,
    starts_in_reasoning,
)
from moeflux.checkpoint.convert_files import write_file
from moeflux.checkpoint.json_file import read_object
from moeflux.engine.account import Account
from moeflux.engine.events import Event, FinishReason, PrefillProgress
from moeflux.engine.model import Model
from moeflux.engine.receipt import GenerationStats
from moeflux.engine.request import RequestOptions
from moeflux.engine.session import Session
from moeflux.engine.state_budget import SessionMemoryError
from moeflux.errors import MoefluxError, SnapshotError, TruncationError

FORMAT = "moeflux conversation"
SNAPSHOT_SUFFIX = ".snapshot"
MAX_CHECKPOINTS = 4
"""Ends of turns that the session can go back to without prefilling: as many undone turns."""

Message = dict[str, str]
Answer = Generator[Part | PrefillProgress, None, None]
"""Parts as they come; closed before its end, the rest is never computed."""


class ConversationError(MoefluxError):
    """A file that is no saved conversation."""


@dataclass(frozen=True)
class TurnStats:
    """What an answer cost."""

    n_kept: int
    """Tokens of the prompt that the session had seen."""
    n_prefilled: int
    """The other tokens of the prompt."""
    prefill_seconds: float
    bytes_read: int
    """Of experts, for prompt and answer."""
    finish_reason: FinishReason | None
    """None where the answer was stopped."""
    generation: GenerationStats
    """Of the end of the prompt and of the answer."""

    @property
    def prefill_tokens_per_second(self) -> float:
        return self.n_prefilled / self.prefill_seconds if self.prefill_seconds > 0 else 0.0


class Conversation:
    """Ask for answers; what the session has seen of the conversation is not prefilled again.

    messages: role, content and, of answers, reasoning_content. stats: of the last answer.
    """

    def __init__(
        self,
        model: Model,
        system: str | None = None,
        options: RequestOptions | None = None,
    ) -> None:
        """`options`: those of Model.request, for every answer.

        Raises ChatTemplateError without a template, SessionMemoryError as Model.session.
        """
        self._model = model
        self._chat_template = model.chat_template
        self._style = AnswerStyle.of(model.tokenizer)
        self._session = model.session()
        self._options = options.copy() if options is not None else RequestOptions()
        self.template: dict[str, Any] = dict(self._options.pop("template", None) or {})
        """Variables of the chat template."""
        self.messages: list[Message] = []
        self.stats: TurnStats | None = None
        self.system = system

    @property
    def session(self) -> Session:
        """The session that has seen the conversation so far."""
        return self._session

    @property
    def system(self) -> str | None:
        """The system message, which may change at any time."""
        if self.messages and self.messages[0]["role"] == "system":
            return self.messages[0]["content"]
        return None

    @system.setter
    def system(self, text: str | None) -> None:
        if self.system is not None:
            del self.messages[0]
        if text:
            self.messages.insert(0, {"role": "system", "content": text})

    def ask(self, text: str) -> Answer:
        """Add a message, and the answer to it part by part.

        Closed before its end, what has come of the answer stays. After an error the message is
        taken back. Raises ChatTemplateError, ContextOverflowError, ReadError.
        """
        n_before = len(self.messages)
        self.messages.append({"role": "user", "content": text})
        parts: list[Part] = []
        try:
            for part in self._answer():
                if not isinstance(part, PrefillProgress):
                    parts.append(part)
                yield part
        except Exception:
            del self.messages[n_before:]
            raise
        finally:
            if len(self.messages) > n_before:
                self.messages.append(_answer_message(parts))

    def undo(self) -> str | None:
        """Take the last message and its answer back; returns the message, None without one."""
        for index in reversed(range(len(self.messages))):
            if self.messages[index]["role"] == "user":
                text = self.messages[index]["content"]
                del self.messages[index:]
                return text
        return None

    def reset(self) -> None:
        """Forget everything but the system message."""
        self.messages = self.messages[: 1 if self.system is not None else 0]
        self.stats = None
        self._session.reset()

    def save(self, path: Path) -> None:
        """Write the messages to `path`, and the session's snapshot beside it.

        Raises OSError, ConversionError and as Session.save.
        """
        values = {"format": FORMAT, "messages": self.messages, "template": self.template}
        write_file(path, json.dumps(values, indent=1, ensure_ascii=False).encode() + b"\n")
        # Back to where the next message goes on: a restored session has no other checkpoint.
        self._go_back(self._encode([*self.messages, {"role": "user", "content": "?"}]))
        self._session.save(snapshot_path(path))

    def load(self, path: Path) -> SnapshotError | None:
        """Go on with a saved conversation in place of this one.

        Returns why the snapshot beside it cannot be used, if so: then the next answer prefills the
        conversation. Raises CheckpointError and ConversationError for the file itself.
        """
        values = read_object(path)
        messages, template = values.get("messages"), values.get("template")
        if values.get("format") != FORMAT or not _are_messages(messages):
            raise ConversationError(f"{path}: wanted a conversation saved by moeflux")
        self.messages = [dict(message) for message in messages]
        self.template = dict(template) if isinstance(template, dict) else {}
        self.stats = None
        size = self._session.context_size
        # There may be memory for one session only.
        del self._session
        try:
            self._session = self._model.restore(snapshot_path(path), size)
        except SnapshotError as error:
            self._session = self._model.session(size)
            return error
        except BaseException:
            self._session = self._model.session(size)
            raise
        return None

    def _answer(self) -> Answer:
        session, prompt = self._session, self._encode(self.messages)
        n_kept = self._go_back(prompt)
        # The next prompt goes on from the end of this message, where reasoning is left out of it.
        question = self._encode(self.messages, add_generation_prompt=False)
        turn_end = min(_n_common(prompt, question), len(prompt) - 1)
        account, seconds = Account(), 0.0
        if session.position < turn_end:
            chunks = session.prefill_chunks(prompt[session.position : turn_end])
            while True:
                started, session.account = time.perf_counter(), account
                n_done = next(chunks, None)
                session.account = None
                seconds += time.perf_counter() - started
                if n_done is None:
                    break
                yield PrefillProgress(n_kept + n_done, n_kept, len(prompt))
            self._remember()
        first = session.position
        request = self._model.request(prompt[first:], **self._options)
        generation = self._model.begin(request, session)
        parser = AnswerParser(
            self._style, starts_in_reasoning=starts_in_reasoning(self._model.tokenizer, prompt)
        )
        finish_reason: FinishReason | None = None
        try:
            while (unit := generation.advance()) is not None:
                if isinstance(unit, Event):
                    finish_reason = unit.finish_reason
                    yield from parser.feed(unit.text)
                else:
                    yield PrefillProgress(first + unit.n_done, n_kept, len(prompt))
            yield from parser.finish()
        finally:
            generation.close()
            stats = generation.stats
            n_read = account.spent.stream.bytes_read if account.spent is not None else 0
            self.stats = TurnStats(
                n_kept=n_kept,
                n_prefilled=len(prompt) - n_kept,
                prefill_seconds=seconds + stats.prefill_seconds,
                bytes_read=n_read + stats.bytes_read,
                finish_reason=finish_reason,
                generation=stats,
            )

    def _encode(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = True
    ) -> list[int]:
        return self._chat_template.encode(
            messages, add_generation_prompt=add_generation_prompt, **self.template
        )

    def _go_back(self, prompt: Sequence[int]) -> int:
        """To the longest prefix of the prompt that the session can have; returns its length."""
        session = self._session
        position = min(_n_common(session.tokens, prompt), len(prompt) - 1)
        try:
            session.truncate(position, prefill=False)
        except TruncationError as error:
            session.rewind(error.nearest)
        return session.position

    def _remember(self) -> None:
        """A checkpoint here, in place of the oldest where there are too many or no memory."""
        session = self._session
        while len(session.checkpoints) >= MAX_CHECKPOINTS:
            session.drop_checkpoint(session.checkpoints[0])
        while True:
            try:
                session.checkpoint()
            except SessionMemoryError:
                # Without one the next turn prefills what it could have gone back to.
                if not session.checkpoints:
                    return
                session.drop_checkpoint(session.checkpoints[0])
            else:
                return


def snapshot_path(path: Path) -> Path:
    """Where the snapshot of a conversation saved to `path` is."""
    return path.with_name(path.name + SNAPSHOT_SUFFIX)


def _answer_message(parts: Sequence[Part]) -> Message:
    content = "".join(part.text for part in parts if isinstance(part, Content))
    reasoning = "".join(part.text for part in parts if isinstance(part, Reasoning))
    message = {"role": "assistant", "content": content}
    return message | ({"reasoning_content": reasoning} if reasoning else {})


def _are_messages(values: object) -> TypeGuard[list[Message]]:
    return isinstance(values, list) and all(
        isinstance(message, dict)
        and {"role", "content"} <= message.keys()
        and all(isinstance(text, str) for text in message.values())
        for message in values
    )


def _n_common(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    for index, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return index
    return min(len(first), len(second))
