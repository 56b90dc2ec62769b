"""`moeflux chat` in a terminal, as its user sees it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from terminal import Terminal, running

OPTIONS = ("--temp", "0", "--device", "cpu")
SLOW_DEVICE = """
import time
from moeflux.engine.session import Session
decode = Session.decode
def slow(session, token_id, position=None):
    time.sleep(0.3)
    return decode(session, token_id, position)
Session.decode = slow
"""
"""An answer takes as long as a test needs to press a key."""


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    history = str(tmp_path / "folder" / "history")
    with running("chat", "demo", *OPTIONS, MOEFLUX_CHAT_HISTORY=history) as opened:
        opened.wait_for_prompt()
        yield opened


@pytest.fixture
def slow_terminal(tmp_path: Path) -> Iterator[Terminal]:
    history = str(tmp_path / "history")
    arguments = ("chat", "demo", *OPTIONS)
    with running(*arguments, before=SLOW_DEVICE, MOEFLUX_CHAT_HISTORY=history) as opened:
        opened.wait_for_prompt()
        yield opened


def test_an_answer_is_markdown_and_the_prompt_comes_back(terminal: Terminal) -> None:
    terminal.enter("/think off")
    terminal.enter("Write a function that adds two numbers.")
    terminal.wait_for("def ")
    terminal.wait_for_prompt()
    assert "```" not in terminal.text
    assert terminal.lines[0] == "loading demo"
    terminal.enter("/quit")
    assert terminal.exit_code() == 0


def test_thinking_is_shown_dimmed(terminal: Terminal) -> None:
    terminal.enter("Write a function that adds two numbers.")
    terminal.wait_for("def ")
    terminal.wait_for("\n>")
    question, thought, *_ = terminal.lines[2:]
    assert question == "> Write a function that adds two numbers."
    assert "def " not in thought
    assert b"\x1b[2m" + thought.encode()[:10] in terminal.raw


def test_thinking_can_be_hidden(terminal: Terminal) -> None:
    terminal.enter("/think hide")
    terminal.wait_for("thinking is hidden")
    terminal.enter("Write a function that adds two numbers.")
    terminal.wait_for("def ")
    question, answer, *_ = terminal.lines[4:]
    assert question == "> Write a function that adds two numbers."
    assert answer.strip().startswith("def ")


def test_control_c_stops_the_answer_and_again_at_the_prompt_the_program(
    slow_terminal: Terminal,
) -> None:
    slow_terminal.enter("Write a function that adds two numbers.")
    slow_terminal.wait_for("I need")
    slow_terminal.press("\x03")
    slow_terminal.wait_for("(stopped)")
    slow_terminal.wait_for_prompt()
    slow_terminal.press("\x03")
    assert slow_terminal.exit_code() == 0
    assert "def " not in slow_terminal.text


@pytest.mark.parametrize("at_start", ["default_int_handler", "SIG_IGN"])
def test_control_c_ends_a_command_that_takes_long_and_not_the_program(
    tmp_path: Path, at_start: str
) -> None:
    """Also where whoever started the program had it ignore interrupts."""
    endless = f"""
import signal
import time
from moeflux.engine.conversation import Conversation
signal.signal(signal.SIGINT, signal.{at_start})
def reset(conversation):
    print("at work", flush=True)
    time.sleep(600)
Conversation.reset = reset
"""
    history = str(tmp_path / "history")
    with running("chat", "demo", before=endless, MOEFLUX_CHAT_HISTORY=history) as terminal:
        terminal.enter("/reset")
        terminal.wait_for("at work")
        terminal.press("\x03")
        terminal.wait_for("(stopped)")
        terminal.enter("/stats")
        terminal.wait_for("context: 0 of 4096 tokens")


def test_control_c_empties_a_line_and_asks_once_at_an_empty_one(terminal: Terminal) -> None:
    terminal.press("half a line")
    terminal.wait_for("> half a line")
    terminal.press("\x03")
    terminal.wait_for_prompt()
    terminal.press("\x03")
    terminal.wait_for("Ctrl-C again or Ctrl-D ends the program")
    terminal.enter("/system Be brief.")
    terminal.wait_for("system message: Be brief.")
    terminal.wait_for_prompt()
    terminal.press("\x04")
    assert terminal.exit_code() == 0


def test_what_was_typed_before_is_called_back(terminal: Terminal, tmp_path: Path) -> None:
    terminal.enter("/system Be brief.")
    terminal.wait_for("system message: Be brief.")
    terminal.wait_for_prompt()
    terminal.press("\x1b[A")
    terminal.press("\r")
    terminal.wait_for("system message: Be brief.\n> /system Be brief.\nsystem message: Be brief.")
    assert "/system Be brief." in (tmp_path / "folder" / "history").read_text()


def test_a_mistake_is_told_and_the_program_goes_on(terminal: Terminal) -> None:
    terminal.enter("/load /no/such/file")
    terminal.wait_for("/no/such/file.json: no such file")
    terminal.enter("/stats")
    terminal.wait_for("context: 0 of 4096 tokens")


def test_alt_enter_starts_a_new_line(terminal: Terminal) -> None:
    terminal.press("one\x1b\rtwo")
    terminal.wait_for("two")
    assert [line.strip() for line in terminal.lines[-2:]] == ["> one", "two"]


def test_an_answer_that_is_cut_off_says_so(tmp_path: Path) -> None:
    history = str(tmp_path / "history")
    with running("chat", "demo", "--max-tokens", "5", MOEFLUX_CHAT_HISTORY=history) as terminal:
        terminal.enter("Write a class.")
        terminal.wait_for("(cut off after 5 tokens: --max-tokens allows no more)")


def test_keys_pressed_during_an_answer_wait_for_the_prompt(slow_terminal: Terminal) -> None:
    slow_terminal.enter("Write a function that adds two numbers.")
    slow_terminal.wait_for("I need")
    slow_terminal.press("/quit")
    slow_terminal.wait_for("> /quit")
    assert slow_terminal.lines[-1] == "> /quit"
    assert slow_terminal.text.count("/quit") == 1
