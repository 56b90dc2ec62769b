"""Growing text on a terminal: whole blocks stay, and all of it is there in the end."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from moeflux.cli.markdown_stream import markdown_stream, n_whole_markdown, reasoning_stream
from moeflux.cli.printable import printable

TEXT = """\
A first paragraph that says
something.

1. one
2. two

```python
def f():

    return 1
```

The end.
"""


def console() -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, width=60, height=20, force_terminal=False), file


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("", ""),
        ("a paragraph", ""),
        ("a paragraph\n", ""),
        ("a paragraph\n\n", "a paragraph\n\n"),
        ("one\n\ntwo\n \nthree", "one\n\ntwo\n \n"),
        ("```\ncode\n\nmore", ""),
        ("```\ncode\n\n```\n\nafter", "```\ncode\n\n```\n\n"),
        ("~~~~\n```\n\n~~~\n\n", ""),
        ("~~~~\n```\n\n~~~~\n\n", "~~~~\n```\n\n~~~~\n\n"),
        ("```\n\n```python\n\n", ""),
        ("\n\nlead", "\n\n"),
    ],
)
def test_whole_blocks_end_at_blank_lines_outside_fences(text: str, whole: str) -> None:
    assert text[: n_whole_markdown(text)] == whole


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_the_end_is_the_same_however_the_text_came(step: int) -> None:
    screen, file = console()
    stream = markdown_stream(screen)
    for first in range(0, len(TEXT), step):
        stream.feed(TEXT[first : first + step])
    stream.finish()
    lines = [line.rstrip() for line in file.getvalue().splitlines()]
    assert [line.strip() for line in lines if line.strip()] == [
        "A first paragraph that says something.",
        *("1 one", "2 two"),
        *("def f():", "return 1"),
        "The end.",
    ]


def test_reasoning_is_plain_text_line_by_line() -> None:
    screen, file = console()
    stream = reasoning_stream(screen)
    stream.feed("I think *that*\nand")
    stream.feed(" this.")
    stream.finish()
    assert file.getvalue() == "I think *that*\nand this.\n"


def test_a_block_that_is_longer_than_the_screen_is_drawn_as_far_as_it_fits() -> None:
    file = io.StringIO()
    screen = Console(file=file, width=40, height=8, force_terminal=True, color_system=None)
    stream = reasoning_stream(screen)
    stream._n_whole = lambda _: 0
    stream.feed("".join(f"line {n}\n" for n in range(50)))
    stream._live.refresh()
    drawn = file.getvalue()
    assert "line 49" in drawn
    assert "line 10\n" not in drawn
    stream.finish()
    assert "line 10" in file.getvalue()


def test_what_would_steer_the_terminal_is_not_printed() -> None:
    assert printable("a\x1b[2Jb\x07\tc\r\nd\u202e") == "a\ufffd[2Jb\ufffd\tc\ufffd\nd\ufffd"
