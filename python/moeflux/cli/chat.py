"""`moeflux chat`: a conversation in the terminal, or line by line through pipes."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import Annotated

import typer

import moeflux
from moeflux.chat import Content
from moeflux.cli.chat_commands import Commands, Screen
from moeflux.cli.exit_code import ExitCode
from moeflux.cli.options import (
    DeviceOption,
    MemoryOption,
    ModelArgument,
    SizeOption,
    ThreadsOption,
    VramOption,
    given_settings,
)
from moeflux.cli.printable import printable
from moeflux.engine.conversation import Answer, Conversation
from moeflux.engine.request import RequestOptions
from moeflux.errors import ContextOverflowError, MoefluxError
from moeflux.memory import parse_size

_MaxTokens = Annotated[int, typer.Option("--max-tokens", min=1, help="Most tokens of an answer.")]
_System = Annotated[str | None, typer.Option("--system", help="System message.")]
_HideThinking = Annotated[
    bool, typer.Option("--hide-thinking", help="Do not show what the model thinks.")
]


def chat(
    model: ModelArgument,
    system: _System = None,
    hide_thinking: _HideThinking = False,
    max_tokens: _MaxTokens = 4096,
    temperature: Annotated[
        float | None, typer.Option("--temp", min=0, help="0 takes the most probable token.")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(min=0, max=1, help="Keep the likeliest up to this probability.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="The same seed draws the same answers.")
    ] = None,
    device: DeviceOption = "auto",
    memory: MemoryOption = None,
    vram: VramOption = None,
    threads: ThreadsOption = None,
    ctx_size: SizeOption = None,
) -> ExitCode:
    """Talk with a model. /help lists what else can be typed."""
    if memory is not None:
        parse_size(memory)
    if sys.stdin is None or sys.stdout is None:
        raise OSError("standard input and output must be open")
    options = RequestOptions(max_tokens=max_tokens)
    if temperature is not None:
        options["temperature"] = temperature
    if top_p is not None:
        options["top_p"] = top_p
    if seed is not None:
        options["seed"] = seed
    settings = given_settings(threads, ctx_size, vram)
    screen = _screen(settings)
    screen.shows_thinking = not hide_thinking
    screen.mention(f"loading {model}")
    with moeflux.load(model, device, memory, settings) as loaded:
        conversation = Conversation(loaded, system, options)
        screen.mention(
            f"{conversation.session.context_size} tokens of context; /help lists commands"
        )
        return _talk(conversation, screen)


def _screen(settings: moeflux.Settings) -> Screen:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return PlainScreen()
    # Line editing takes long to import, which other commands need not wait for.
    from moeflux.cli.chat_terminal import TerminalScreen  # noqa: PLC0415

    return TerminalScreen(settings.chat_history, Commands.NAMES)


def _talk(conversation: Conversation, screen: Screen) -> ExitCode:
    commands = Commands(conversation, screen)
    while not commands.ended and (line := screen.read()) is not None:
        if not line.strip():
            continue
        try:
            if commands.is_command(line):
                commands.run(line)
            else:
                screen.show(conversation.ask(commands.message_of(line)))
                _mention_end(conversation, screen)
        except KeyboardInterrupt:
            if not screen.goes_on():
                raise
        except ContextOverflowError as error:
            screen.complain(f"{error}: /undo and /reset make room, --ctx-size gives more")
        except (MoefluxError, OSError, ValueError) as error:
            screen.complain(str(error))
    return ExitCode.FAILED if screen.failed else ExitCode.DONE


def _mention_end(conversation: Conversation, screen: Screen) -> None:
    """Why the answer ended, where that is not plain to see."""
    stats = conversation.stats
    if stats is not None and stats.finish_reason == "length":
        full = conversation.session.position >= conversation.session.context_size
        why = "the context is full" if full else "--max-tokens allows no more"
        screen.mention(f"(cut off after {stats.generation.generated_tokens} tokens: {why})")
    elif not conversation.messages[-1]["content"] and not screen.shows_thinking:
        screen.mention("(nothing but hidden thinking)")


class PlainScreen:
    """One message a line in, the answers as they are out; notices on standard error."""

    def __init__(self) -> None:
        self.shows_thinking = True
        self.failed = False

    def read(self) -> str | None:
        """The next message; None at the end. Raises ValueError for what is not UTF-8."""
        try:
            line = sys.stdin.buffer.readline().decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"standard input must be UTF-8 text: {error}") from error
        return line.rstrip("\r\n") if line else None

    def show(self, answer: Answer) -> None:
        """The content alone, and a line end."""
        with closing(answer):
            for part in answer:
                if isinstance(part, Content):
                    _write(part.text)
        _write("\n")

    def goes_on(self) -> bool:
        return False

    def mention(self, text: str) -> None:
        """Nobody is there."""

    def say(self, text: str) -> None:
        print(text, file=sys.stderr)

    def complain(self, text: str) -> None:
        self.failed = True
        print(f"moeflux: error: {text}", file=sys.stderr)


def _write(text: str) -> None:
    shown = printable(text) if sys.stdout.isatty() else text
    sys.stdout.buffer.write(shown.encode())
    sys.stdout.buffer.flush()
