"""The jinja2 environment that chat templates expect: that of transformers, in a sandbox."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

MARK_VARIABLE = "__mark__"
"""The variable with the character that marks text of users."""


class _Generation(Extension):
    """{% generation %} ... {% endgeneration %}: marks answers for training."""

    tags = {"generation"}  # noqa: RUF012 - declared as an instance variable by jinja2

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def environment(now: Callable[[], datetime]) -> jinja2.Environment:
    """A sandbox with raise_exception, strftime_now and a tojson that leaves text as it is."""
    sandbox = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_Generation, "jinja2.ext.loopcontrols"],
    )
    sandbox.filters["tojson"] = _to_json
    sandbox.globals["dict"] = _dictionary
    sandbox.globals["namespace"] = _Namespace
    sandbox.globals["raise_exception"] = _raise_exception
    sandbox.globals["strftime_now"] = lambda pattern: now().strftime(pattern)
    return sandbox


class _Namespace(Namespace):
    """jinja2's namespace without the attributes that lead out of the sandbox."""

    def __init__(*args: Any, **attributes: Any) -> None:
        # No parameter has a name, so that a template may use any.
        self, *values = args
        for name in dict(*values, **attributes):
            _check_attribute(name)
        Namespace.__init__(self, *values, **attributes)

    def __setitem__(self, name: str, value: object) -> None:
        _check_attribute(name)
        super().__setitem__(name, value)


def _check_attribute(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a template must not set the attribute {name!r}")


def _dictionary(*args: Any, **entries: Any) -> dict[Any, Any]:
    """Stands for the type dict, whose own attributes templates need not see."""
    return dict(*args, **entries)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


@jinja2.pass_context
def _to_json(
    context: Context,
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    text = json.dumps(
        value, ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys
    )
    if not ensure_ascii:
        return text
    mark = context.resolve(MARK_VARIABLE)
    return "".join(
        character if character.isascii() or character == mark else json.dumps(character)[1:-1]
        for character in text
    )
