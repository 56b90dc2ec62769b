"""`moeflux chat` in a terminal, as its user sees it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from terminal import Terminal, running

OPTIONS = ("--temp", "0", "--device", "cpu")


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    history = str(tmp_path / "folder" / "history")
    with running("chat", "demo", *OPTIONS, MOEFLUX_CHAT_HISTORY=history) as opened:
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
    terminal: Terminal,
) -> None:
    terminal.enter("Write a very long class with many methods.")
    terminal.wait_for("class")
    terminal.press("\x03")
    terminal.wait_for("(stopped)")
    terminal.wait_for_prompt()
    terminal.press("\x03")
    assert terminal.exit_code() == 0


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
