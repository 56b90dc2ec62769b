"""Splits generated text into reasoning, content and tool calls while it comes in.

What comes out does not depend on how the text was cut into pieces: what may still turn out to
belong to a tag or to a call is held back. A call comes whole or, where the text spells none, as the
content that it is. Blank text around reasoning and calls is the template's, not the answer's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moeflux.chat.answer_style import (
    CLOSE_CALL,
    CLOSE_REASONING,
    OPEN_CALL,
    OPEN_REASONING,
    AnswerStyle,
)
from moeflux.chat.parts import Content, Part, Reasoning, ToolCall, joined
from moeflux.chat.tool_calls import MalformedCallError, ToolCallReader, UnfinishedCallError


class AnswerParser:
    """Text in, parts out. Neighbouring texts of one kind belong together."""

    def __init__(
        self,
        style: AnswerStyle,
        *,
        starts_in_reasoning: bool,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Without `tools` nothing is taken for a call.

        starts_in_reasoning: the prompt has opened the reasoning already.
        """
        calls = style.calls if tools else None
        self._reader = ToolCallReader(calls, tools) if calls is not None else None
        self._buffer = ""
        self._parts: list[Part] = []
        self._drops_blank = starts_in_reasoning
        """Blank text is the template's until the next character that is not."""
        self._n_searched = 0
        """Characters of an open call without a closing tag that ends it."""
        if starts_in_reasoning:
            self._step = self._in_reasoning
        else:
            self._step = self._at_start if style.reasoning else self._in_content

    @property
    def in_reasoning(self) -> bool:
        """Whether what follows is reasoning, as far as the text until now tells."""
        return self._step == self._in_reasoning

    def feed(self, text: str) -> list[Part]:
        """What further text completes."""
        self._buffer += text
        return self._take(final=False)

    def finish(self) -> list[Part]:
        """What was held back, once it is known that no text follows."""
        return self._take(final=True)

    def _take(self, *, final: bool) -> list[Part]:
        while self._step(final=final):
            pass
        parts, self._parts = joined(self._parts), []
        return parts

    def _at_start(self, *, final: bool) -> bool:
        text = self._buffer.lstrip()
        if text.startswith(OPEN_REASONING):
            self._buffer = text.removeprefix(OPEN_REASONING)
            self._drops_blank = True
            self._step = self._in_reasoning
            return True
        if OPEN_REASONING.startswith(text) and not final:
            return False
        self._step = self._in_content
        return True

    def _in_reasoning(self, *, final: bool) -> bool:
        before, closing, after = self._buffer.partition(CLOSE_REASONING)
        if closing:
            self._emit(Reasoning(self._without_lead(before.rstrip())))
            self._buffer, self._drops_blank = after, True
            self._step = self._in_content
            return True
        n_certain = len(before) if final else _n_certain(before, CLOSE_REASONING)
        n_certain = len(before[:n_certain].rstrip())
        self._emit(Reasoning(self._without_lead(before[:n_certain])))
        self._buffer = "" if final else before[n_certain:]
        return False

    def _in_content(self, *, final: bool) -> bool:
        place = self._buffer.find(OPEN_CALL) if self._reader is not None else -1
        if place < 0:
            n_certain = len(self._buffer)
            if self._reader is not None and not final:
                n_certain = len(self._buffer[: _n_certain(self._buffer, OPEN_CALL)].rstrip())
            self._emit_content(n_certain)
            return False
        n_text = len(self._buffer[:place].rstrip())
        self._emit_content(n_text)
        self._n_searched = place - n_text + len(OPEN_CALL)
        self._step = self._in_call
        return True

    def _in_call(self, *, final: bool) -> bool:
        """The buffer is blank text, the opening tag, and what followed."""
        assert self._reader is not None
        start = self._buffer.find(OPEN_CALL) + len(OPEN_CALL)
        end = self._buffer.find(CLOSE_CALL, self._n_searched)
        if end < 0 and not final:
            self._n_searched = max(start, len(self._buffer) - len(CLOSE_CALL) + 1)
            return False
        self._step = self._in_content
        if end < 0:
            self._emit_content(start)
            return True
        try:
            call = self._reader.read(self._buffer[start:end])
        except UnfinishedCallError:
            self._n_searched = end + 1
            self._step = self._in_call
        except MalformedCallError:
            self._emit_content(start)
        else:
            self._emit(call)
            self._buffer, self._drops_blank = self._buffer[end + len(CLOSE_CALL) :], True
        return True

    def _emit_content(self, n_characters: int) -> None:
        text, self._buffer = self._buffer[:n_characters], self._buffer[n_characters:]
        self._emit(Content(self._without_lead(text)))

    def _without_lead(self, text: str) -> str:
        if not self._drops_blank:
            return text
        text = text.lstrip()
        self._drops_blank = not text
        return text

    def _emit(self, part: Part) -> None:
        if isinstance(part, ToolCall) or part.text:
            self._parts.append(part)


def _n_certain(text: str, tag: str) -> int:
    """Characters of `text` before an end that may be the beginning of the tag."""
    for length in range(min(len(text), len(tag) - 1), 0, -1):
        if text.endswith(tag[:length]):
            return len(text) - length
    return len(text)
