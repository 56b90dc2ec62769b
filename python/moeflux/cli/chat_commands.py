"""What can be typed in `moeflux chat` besides messages: /help, /system, /save and the others."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Protocol

from moeflux.checkpoint.json_file import read_object
from moeflux.engine.conversation import FORMAT, Answer, Conversation, snapshot_path
from moeflux.errors import CheckpointError
from moeflux.memory import format_size
from moeflux.settings import user_path

HELP = """\
/system [TEXT]   show the system message, or set it
/think [show|hide|on|off]   show what the model thinks or hide it; let it think at all
/undo            take the last message and its answer back
/reset           forget everything but the system message
/save FILE       write the conversation, and the session's snapshot beside it
/load FILE       go on with a saved conversation
/stats           what the last answer cost, and how full the context is
/quit            end (Ctrl-D as well)
Ctrl-C stops an answer; at the prompt, the second one ends the program. Alt-Enter starts a new line.
A message that begins with a slash is written with two of them."""


class Screen(Protocol):
    """Where messages come from and where answers go."""

    shows_thinking: bool
    failed: bool
    """Something went wrong that a program which waits for this one should know of."""

    def read(self) -> str | None:
        """The next line; None at the end."""

    def show(self, answer: Answer) -> None:
        """Show the parts of an answer as they come, and close it."""

    def goes_on(self) -> bool:
        """Whether Ctrl-C ends only what was under way; called after it did."""

    def mention(self, text: str) -> None:
        """What only a person wants to know."""

    def say(self, text: str) -> None:
        """A notice."""

    def complain(self, text: str) -> None:
        """Something that did not work."""


class Commands:
    """Lines that begin with one slash. `ended`: /quit was one of them."""

    NAMES: ClassVar[tuple[str, ...]] = (
        *("/help", "/system", "/think", "/undo", "/reset", "/save", "/load", "/stats", "/quit"),
    )

    def __init__(self, conversation: Conversation, screen: Screen) -> None:
        self.ended = False
        self._conversation = conversation
        self._screen = screen
        self._methods = {
            "/help": self._help,
            "/system": self._system,
            "/think": self._think,
            "/undo": self._undo,
            "/reset": self._reset,
            "/save": self._save,
            "/load": self._load,
            "/stats": self._stats,
            "/quit": self._quit,
        }

    @staticmethod
    def is_command(line: str) -> bool:
        return line.startswith("/") and not line.startswith("//")

    @staticmethod
    def message_of(line: str) -> str:
        """The message that a line stands for."""
        return line[1:] if line.startswith("//") else line

    def run(self, line: str) -> None:
        """Do what the line says. Raises what the conversation raises."""
        name, _, argument = line.strip().partition(" ")
        method = self._methods.get(name)
        if method is None:
            self._screen.complain(f"{name}: no such command; /help lists them")
        else:
            method(argument.strip())

    def _help(self, _: str) -> None:
        self._screen.say(HELP)

    def _system(self, text: str) -> None:
        if text:
            self._conversation.system = text
        self._screen.say(f"system message: {self._conversation.system or 'none'}")

    def _think(self, argument: str) -> None:
        screen = self._screen
        if argument in ("on", "off"):
            self._conversation.template["enable_thinking"] = argument == "on"
            screen.say(f"the model is asked {'to think' if argument == 'on' else 'not to think'}")
        elif argument in ("", "show", "hide"):
            shows = not screen.shows_thinking if not argument else argument == "show"
            screen.shows_thinking = shows
            screen.say(f"thinking is {'shown' if shows else 'hidden'}")
        else:
            screen.complain(f"/think: wanted show, hide, on or off, got {argument!r}")

    def _undo(self, _: str) -> None:
        text = self._conversation.undo()
        self._screen.say("nothing to take back" if text is None else f"taken back: {_start(text)}")

    def _reset(self, _: str) -> None:
        self._conversation.reset()
        self._screen.say("the conversation begins anew")

    def _save(self, name: str) -> None:
        path = _path(name, "/save")
        if path.exists() and not _is_conversation(path):
            raise ValueError(f"{path}: is there already, and no saved conversation")
        self._conversation.save(path)
        self._screen.say(f"saved to {path} and {snapshot_path(path).name}")

    def _load(self, name: str) -> None:
        path = _path(name, "/load")
        if not path.exists():
            raise ValueError(f"{path}: no such file")
        error = self._conversation.load(path)
        n_messages = len(self._conversation.messages)
        self._screen.say(f"loaded {n_messages} messages from {path}")
        if error is not None:
            self._screen.say(f"the next answer reads them again: {error}")

    def _stats(self, _: str) -> None:
        stats, session = self._conversation.stats, self._conversation.session
        if stats is not None:
            answer = stats.generation
            n_tokens = stats.n_prefilled + answer.generated_tokens
            self._screen.say(
                f"prompt: {stats.n_kept} tokens kept from before, {stats.n_prefilled} prefilled at "
                f"{stats.prefill_tokens_per_second:.4g} tok/s\n"
                f"answer: {answer.generated_tokens} tokens at "
                f"{answer.decode_tokens_per_second:.4g} tok/s\n"
                f"read {format_size(stats.bytes_read)} "
                f"({format_size(stats.bytes_read / max(1, n_tokens))} per token), "
                f"peak memory {format_size(answer.peak_memory_nbytes)}"
            )
        self._screen.say(f"context: {session.position} of {session.context_size} tokens")

    def _quit(self, _: str) -> None:
        self.ended = True


def _path(name: str, command: str) -> Path:
    if not name:
        raise ValueError(f"{command}: wanted the name of a file")
    path = user_path(name)
    return path if path.suffix else path.with_name(path.name + ".json")


def _is_conversation(path: Path) -> bool:
    try:
        return read_object(path).get("format") == FORMAT
    except CheckpointError:
        return False


def _start(text: str) -> str:
    line = text.strip().partition("\n")[0]
    return line if len(line) <= 60 else line[:57] + "..."
