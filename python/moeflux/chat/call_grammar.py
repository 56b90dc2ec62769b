"""A grammar whose texts are tool calls, in the Lark variant of llguidance. Compiles nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from moeflux.chat.answer_style import CLOSE_CALL, OPEN_CALL, CallStyle
from moeflux.chat.parameter_types import schema_types
from moeflux.chat.tool_calls import function_of
from moeflux.tokenizer import Tokenizer

MAX_CALLS = 32
"""Of one answer."""

_GUIDANCE = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "coerce_one_of": True,
    "lenient": False,
}
"""JSON as chat templates write it, of oneOf schemas any, and nothing that is not enforced."""


def call_grammar(
    style: CallStyle,
    tools: Sequence[Mapping[str, Any]],
    tokenizer: Tokenizer,
    *,
    parallel: bool,
    answer: str | None = None,
) -> str:
    """Calls of these tools, each of arguments that fit its JSON schema.

    parallel: more than one. answer: the right side of a rule, for texts that need no call.
    """
    functions = [function_of(tool) for tool in tools]
    write = _json_rules if style == "json" else _xml_rules
    more = f' ("\\n" call){{0,{MAX_CALLS - 1}}}' if parallel else ""
    names = " | ".join(f"call_{n}" for n in range(len(functions)))
    opening, closing = (_tag(tag, tokenizer) for tag in (OPEN_CALL, CLOSE_CALL))
    rules = [
        f"start: calls{'' if answer is None else ' | answer'}",
        f"calls: call{more}",
        f'call: {opening} "\\n" ({names}) "\\n" {closing}',
    ]
    for n, function in enumerate(functions):
        rules += write(f"call_{n}", function["name"], function.get("parameters") or {})
    if answer is not None:
        rules.append(f"answer: {answer}")
    return "\n".join(rules) + "\n"


def json_rule(schema: Mapping[str, Any]) -> str:
    """The right side of a rule for JSON of a schema, written as chat templates do."""
    return f"%json {json.dumps({**schema, 'x-guidance': _GUIDANCE})}"


def _json_rules(rule: str, name: str, parameters: Mapping[str, Any]) -> Iterator[str]:
    schema = {
        "type": "object",
        "properties": {"name": {"const": name}, "arguments": _closed(parameters)},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }
    yield f"{rule}: {json_rule(schema | _definitions(parameters))}"


def _xml_rules(rule: str, name: str, parameters: Mapping[str, Any]) -> Iterator[str]:
    """One rule for each parameter; those that are not required may be left out."""
    properties: Mapping[str, Any] = parameters.get("properties") or {}
    required = parameters.get("required") or ()
    definitions = _definitions(parameters)
    uses = []
    for n, (key, schema) in enumerate(properties.items()):
        part = f"{rule}_{n}"
        uses.append(part if key in required else f"{part}?")
        opening, closing = json.dumps(f"<parameter={key}>\n"), '"\\n</parameter>\\n"'
        types = schema_types(schema, definitions.get("$defs") or {})
        if types == {"string"} and not {"enum", "const"} & schema.keys():
            yield f"{part}: {opening} {part}_text"
            yield f"{part}_text[suffix={closing}]: /(?s:.*)/"
        elif types == {"string"}:
            values = [schema["const"]] if "const" in schema else schema["enum"]
            yield f"{part}: {opening} ({' | '.join(map(json.dumps, values))}) {closing}"
        else:
            closed = schema if isinstance(schema, Mapping) else {}
            yield f"{part}: {opening} {part}_value {closing}"
            yield f"{part}_value: {json_rule({**closed, **definitions})}"
    yield f'{rule}: {json.dumps(f"<function={name}>")} "\\n" {" ".join(uses)} "</function>"'


def _closed(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of the arguments, without the definitions, which go to the root.

    Properties that it does not name are left out unless it speaks of them.
    """
    rest = {key: value for key, value in parameters.items() if key not in _definitions(parameters)}
    if rest.get("properties"):
        rest.setdefault("additionalProperties", False)
    return rest | {"type": "object"}


def _definitions(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {key: parameters[key] for key in ("$defs", "definitions") if key in parameters}


def _tag(tag: str, tokenizer: Tokenizer) -> str:
    """A control token where the tokenizer has one of this spelling, else its text."""
    return tag if tag in tokenizer.control_tokens else json.dumps(tag)
