"""What was wrong with a request's fields, in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi.exceptions import RequestValidationError

from moeflux.server.errors import ApiError

_MAX_INPUT = 100
"""Characters of a wrong value that are repeated."""


def validation_error(error: RequestValidationError) -> ApiError:
    """The first field that is wrong; a missing body is told as such."""
    wrong: Mapping[str, Any] = error.errors()[0]
    place = [str(part) for part in wrong["loc"][1:]]
    if not place:
        message = "the body must be a JSON object, with content-type application/json"
        return ApiError(400, message, code="invalid_json")
    field = ".".join(place)
    message = f"{field}: {wrong['msg']}"
    if wrong["type"] != "missing":
        message += f", got {_shown(wrong.get('input'))}"
    return ApiError(400, message, field, wrong["type"])


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= _MAX_INPUT else f"{text[:_MAX_INPUT]}..."
