"""How the answers of a checkpoint are written, read from its chat template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from moeflux.tokenizer import Tokenizer

OPEN_REASONING, CLOSE_REASONING = "<think>", "</think>"
OPEN_CALL, CLOSE_CALL = "<tool_call>", "</tool_call>"

CallStyle = Literal["json", "xml"]


@dataclass(frozen=True)
class AnswerStyle:
    """Which parts an answer can have besides text.

    reasoning: text between <think> and </think> comes first.
    calls: between <tool_call> and </tool_call> a JSON object with name and arguments ("json"), or
        <function=name> with <parameter=name> for each argument ("xml"); None for no calls.
    """

    reasoning: bool = False
    calls: CallStyle | None = None

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> AnswerStyle:
        """The style that the checkpoint's chat templates write."""
        source = "".join(tokenizer.chat_templates.values())
        calls: CallStyle | None = None
        if OPEN_CALL in source:
            calls = "xml" if "<function=" in source else "json"
        return cls(CLOSE_REASONING in source, calls)


def starts_in_reasoning(tokenizer: Tokenizer, prompt_ids: Sequence[int]) -> bool:
    """Whether a prompt ends with <think> and blank text: the answer begins inside reasoning.

    Goes by the control token, so that text of users that spells it does not count.
    """
    opening = tokenizer.control_tokens.get(OPEN_REASONING)
    for token_id in reversed(prompt_ids):
        if token_id == opening:
            return True
        if tokenizer.token_bytes(token_id).strip():
            return False
    return False
