"""Finds the declarations of a shader: functions, variables, structs. Knows brackets, not types."""

from dataclasses import dataclass, field
from enum import Enum

from source import ShaderError, Source, Token

OPENING = {"(": ")", "[": "]", "{": "}"}
SKIPPED = ("using", "typedef", "static_assert", "enum")


class Scope(Enum):
    """What a declaration is inside of."""

    FILE = "file"
    NAMESPACE = "namespace"
    STRUCT = "struct"


@dataclass(frozen=True)
class Span:
    """Tokens `first` up to and without `end`."""

    first: int
    end: int


@dataclass(frozen=True)
class Function:
    """A definition, or a declaration without a body."""

    name: str
    name_index: int
    head: Span  # behind `template <...>`, up to the name
    parameters: tuple[Span, ...]
    body: Span | None  # between the braces
    scope: Scope
    templated: bool


@dataclass(frozen=True)
class Variable:
    """A variable at program scope or a member of a struct."""

    name: str
    name_index: int
    head: Span  # all before the name
    whole: Span  # with the semicolon
    scope: Scope

    def rest(self) -> Span:
        return Span(self.name_index + 1, self.whole.end - 1)


@dataclass(frozen=True)
class Struct:
    """A definition of a struct, class or union."""

    name: str
    body: Span  # between the braces
    has_functions: bool
    members: tuple[Variable, ...]


