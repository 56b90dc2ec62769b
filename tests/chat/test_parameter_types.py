"""Text of XML parameters as values of a JSON schema's types."""

from __future__ import annotations

from typing import Any

import pytest

from moeflux.chat.parameter_types import converted

DEFINITIONS = {"Count": {"type": "integer"}, "Loop": {"$ref": "#/$defs/Loop"}}


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"type": "string"}, "1", "1"),
        ({"type": "string"}, "null", "null"),
        ({"type": "integer"}, "1", 1),
        ({"type": "integer"}, "1.0", 1.0),
        ({"type": "integer"}, "1.5", "1.5"),
        ({"type": "number"}, "1", 1),
        ({"type": "number"}, "1e400", "1e400"),
        ({"type": "boolean"}, "true", True),
        ({"type": "boolean"}, "False", False),
        ({"type": "null"}, "None", None),
        ({"type": "object"}, '{"a": 1}', {"a": 1}),
        ({"type": "object"}, "[1]", "[1]"),
        ({"type": ["string", "null"]}, "null", None),
        ({"type": ["string", "null"]}, "nullable", "nullable"),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "7", 7),
        ({"oneOf": [{"type": "boolean"}, {"type": "array"}]}, "[]", []),
        ({"enum": [1, 2]}, "2", 2),
        ({"enum": ["1", "2"]}, "2", "2"),
        ({"const": True}, "true", True),
        ({"$ref": "#/$defs/Count"}, "5", 5),
        ({"$ref": "#/$defs/Loop"}, "5", "5"),
        ({"$ref": "#/$defs/Missing"}, "5", "5"),
        ({}, "5", "5"),
        ({}, '{"a": 1}', {"a": 1}),
        (None, "[1]", [1]),
        ({"type": "date"}, "5", "5"),
        (True, "5", "5"),
    ],
)
def test_text_becomes_a_value_of_the_schema_or_stays(schema: Any, text: str, value: Any) -> None:
    found = converted(text, schema, DEFINITIONS)
    assert found == value
    assert type(found) is type(value)
