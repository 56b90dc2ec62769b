"""The constraint on an answer's tokens that its form and its tool calls ask for."""

from __future__ import annotations

from moeflux.chat.answer_style import CLOSE_REASONING
from moeflux.chat.call_grammar import call_grammar, json_rule
from moeflux.engine.constraint import Constraint
from moeflux.errors import ConstraintError
from moeflux.server.answer_format import AnswerFormat
from moeflux.server.errors import refused
from moeflux.server.reasoning_first import ReasoningFirst
from moeflux.server.served_model import Prompt, ServedModel
from moeflux.server.tool_fields import ToolOffer

MAX_GRAMMAR = 2**17
"""Characters of schemas, which take long to compile."""


def answer_constraint(
    served: ServedModel, offer: ToolOffer, answer_format: AnswerFormat, prompt: Prompt
) -> Constraint | None:
    """None if every answer will do. Raises ApiError (400) for what cannot be enforced.

    With a form and tools that may be called, an answer has the form or is a call.
    """
    if not offer.must_call and answer_format.kind == "text":
        return None
    try:
        constraint = _constraint(served, offer, answer_format)
    except ConstraintError as error:
        reason = str(error).partition("\n")[0]
        raise refused("tools" if offer.must_call else "response_format", reason) from error
    if not prompt.in_reasoning:
        return constraint
    return ReasoningFirst(constraint, served.tokenizer, CLOSE_REASONING)


def _constraint(served: ServedModel, offer: ToolOffer, answer_format: AnswerFormat) -> Constraint:
    grammars = served.grammars()
    tokenizer, tools, style = served.tokenizer, offer.callable(), served.style.calls
    if tools and style is not None:
        answer = None
        if not offer.must_call:
            answer = _answer_rule(answer_format)
        lark = call_grammar(style, tools, tokenizer, parallel=offer.parallel, answer=answer)
        return grammars.grammar(_bounded(lark))
    if answer_format.pattern is not None:
        return grammars.regex(answer_format.pattern)
    return grammars.grammar(_bounded(f"start: {json_rule(answer_format.schema or {})}"))


def _bounded(lark: str) -> str:
    if len(lark) > MAX_GRAMMAR:
        raise ConstraintError(f"schemas of {len(lark)} characters, {MAX_GRAMMAR} are the limit")
    return lark


def _answer_rule(answer_format: AnswerFormat) -> str:
    if answer_format.pattern is not None:
        escaped = answer_format.pattern.replace("/", "\\/").replace("\n", "\\n")
        return f"/{escaped}/"
    return json_rule(answer_format.schema or {})
