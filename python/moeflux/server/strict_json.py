"""JSON of requests: what any later step can handle, or a refusal. Knows no fields."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, NoReturn

from moeflux.server.errors import ApiError

MAX_DEPTH = 64
"""Of arrays and objects within each other."""

_SURROGATE = re.compile("[\ud800-\udfff]")


def parse_request(body: bytes) -> Any:
    """The value of a JSON text, in time that grows with its length.

    Raises ApiError (400) for bad UTF-8, and for what parse_text refuses.
    """
    try:
        return parse_text(body.decode())
    except UnicodeDecodeError as error:
        raise _refusal(f"byte {error.start} is not UTF-8") from error
    except ValueError as error:
        raise _refusal(str(error)) from error


def parse_text(text: str) -> Any:
    """The value of a JSON text.

    Raises ValueError for bad JSON, NaN, infinities, numbers too long to read, lone surrogates, and
    nesting beyond MAX_DEPTH.
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError as error:
        raise _too_deep() from error
    # Halves of characters, which no encoder takes, can only come from escapes.
    _check(value, texts="\\u" in text)
    return value


def _check(value: object, *, texts: bool) -> None:
    """Level by level, as recursion would have the depth for its limit."""
    level, depth = [value], 0
    while level:
        if texts and any(isinstance(one, str) and _SURROGATE.search(one) for one in level):
            raise ValueError("a text has half of a surrogate pair")
        if depth == MAX_DEPTH and any(isinstance(one, dict | list) for one in level):
            raise _too_deep()
        level = [child for one in level for child in _children(one, texts=texts)]
        depth += 1


def _children(value: object, *, texts: bool) -> Iterable[object]:
    """What a value holds; where texts do not matter, only what may hold more."""
    if isinstance(value, dict):
        found: Iterable[object] = [*value.keys(), *value.values()] if texts else value.values()
    elif isinstance(value, list):
        found = value
    else:
        return ()
    return found if texts else [one for one in found if isinstance(one, dict | list)]


def _too_deep() -> ValueError:
    return ValueError(f"nested more than {MAX_DEPTH} deep")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text[:40]} is too large")
    return number


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _refusal(reason: str) -> ApiError:
    return ApiError(400, f"the request's body is no valid JSON: {reason}", code="invalid_json")
