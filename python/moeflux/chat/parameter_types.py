"""Values of XML parameters, which are text, as the types that a tool's JSON schema asks for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

_PYTHON_NAMES = {"True": True, "False": False, "None": None}
"""What templates write for these JSON values where they print them as they are."""

_ALL = frozenset({"string", "integer", "number", "boolean", "object", "array", "null"})
_MAX_DEPTH = 16
"""Of schemas within schemas that are looked into for their types."""


def converted(text: str, schema: object, definitions: Mapping[str, Any]) -> Any:
    """The JSON value that `text` spells if the schema allows one of its type, else the text.

    Without a type in the schema, only objects and arrays are taken for JSON.
    """
    types = schema_types(schema, definitions) or frozenset({"string", "object", "array"})
    if types == {"string"}:
        return text
    try:
        value = _PYTHON_NAMES[text] if text in _PYTHON_NAMES else _parsed(text)
    except (ValueError, RecursionError):
        return text
    return value if _type_names(value) & types else text


def schema_types(schema: object, definitions: Mapping[str, Any]) -> frozenset[str]:
    """Names of the JSON types that a schema allows; none if it does not say."""
    return _types(schema, definitions, _MAX_DEPTH)


def _types(schema: object, definitions: Mapping[str, Any], depth: int) -> frozenset[str]:
    if not isinstance(schema, Mapping) or depth == 0:
        return frozenset()
    named = schema.get("type")
    if isinstance(named, str):
        return frozenset({named}) & _ALL
    if isinstance(named, list):
        return frozenset(name for name in named if isinstance(name, str)) & _ALL
    reference = schema.get("$ref")
    if isinstance(reference, str):
        target = definitions.get(reference.rpartition("/")[2])
        return _types(target, definitions, depth - 1)
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list):
            found = (_types(choice, definitions, depth - 1) for choice in schema[key])
            return frozenset().union(*found)
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(values, list):
        return frozenset().union(*map(_type_names, values))
    return frozenset()


def _type_names(value: object) -> frozenset[str]:
    """The types of JSON schema that a value has: a whole number is an integer and a number."""
    if value is None:
        return frozenset({"null"})
    if isinstance(value, bool):
        return frozenset({"boolean"})
    if isinstance(value, int):
        return frozenset({"integer", "number"})
    if isinstance(value, float):
        return frozenset({"integer", "number"} if value.is_integer() else {"number"})
    if isinstance(value, str):
        return frozenset({"string"})
    return frozenset({"object" if isinstance(value, Mapping) else "array"})


def _parsed(text: str) -> Any:
    value = json.loads(text, parse_constant=_refuse)
    if isinstance(value, str):
        raise ValueError("a text stays as it is written")  # noqa: TRY004 - not about Python types
    json.dumps(value, allow_nan=False)
    return value


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
