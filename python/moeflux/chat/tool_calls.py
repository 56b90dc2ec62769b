"""Reads the text of one tool call. Knows both spellings and the tools on offer, no stream."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from moeflux.chat.answer_style import CallStyle
from moeflux.chat.parameter_types import converted
from moeflux.chat.parts import ToolCall

_OPEN_FUNCTION, _CLOSE_FUNCTION = "<function=", "</function>"
_OPEN_PARAMETER, _CLOSE_PARAMETER = "<parameter=", "</parameter>"


class MalformedCallError(ValueError):
    """The text is no call of a tool on offer, whatever follows."""


class UnfinishedCallError(ValueError):
    """The text ends inside a value, so that its closing tag belongs to the value."""


class ToolCallReader:
    """Turns the text between the tags of a tool call into a call."""

    def __init__(self, style: CallStyle, tools: Sequence[Mapping[str, Any]]) -> None:
        """`tools`: functions, each bare or as {"type": "function", "function": ...}."""
        self._read = self._read_json if style == "json" else self._read_xml
        functions = [function_of(tool) for tool in tools]
        self._schemas = {
            function["name"]: function.get("parameters") or {} for function in functions
        }

    def read(self, text: str) -> ToolCall:
        """The call that `text` spells. Raises MalformedCallError, UnfinishedCallError."""
        name, arguments = self._read(text.strip())
        if name not in self._schemas:
            raise MalformedCallError(f"no tool {name!r} is on offer")
        try:
            return ToolCall(name, _json_text(arguments))
        except ValueError as error:
            raise MalformedCallError(f"arguments of {name!r}: {error}") from error

    def _read_json(self, text: str) -> tuple[str, dict[str, Any]]:
        try:
            call = json.loads(text, parse_constant=_refuse_constant, strict=False)
        except json.JSONDecodeError as error:
            if error.msg.startswith("Unterminated string"):
                raise UnfinishedCallError(str(error)) from error
            raise MalformedCallError(str(error)) from error
        except (ValueError, RecursionError) as error:
            raise MalformedCallError(str(error)) from error
        name = call.get("name") if isinstance(call, dict) else None
        arguments = call.get("arguments", {}) if isinstance(call, dict) else None
        if not isinstance(name, str) or not isinstance(arguments, dict):
            raise MalformedCallError("wanted an object with name and arguments")
        return name, arguments

    def _read_xml(self, text: str) -> tuple[str, dict[str, Any]]:
        name, place = _tag_name(text, 0, _OPEN_FUNCTION)
        properties = self._schemas.get(name, {}).get("properties") or {}
        definitions = self._schemas.get(name, {}).get("$defs") or {}
        arguments: dict[str, Any] = {}
        while not text.startswith(_CLOSE_FUNCTION, place := _skip_blank(text, place)):
            parameter, place = _tag_name(text, place, _OPEN_PARAMETER)
            end, follower = _value_end(text, place)
            value = text[place:end].removeprefix("\n").removesuffix("\n")
            arguments[parameter] = converted(value, properties.get(parameter), definitions)
            place = follower
        if text[place + len(_CLOSE_FUNCTION) :].strip():
            raise MalformedCallError("text follows the function")
        return name, arguments


def function_of(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """The description of a tool's function: name, description, parameters (a JSON schema)."""
    function: Mapping[str, Any] = tool.get("function", tool)
    return function


def _tag_name(text: str, place: int, opening: str) -> tuple[str, int]:
    """The name in a tag like <function=name> and where the tag ends."""
    end = text.find(">", place)
    if not text.startswith(opening, place) or end < 0:
        raise MalformedCallError(f"wanted {opening}name> at character {place}")
    return text[place + len(opening) : end].strip(), end + 1


def _value_end(text: str, place: int) -> tuple[int, int]:
    """Where a value ends, and where the tag after its closing tag begins.

    A closing tag that no other tag of the call follows is part of the value.
    """
    follower = place
    end = text.find(_CLOSE_PARAMETER, place)
    while end >= 0:
        follower = _skip_blank(text, end + len(_CLOSE_PARAMETER))
        if text.startswith((_OPEN_PARAMETER, _CLOSE_FUNCTION), follower):
            return end, follower
        end = text.find(_CLOSE_PARAMETER, end + 1)
    if follower == len(text):
        raise MalformedCallError("the function is not closed")
    raise UnfinishedCallError("the text ends inside a parameter")


def _skip_blank(text: str, place: int) -> int:
    while place < len(text) and text[place].isspace():
        place += 1
    return place


def _json_text(value: object) -> str:
    """JSON that any reader takes: no NaN, no infinity, lone surrogates only as escapes."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False)
    return text


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
