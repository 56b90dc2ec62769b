"""JSON of requests: what any later step can handle, or a refusal. Knows no fields."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from moeflux.server.errors import ApiError

MAX_DEPTH = 64
"""Of arrays and objects within each other."""

# Strings go first, so that brackets within them do not count.
_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")


def parse_request(body: bytes) -> Any:
    """The value of a JSON text.

    Raises ApiError (400) for bad UTF-8, bad JSON, NaN, infinities, numbers too long to read, lone
    surrogates, and nesting beyond MAX_DEPTH.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise _refusal(f"byte {error.start} is not UTF-8") from error
    if _depth(body) > MAX_DEPTH:
        raise _refusal(f"nested more than {MAX_DEPTH} deep")
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except ValueError as error:
        raise _refusal(str(error)) from error
    _check_texts(value)
    return value


def _depth(body: bytes) -> int:
    depth = deepest = 0
    for token in _TOKENS.finditer(body):
        first = token[0][:1]
        if first in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif first in b"]}":
            depth -= 1
    return deepest


def _check_texts(value: object) -> None:
    """Refuse halves of characters, which no encoder takes."""
    open_values = [value]
    while open_values:
        found = open_values.pop()
        if isinstance(found, str):
            if _SURROGATE.search(found):
                raise _refusal("a text has half of a surrogate pair")
        elif isinstance(found, dict):
            open_values += [*found.keys(), *found.values()]
        elif isinstance(found, list):
            open_values += found


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text[:40]} is too large")
    return number


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _refusal(reason: str) -> ApiError:
    return ApiError(400, f"the request's body is no valid JSON: {reason}", code="invalid_json")
