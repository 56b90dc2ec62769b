"""The terminal of `moeflux chat`: line editing, answers as they come, Ctrl-C."""

from __future__ import annotations

import signal
import sys
import termios
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from types import FrameType, TracebackType
from typing import Self

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from moeflux.chat import Content, Part, Reasoning
from moeflux.cli.markdown_stream import BlockStream, markdown_stream, reasoning_stream
from moeflux.cli.printable import printable
from moeflux.engine.conversation import Answer
from moeflux.engine.events import PrefillProgress
from moeflux.settings import user_path

PROMPT = "> "


class TerminalScreen:
    """A person at a terminal."""

    def __init__(self, history: str, commands: Sequence[str]) -> None:
        """`history`: the file of what was typed before, "" for none."""
        # A shell's background jobs ignore interrupts, and so does what is started from them.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.shows_thinking = True
        self.failed = False
        self._console = Console(highlight=False)
        self._input: PromptSession[str] = PromptSession(
            history=_history(history),
            completer=WordCompleter([*commands], sentence=True),
            complete_while_typing=False,
            key_bindings=_keys(),
        )
        self._interrupted = False
        """The last that was typed is Ctrl-C."""

    def read(self) -> str | None:
        """The next line; None after Ctrl-D, and after Ctrl-C twice."""
        while True:
            try:
                line = self._input.prompt(PROMPT)
            except EOFError:
                return None
            except KeyboardInterrupt:
                if self._interrupted:
                    return None
                self._interrupted = True
                self.say("Ctrl-C again or Ctrl-D ends the program")
            else:
                self._interrupted = False
                return line

    def show(self, answer: Answer) -> None:
        """Parts as they come; Ctrl-C ends the answer."""
        self._interrupted = False
        with (
            closing(answer),
            StopSignal() as stop,
            _View(self._console, self.shows_thinking) as view,
        ):
            try:
                for part in answer:
                    view.add(part)
                    if stop.asked:
                        self._interrupted = True
                        break
            except KeyboardInterrupt:
                self._interrupted = True
        if self._interrupted:
            self.goes_on()
        self._console.print()

    def goes_on(self) -> bool:
        self._interrupted = True
        self.say("(stopped)")
        return True

    def mention(self, text: str) -> None:
        self.say(text)

    def say(self, text: str) -> None:
        self._console.print(Text(printable(text), style="dim"))

    def complain(self, text: str) -> None:
        self._console.print(Text(printable(text), style="red"))


class StopSignal:
    """Inside, the first Ctrl-C only asks to stop; the second one interrupts."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


class _View:
    """One answer: a bar while the prompt is read, then thinking, then the answer."""

    def __init__(self, console: Console, shows_thinking: bool) -> None:
        self._console = console
        self._shows_thinking = shows_thinking
        self._bar: Progress | None = None
        self._stream: BlockStream | None = None
        self._kind: type[Part] | None = None

    def __enter__(self) -> Self:
        self._bar = Progress(
            TextColumn("[dim]{task.description}"),
            BarColumn(),
            TextColumn("[dim]{task.fields[count]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task("reading", total=None, count="")
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end_bar()
        if self._stream is not None:
            self._stream.finish()

    def add(self, part: Part | PrefillProgress) -> None:
        """Show one more part."""
        if isinstance(part, PrefillProgress):
            self._show_progress(part)
        elif isinstance(part, Reasoning):
            if self._shows_thinking:
                self._write(Reasoning, part.text)
            elif self._bar is not None:
                self._bar.update(self._task, description="thinking", total=None, count="")
        elif isinstance(part, Content):
            self._write(Content, part.text)

    def _show_progress(self, progress: PrefillProgress) -> None:
        if self._bar is None:
            return
        n_new, n_done = progress.n_tokens - progress.n_cached, progress.n_done - progress.n_cached
        count = f"{n_done} of {n_new} tokens"
        self._bar.update(self._task, completed=n_done, total=n_new, count=count)

    def _write(self, kind: type[Part], text: str) -> None:
        self._end_bar()
        if self._kind is not kind:
            if self._stream is not None:
                self._stream.finish()
                self._console.print()
            make = reasoning_stream if kind is Reasoning else markdown_stream
            self._stream, self._kind = make(self._console), kind
        assert self._stream is not None
        self._stream.feed(printable(text))

    def _end_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


@contextmanager
def _no_echo() -> Iterator[None]:
    """Keys that are pressed meanwhile wait for the prompt, unseen."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    changed = termios.tcgetattr(descriptor)
    changed[3] &= ~termios.ECHO
    termios.tcsetattr(descriptor, termios.TCSANOW, changed)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)


def _history(name: str) -> History:
    if not name:
        return InMemoryHistory()
    path = user_path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileHistory(str(path))


def _keys() -> KeyBindings:
    """Ctrl-C empties a line that has text; Alt-Enter starts a new one."""
    bindings = KeyBindings()

    @bindings.add("c-c")
    def _(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt)

    @bindings.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return bindings
