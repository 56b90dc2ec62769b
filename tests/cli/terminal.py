"""A program in a pseudo-terminal, and the screen that its user would see."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pexpect
import pyte

TIMEOUT = 60.0
COLUMNS, LINES = 90, 40


class Terminal:
    """What was drawn so far, and keys to press."""

    def __init__(self, child: pexpect.spawn) -> None:
        self._child = child
        self._screen = pyte.Screen(COLUMNS, LINES)
        self._stream = pyte.ByteStream(self._screen)
        self.raw = b""
        """Every byte that was written."""

    @property
    def lines(self) -> list[str]:
        """The lines that are not blank, without blank ends."""
        return [line.rstrip() for line in self._screen.display if line.strip()]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def press(self, keys: str) -> None:
        self._child.send(keys)

    def enter(self, line: str) -> None:
        """Type a line once the prompt is there for it, and see it taken."""
        self.wait_for_prompt()
        n_before = self.text.count(f"> {line}")
        self._child.send(line + "\r")
        self._wait(lambda: self.text.count(f"> {line}") > n_before, f"{line!r} was not shown")

    def wait_for(self, text: str) -> None:
        """Until the screen shows it. Raises AssertionError with the screen."""
        self._wait(lambda: text in self.text, f"{text!r} was not shown")

    def wait_for_prompt(self) -> None:
        """Until an empty prompt is the last line."""
        self._wait(lambda: self.lines[-1:] == [">"], "no empty prompt was shown")

    def exit_code(self) -> int | None:
        """Once the program has ended."""
        self._child.expect(pexpect.EOF, timeout=TIMEOUT)
        self._child.close()
        code: int | None = self._child.exitstatus
        return code

    def _wait(self, done: Callable[[], bool], message: str) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not done():
            assert time.monotonic() < deadline, f"{message}:\n{self.text}"
            try:
                data = self._child.read_nonblocking(1 << 16, timeout=1.0)
            except pexpect.TIMEOUT:
                continue
            self.raw += data
            self._stream.feed(data)


@contextmanager
def running(*arguments: str, before: str = "", **environment: str) -> Iterator[Terminal]:
    """The command line in a terminal of its own, ended with the block.

    `before`: statements that its process runs first.
    """
    variables = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "TERM": "xterm-256color",
        # The screen here does not answer when it is asked where the cursor is.
        "PROMPT_TOOLKIT_NO_CPR": "1",
        **environment,
    }
    child = pexpect.spawn(
        sys.executable,
        ["-c", f"{before}\nimport sys\nfrom moeflux.cli import main\nsys.exit(main())", *arguments],
        env=variables,
        dimensions=(LINES, COLUMNS),
        timeout=TIMEOUT,
    )
    try:
        yield Terminal(child)
    finally:
        child.close(force=True)
