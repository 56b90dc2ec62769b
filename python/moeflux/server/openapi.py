"""The OpenAPI document: what FastAPI writes, with the errors that this server really sends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI

_ERRORS = {
    "400": "A field is wrong, or the context does not hold the prompt.",
    "401": "An API key is missing or wrong.",
    "404": "There is no such model.",
    "408": "The body did not arrive in time.",
    "413": "The body is too large.",
    "429": "The queue is full.",
    "500": "The server failed.",
    "503": "The model is being loaded, or the server shuts down.",
}


def describe(app: FastAPI) -> None:
    """Make the application's document say which errors there are."""
    write: Callable[[], dict[str, Any]] = app.openapi

    def written() -> dict[str, Any]:
        document = write()
        for path in document["paths"].values():
            for operation in path.values():
                responses = operation["responses"]
                responses.pop("422", None)
                for status, text in _ERRORS.items():
                    responses.setdefault(status, {"description": text})
        schemas = document.get("components", {}).get("schemas", {})
        schemas.pop("HTTPValidationError", None)
        schemas.pop("ValidationError", None)
        return document

    app.openapi = written  # type: ignore[method-assign]
