"""Tools that a request offers, and which of them an answer calls: one form for every API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from moeflux.server.errors import refused
from moeflux.server.request_fields import ApiFields, Text

MAX_TOOLS = 512

ToolName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]


def _checked(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema of arguments whose parts have the types that those who read it rely on."""
    kinds = {"properties": dict, "required": list, "$defs": dict, "definitions": dict}
    wrong = [key for key, kind in kinds.items() if not isinstance(schema.get(key) or kind(), kind)]
    if not wrong:
        properties = schema.get("properties") or {}
        wrong = [
            f"the enum of {name}"
            for name, found in properties.items()
            if isinstance(found, dict) and not isinstance(found.get("enum", []), list)
        ]
    if wrong:
        raise ValueError(f"{wrong[0]} is not what JSON schema wants there")
    return schema


JsonSchema = Annotated[dict[str, Any], AfterValidator(_checked)]

Choice = Literal["auto", "none", "required", "named"]


class FunctionFields(ApiFields):
    """A function as OpenAI's requests describe it."""

    name: ToolName
    description: Text | None = None
    parameters: JsonSchema | None = None


@dataclass(frozen=True)
class ToolOffer:
    """What an answer may call, and whether it must."""

    functions: Sequence[FunctionFields] = ()
    choice: Choice = "auto"
    name: str | None = None
    """Of the one to call, with "named"."""
    parallel: bool = True
    """Whether an answer may have more than one call."""

    def checked(self, param: str = "tool_choice") -> ToolOffer:
        """The same. Raises ApiError (400) for a choice that the functions do not allow."""
        names = [function.name for function in self.functions]
        if doubled := {name for name in names if names.count(name) > 1}:
            raise refused("tools", f"two tools have the name {min(doubled)!r}")
        if self.choice in ("required", "named") and not names:
            raise refused(param, "a call is wanted, but there are no tools")
        if self.choice == "named" and self.name not in names:
            raise refused(param, f"there is no tool {self.name!r}")
        return self

    @property
    def must_call(self) -> bool:
        return self.choice in ("required", "named")

    def callable(self) -> list[Mapping[str, Any]]:
        """The tools that the answer may call, as chat templates take them."""
        if self.choice == "none":
            return []
        chosen = [f for f in self.functions if self.name is None or f.name == self.name]
        return [_described(function) for function in chosen]

    def shown(self) -> list[Mapping[str, Any]]:
        """The tools that the prompt tells of: none if none may be called."""
        return [] if self.choice == "none" else [_described(f) for f in self.functions]


def _described(function: FunctionFields) -> dict[str, Any]:
    parameters = function.parameters or {"type": "object", "properties": {}}
    described: dict[str, Any] = {"name": function.name}
    if function.description is not None:
        described["description"] = function.description
    return {"type": "function", "function": described | {"parameters": parameters}}
