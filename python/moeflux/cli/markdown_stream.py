"""Text that grows on a terminal: blocks that are whole stay, the last one is drawn anew."""

from __future__ import annotations

import re
from collections.abc import Callable

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment
from rich.text import Text

REFRESHES_PER_SECOND = 12
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")


class BlockStream:
    """Feed it text; finish() at the end. What is not whole yet is drawn as far as it fits."""

    def __init__(
        self,
        console: Console,
        render: Callable[[str], RenderableType],
        n_whole: Callable[[str], int],
        separator: str,
    ) -> None:
        """n_whole: how many characters of a text are whole blocks. separator: between blocks."""
        self._console = console
        self._render = render
        self._n_whole = n_whole
        self._separator = separator
        self._text = ""
        self._n_blocks = 0
        self._live = Live(console=console, transient=True, refresh_per_second=REFRESHES_PER_SECOND)
        self._live.start()

    def feed(self, text: str) -> None:
        """More of the text."""
        self._text += text
        n_whole = self._n_whole(self._text)
        if n_whole:
            whole, self._text = self._text[:n_whole], self._text[n_whole:]
            self._print(whole)
        self._live.update(_Tail(self._render(self._text)))

    def finish(self) -> None:
        """Nothing follows: the last block is whole."""
        self._live.update("")
        self._live.stop()
        self._print(self._text)
        self._text = ""

    def _print(self, block: str) -> None:
        if not block.strip():
            return
        if self._n_blocks:
            self._console.print(self._separator, end="")
        self._n_blocks += 1
        self._console.print(self._render(block.strip("\n")))


def markdown_stream(console: Console) -> BlockStream:
    """Markdown, block by block."""
    return BlockStream(console, Markdown, n_whole_markdown, "\n")


def reasoning_stream(console: Console) -> BlockStream:
    """Dimmed plain text, line by line."""
    return BlockStream(console, _dimmed, lambda text: text.rfind("\n") + 1, "")


def n_whole_markdown(text: str) -> int:
    """Characters up to the last blank line that is outside a fenced block."""
    fence = ""
    n_whole = place = 0
    for line in text.splitlines(keepends=True):
        place += len(line)
        match = _FENCE.match(line)
        if fence:
            if match and match[1].startswith(fence) and not line.strip().strip(fence[0]):
                fence = ""
        elif match:
            fence = match[1]
        elif line.endswith("\n") and not line.strip():
            n_whole = place
    return n_whole


class _Tail:
    """The last lines of something, as many as the terminal can show."""

    def __init__(self, renderable: RenderableType) -> None:
        self._renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self._renderable, options, pad=False)
        for line in lines[-max(1, console.height - 2) :]:
            yield from line
            yield Segment.line()


def _dimmed(text: str) -> Text:
    return Text(text, style="dim")