@dataclass
class Declarations:
    """Reads a whole file when made."""

    source: Source
    tokens: list[Token]
    functions: list[Function] = field(default_factory=list)
    variables: list[Variable] = field(default_factory=list)
    structs: list[Struct] = field(default_factory=list)
    attributes: list[Span] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._closing = self._match_brackets()
        self.attributes = [
            Span(i, self._closing[i] + 1)
            for i in range(len(self.tokens) - 1)
            if self.text(i) == "[" == self.text(i + 1)
            and self.tokens[i].end == self.tokens[i + 1].start
        ]
        self._attribute_ends = {attribute.first: attribute.end for attribute in self.attributes}
        self._scope(Span(0, len(self.tokens)), Scope.FILE)

    def text(self, i: int) -> str:
        return self.tokens[i].text if i < len(self.tokens) else ""

    def texts(self, span: Span) -> list[str]:
        """Without attributes."""
        texts = []
        i = span.first
        while i < span.end:
            after = self.after_attribute(i)
            if after > i:
                i = after
                continue
            texts.append(self.text(i))
            i += 1
        return texts

    def attributes_in(self, span: Span) -> list[Span]:
        return [a for a in self.attributes if span.first <= a.first and a.end <= span.end]

    def after_attribute(self, i: int) -> int:
        """The token behind the attribute that begins at `i`; `i` itself if none does."""
        return self._attribute_ends.get(i, i)

    def closing(self, i: int) -> int:
        return self._closing[i]

    def angle(self, i: int) -> int | None:
        """The `>` that ends the template list opened at `i`; None if that `<` is a comparison."""
        depth = 0
        while i < len(self.tokens) and self.text(i) not in (";", ")", "]", "}"):
            if self.text(i) in OPENING:
                i = self._closing[i]
            elif self.text(i) == "<":
                depth += 1
            elif self.text(i) == ">":
                depth -= 1
                if depth == 0:
                    return i
            i += 1
        return None

    def closing_angle(self, i: int) -> int:
        closing = self.angle(i)
        if closing is None:
            raise self.error(i, "'<' without '>'")
        return closing

    def split(self, span: Span, separator: str = ",") -> list[Span]:
        """The parts between separators outside of all brackets."""
        parts = []
        first = i = span.first
        while i < span.end:
            text = self.text(i)
            if text in OPENING:
                i = self._closing[i]
            elif text == "<" and i > span.first and self.tokens[i - 1].kind == "identifier":
                i = self.angle(i) or i
            elif text == separator:
                parts.append(Span(first, i))
                first = i + 1
            i += 1
        if first < span.end:
            parts.append(Span(first, span.end))
        return parts

    def error(self, i: int, message: str) -> ShaderError:
        offset = self.tokens[i].start if i < len(self.tokens) else len(self.source.text) - 1
        return self.source.error(offset, message)

    def _match_brackets(self) -> dict[int, int]:
        closing: dict[int, int] = {}
        stack: list[int] = []
        for i, token in enumerate(self.tokens):
            if token.kind != "punctuation":
                continue
            if token.text in OPENING:
                stack.append(i)
            elif token.text in OPENING.values():
                if not stack or OPENING[self.text(stack[-1])] != token.text:
                    raise self.error(i, f"'{token.text}' closes nothing")
                closing[stack.pop()] = i
        if stack:
            raise self.error(stack[-1], f"'{self.text(stack[-1])}' is not closed")
        return closing

    def _scope(self, span: Span, scope: Scope) -> None:
        i = span.first
        while i < span.end:
            i = self._declaration(i, span.end, scope)

    def _to_semicolon(self, i: int, end: int) -> int:
        while i < end and self.text(i) != ";":
            i = self._closing[i] if self.text(i) in OPENING else i
            i += 1
        if i >= end:
            raise self.error(end - 1, "a declaration has no ';'")
        return i + 1

    def _declaration(self, i: int, end: int, scope: Scope) -> int:
        text = self.text(i)
        if text == ";":
            return i + 1
        if text in SKIPPED:
            return self._to_semicolon(i, end)
        if text in ("public", "private", "protected") and self.text(i + 1) == ":":
            return i + 2
        if text == "namespace":
            return self._namespace(i, end)
        templated = text == "template"
        if templated:
            if self.text(i + 1) != "<":
                raise self.error(i, "explicit instantiations are not translated")
            i = self.closing_angle(i + 1) + 1
            text = self.text(i)
        if text in ("struct", "class", "union"):
            return self._struct(i, end)
        return self._function_or_variable(i, end, scope, templated)

    def _namespace(self, i: int, end: int) -> int:
        opening = i + 1
        while opening < end and self.text(opening) not in ("{", "="):
            if self.text(opening) == "::":
                raise self.error(opening, "nested namespace names are C++17, Metal 3 has C++14")
            opening += 1
        if self.text(opening) == "=":
            return self._to_semicolon(opening, end)
        self._scope(Span(opening + 1, self._closing[opening]), Scope.NAMESPACE)
        return self._closing[opening] + 1

    def _struct(self, i: int, end: int) -> int:
        opening = i + 1
        while opening < end and self.text(opening) not in ("{", ";", ":"):
            opening = self._closing[opening] if self.text(opening) in OPENING else opening
            opening += 1
        if self.text(opening) == ":":
            raise self.error(opening, "Metal has no derived classes")
        if self.text(opening) == ";":
            return opening + 1
        body = Span(opening + 1, self._closing[opening])
        n_variables, n_functions = len(self.variables), len(self.functions)
        self._scope(body, Scope.STRUCT)
        members = tuple(self.variables[n_variables:])
        has_functions = len(self.functions) > n_functions
        self.structs.append(Struct(self.text(opening - 1), body, has_functions, members))
        after = self._closing[opening] + 1
        if self.text(after) != ";":
            raise self.error(after, "a struct and a variable are declared apart")
        return after + 1

    def _function_or_variable(self, i: int, end: int, scope: Scope, templated: bool) -> int:
        first = i
        while i < end:
            after = self.after_attribute(i)
            text = self.text(i)
            if after > i:
                i = after
            elif text == "operator":
                name = i
                i += 1
                while self.text(i) != "(" or (i == name + 1 and self.text(i + 2) == "("):
                    i += 1
                return self._function(Span(first, i), name, (end, scope, templated))
            elif text == "(" and i > first and self.tokens[i - 1].kind == "identifier":
                return self._function(Span(first, i), i - 1, (end, scope, templated))
            elif text in ("=", ";", "[", "{", ",", ":"):
                return self._variable(first, i, end, scope)
            elif text == "<":
                i = self.closing_angle(i) + 1
            elif text == "(":
                i = self._closing[i] + 1
            else:
                i += 1
        raise self.error(first, "cannot read this declaration")

    def _variable(self, first: int, i: int, end: int, scope: Scope) -> int:
        name = i - 1
        while name > first and self.tokens[name].kind != "identifier":
            name -= 1
        for attribute in self.attributes:
            if attribute.end == i:
                name = attribute.first - 1
        after = self._to_semicolon(i, end)
        self.variables.append(
            Variable(self.text(name), name, Span(first, name), Span(first, after), scope)
        )
        return after

    def _function(self, head: Span, name: int, place: tuple[int, Scope, bool]) -> int:
        end, scope, templated = place
        opening = head.end
        closing = self._closing[opening]
        parameters = tuple(self.split(Span(opening + 1, closing)))
        if len(parameters) == 1 and self.texts(parameters[0]) == ["void"]:
            parameters = ()
        i = closing + 1
        while i < end and self.text(i) not in ("{", ";"):
            i += 1
        body = Span(i + 1, self._closing[i]) if self.text(i) == "{" else None
        self.functions.append(
            Function(
                self.text(name), name, Span(head.first, name), parameters, body, scope, templated
            )
        )
        return self._closing[i] + 1 if self.text(i) == "{" else i + 1
