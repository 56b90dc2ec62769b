"""What an answer consists of. Knows no text that spells it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reasoning:
    """Text that the model thought before it answered."""

    text: str


@dataclass(frozen=True)
class Content:
    """Text of the answer itself."""

    text: str


@dataclass(frozen=True)
class ToolCall:
    """A call of a tool that was offered; `arguments` is the text of a JSON object."""

    name: str
    arguments: str


Part = Reasoning | Content | ToolCall


def joined(parts: list[Part]) -> list[Part]:
    """The same answer with neighbouring texts of one kind in one part."""
    whole: list[Part] = []
    for part in parts:
        last = whole[-1] if whole else None
        if isinstance(last, Reasoning) and isinstance(part, Reasoning):
            whole[-1] = Reasoning(last.text + part.text)
        elif isinstance(last, Content) and isinstance(part, Content):
            whole[-1] = Content(last.text + part.text)
        else:
            whole.append(part)
    return whole
