"""The OpenAPI document: what FastAPI writes, with the errors and the model that there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


def describe(app: FastAPI, names: Callable[[], Sequence[str]]) -> None:
    """Make the application's document say which errors there are, and what the model is called."""
    write: Callable[[], dict[str, Any]] = app.openapi

    def written() -> dict[str, Any]:
        document = write()
        known = list(names())
        for path in document["paths"].values():
            for operation in path.values():
                _describe_errors(operation["responses"])
                for parameter in operation.get("parameters", ()):
                    _describe_model(parameter["schema"], known)
        schemas = document.get("components", {}).get("schemas", {})
        schemas.pop("HTTPValidationError", None)
        schemas.pop("ValidationError", None)
        for schema in schemas.values():
            model = schema.get("properties", {}).get("model")
            if model is not None:
                _describe_model(model, known)
            if known and "examples" in schema:
                schema["examples"] = [{"model": known[0]} | one for one in schema["examples"]]
        return document

    app.openapi = written  # type: ignore[method-assign]


def _describe_errors(responses: dict[str, Any]) -> None:
    responses.pop("422", None)
    for status, text in _ERRORS.items():
        responses.setdefault(status, {"description": text})


def _describe_model(schema: dict[str, Any], names: list[str]) -> None:
    """The names that a model has, once it is loaded; every parameter there is names a model."""
    if names:
        schema["enum"] = [*names, None] if "anyOf" in schema else names
