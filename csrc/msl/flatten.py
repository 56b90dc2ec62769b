"""Puts quote includes in, once each, with `#line` markers, and decides conditionals.

Knows the preprocessor as far as our shaders use it. Macros are left to the compiler.
"""

import ast
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from source import Source, blank, quoted

METAL_HEADERS = frozenset(
    {
        "metal_atomic",
        "metal_compute",
        "metal_math",
        "metal_simdgroup",
        "metal_simdgroup_matrix",
        "metal_stdlib",
    }
)
DIRECTIVE = re.compile(r"[ \t]*#[ \t]*(\w*)(.*)", re.DOTALL)
CONDITIONALS = ("if", "ifdef", "ifndef", "elif", "else", "endif")
PRAGMAS = ("unroll", "clang", "METAL")
# bfloat needs Metal 3.1, whose language is C++14.
PREDEFINED = {"__METAL_VERSION__": "310", "__cplusplus": "201402"}


COMPARISONS: dict[type[ast.cmpop], Callable[[int, int], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


def integer(node: ast.expr) -> int | None:
    """The value of integers, comparisons, `not`, `and`, `or`; None for anything else."""
    match node:
        case ast.Constant(value=int(value)):
            return value
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            negated = integer(operand)
            return None if negated is None else int(not negated)
        case ast.BoolOp(op=op, values=operands):
            values = [integer(operand) for operand in operands]
            if None in values:
                return None
            return int(all(values) if isinstance(op, ast.And) else any(values))
        case ast.Compare(left=left, ops=[comparison], comparators=[right]):
            sides = integer(left), integer(right)
            compare = COMPARISONS.get(type(comparison))
            if compare is None or sides[0] is None or sides[1] is None:
                return None
            return int(compare(sides[0], sides[1]))
    return None


@dataclass
class Conditional:
    """One `#if` that is open: whether its present branch counts, and whether a branch was taken."""

    active: bool
    taken: bool
    inside_active: bool


@dataclass
class Flattener:
    """Flattens one shader; `name` of a file is what `#line` markers say."""

    include_folders: list[Path]
    root: Path | None = None
    macros: dict[str, str] = field(default_factory=lambda: dict(PREDEFINED))
    included: set[Path] = field(default_factory=set)

    def name(self, path: Path) -> str:
        if self.root is None:
            return path.as_posix()
        return path.resolve().relative_to(self.root.resolve()).as_posix()

    def file(self, path: Path) -> str:
        self.included.add(path.resolve())
        name = self.name(path)
        text = path.read_text(encoding="utf-8")
        return f"#line 1 {quoted(name)}\n" + self.text(Source(text, name), path.parent)

    def text(self, source: Source, folder: Path) -> str:
        output: list[str] = []
        conditionals: list[Conditional] = []
        for token in source.tokens():
            active = all(conditional.active for conditional in conditionals)
            if token.kind != "directive":
                output.append(token.text if active else blank(token.text))
                continue
            keyword, rest = self._directive(token.text)
            if keyword in CONDITIONALS:
                self._conditional(source, token.start, (keyword, rest), conditionals)
                output.append(blank(token.text))
            elif not active:
                output.append(blank(token.text))
            elif keyword == "include":
                output.append(self._include(source, token.start, token.text, rest, folder))
            else:
                output.append(self._other(source, token.start, token.text, (keyword, rest)))
        if conditionals:
            raise source.error(len(source.text) - 1, "#if without #endif")
        return "".join(output)

    @staticmethod
    def _directive(text: str) -> tuple[str, str]:
        joined = re.sub(r"/\*.*?\*/|//[^\n]*", " ", text.replace("\\\n", " "), flags=re.DOTALL)
        match = DIRECTIVE.match(joined)
        assert match is not None
        return match[1], match[2].strip()

    def _conditional(
        self, source: Source, offset: int, directive: tuple[str, str], stack: list[Conditional]
    ) -> None:
        keyword, rest = directive
        if keyword.startswith("if"):
            inside = all(conditional.active for conditional in stack)
            active = inside and self._condition(source, offset, keyword, rest)
            stack.append(Conditional(active, active, inside))
            return
        if not stack:
            raise source.error(offset, f"#{keyword} without #if")
        top = stack[-1]
        if keyword == "endif":
            stack.pop()
            return
        if keyword == "else":
            rest = "1"
        top.active = top.inside_active and not top.taken and self._value(source, offset, rest) != 0
        top.taken = top.taken or top.active

    def _condition(self, source: Source, offset: int, keyword: str, rest: str) -> bool:
        if keyword == "if":
            return self._value(source, offset, rest) != 0
        return (rest in self.macros) == (keyword == "ifdef")

    def _value(self, source: Source, offset: int, expression: str) -> int:
        text = re.sub(
            r"\bdefined\s*(?:\(\s*(\w+)\s*\)|(\w+))",
            lambda match: str(int((match[1] or match[2]) in self.macros)),
            expression,
        )
        for _ in range(8):  # macros that name macros
            text = re.sub(r"\b[A-Za-z_]\w*", lambda match: self.macros.get(match[0], "0"), text)
        text = re.sub(r"\b(0[xX][0-9a-fA-F]+|\d+)[uUlL]+\b", r"\1", text)
        text = text.replace("&&", " and ").replace("||", " or ")
        text = re.sub(r"!(?!=)", " not ", text)
        try:
            tree = ast.parse(text.strip(), mode="eval")
        except SyntaxError:
            raise source.error(offset, f"cannot decide '#if {expression}'") from None
        value = integer(tree.body)
        if value is None:
            raise source.error(offset, f"cannot decide '#if {expression}'")
        return value

    def _include(self, source: Source, offset: int, text: str, rest: str, folder: Path) -> str:
        if rest.startswith("<") and rest.endswith(">"):
            if rest[1:-1] not in METAL_HEADERS:
                raise source.error(offset, f"{rest} is not a header of Metal that we translate")
            return text
        if not (rest.startswith('"') and rest.endswith('"')):
            raise source.error(offset, f"cannot read '#include {rest}'")
        for candidate in (folder, *self.include_folders):
            path = candidate / rest[1:-1]
            if path.is_file():
                break
        else:
            raise source.error(offset, f"no file {rest}")
        if path.resolve() in self.included:
            return blank(text)
        name, line = source.location(offset)
        following = line + text.count("\n") + 1
        # The newline behind the directive ends the marker, and the text goes on with its next line.
        return f"{self.file(path).rstrip()}\n#line {following} {quoted(name)}"

    def _other(self, source: Source, offset: int, text: str, directive: tuple[str, str]) -> str:
        keyword, rest = directive
        if keyword == "define":
            match = re.match(r"(\w+)(\([^)]*\))?(.*)", rest, re.DOTALL)
            if match is None:
                raise source.error(offset, f"cannot read '#define {rest}'")
            self.macros[match[1]] = match[3].strip()
        elif keyword == "undef":
            self.macros.pop(rest, None)
        elif keyword == "error":
            raise source.error(offset, f"#error {rest}")
        elif keyword == "pragma":
            word = rest.split()[0] if rest else ""
            if word == "once":
                return blank(text)
            if word not in PRAGMAS:
                raise source.error(offset, f"unknown '#pragma {rest}'")
        elif keyword not in ("line", ""):
            raise source.error(offset, f"unknown directive '#{keyword}'")
        return text
