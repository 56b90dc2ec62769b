"""The form that a request wants its answer in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

FormatKind = Literal["text", "json_schema", "regex"]


@dataclass(frozen=True)
class AnswerFormat:
    """Text of any form, JSON that fits a schema, or text that matches a pattern."""

    kind: FormatKind = "text"
    schema: dict[str, Any] | None = None
    pattern: str | None = None


FREE = AnswerFormat()
ANY_OBJECT = AnswerFormat("json_schema", {"type": "object"})
