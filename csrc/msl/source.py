"""Shader text with its origin: tokens, and the file and line that an offset came from."""

import re
from bisect import bisect_right
from dataclasses import dataclass

TOKEN = re.compile(
    r"""
      (?P<comment>//[^\n]*|/\*.*?\*/)
    | (?P<directive>^[ \t]*\#(?:[^\n\\]|\\\n|\\.)*)
    | (?P<string>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')
    | (?P<number>\.?\d(?:[eEpP][+-]|[\w.])*)
    | (?P<identifier>[A-Za-z_]\w*)
    | (?P<space>\s+)
    | (?P<punctuation>::|->|&&|\|\||\+\+|--|[-+*/%&|^=!]=|.)
    """,
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)
LINE_MARKER = re.compile(r'^[ \t]*#[ \t]*line[ \t]+(\d+)(?:[ \t]+"([^"]*)")?', re.MULTILINE)


class ShaderError(Exception):
    """A construct that is wrong or unknown, with its place as `file:line: error: text`."""


@dataclass(frozen=True)
class Token:
    """A piece of text and its offsets; `kind` is a group of TOKEN."""

    text: str
    kind: str
    start: int
    end: int


class Source:
    """Text whose `#line` markers say where it came from."""

    def __init__(self, text: str, name: str) -> None:
        self.text = text
        self.name = name
        self._line_starts = [0] + [match.end() for match in re.finditer(r"\n", text)]
        self._markers = [
            (self._line_index(match.start()), int(match[1]), match[2])
            for match in LINE_MARKER.finditer(text)
        ]

    def _line_index(self, offset: int) -> int:
        return bisect_right(self._line_starts, offset) - 1

    def location(self, offset: int) -> tuple[str, int]:
        index = self._line_index(offset)
        name, line = self.name, index + 1
        for marker_index, marker_line, marker_name in self._markers:
            if marker_index >= index:
                break
            name = marker_name or name
            line = marker_line + index - marker_index - 1
        return name, line

    def error(self, offset: int, message: str) -> ShaderError:
        name, line = self.location(offset)
        return ShaderError(f"{name}:{line}: error: {message}")

    def tokens(self) -> list[Token]:
        """All of the text, comments, spaces and directives included."""
        return [
            Token(match[0], match.lastgroup or "punctuation", match.start(), match.end())
            for match in TOKEN.finditer(self.text)
        ]

    def code(self) -> list[Token]:
        """The tokens that the language sees."""
        skipped = ("comment", "directive", "space")
        return [token for token in self.tokens() if token.kind not in skipped]


def blank(text: str) -> str:
    """Spaces in place of text, so that lines and columns stay."""
    return re.sub(r"[^\n]", " ", text)


def quoted(name: str) -> str:
    """A file name as a string literal of a `#line` directive."""
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
