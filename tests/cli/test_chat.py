"""`moeflux chat` through pipes: a message a line, answers alone on standard output."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import moeflux
from moeflux.chat import Content
from moeflux.cli import main
from moeflux.cli.chat import PlainScreen
from moeflux.engine.conversation import Conversation
from moeflux.engine.request import RequestOptions

Output = pytest.CaptureFixture[str]
Talk = Callable[..., int]
OPTIONS = ("--max-tokens", "60", "--temp", "0", "--device", "cpu", "--ctx-size", "512")


@pytest.fixture
def talk(monkeypatch: pytest.MonkeyPatch) -> Talk:
    """Run a chat with the demo model on lines of input; returns the exit code."""

    def run(text: str | bytes, *options: str) -> int:
        data = text.encode() if isinstance(text, str) else text
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        return main(["chat", "demo", *OPTIONS, *options])

    return run


def expected(*questions: str, system: str | None = None) -> str:
    settings = moeflux.Settings(context_size=512)
    with moeflux.load("demo", device="cpu", settings=settings) as model:
        options = RequestOptions(max_tokens=60, temperature=0.0)
        conversation = Conversation(model, system, options)
        texts = []
        for question in questions:
            parts = [part for part in conversation.ask(question) if isinstance(part, Content)]
            texts.append("".join(part.text for part in parts) + "\n")
    return "".join(texts)


def test_answers_alone_go_to_standard_output(talk: Talk, capsys: Output) -> None:
    assert talk("Write a function that adds.\nThanks.\n") == 0
    output = capsys.readouterr()
    assert output.out == expected("Write a function that adds.", "Thanks.")
    assert "def " in output.out
    assert output.err == ""


def test_a_last_line_without_its_end_and_blank_lines(talk: Talk, capsys: Output) -> None:
    assert talk("\n  \nWrite a function that adds.") == 0
    assert capsys.readouterr().out == expected("Write a function that adds.")


def test_no_message_is_no_mistake(talk: Talk, capsys: Output) -> None:
    assert talk("") == 0
    assert capsys.readouterr().out == ""


def test_system_message_is_an_option_and_a_command(talk: Talk, capsys: Output) -> None:
    assert talk("Write.\n", "--system", "You add.") == 0
    assert capsys.readouterr().out == expected("Write.", system="You add.")
    assert talk("/system You add.\n/system\nWrite.\n") == 0
    output = capsys.readouterr()
    assert output.out == expected("Write.", system="You add.")
    assert output.err.splitlines() == ["system message: You add."] * 2


def test_undo_and_reset_begin_where_they_say(talk: Talk, capsys: Output) -> None:
    assert talk("One.\n/undo\nTwo.\n/reset\nTwo.\n/undo\n/undo\n") == 0
    output = capsys.readouterr()
    one, two = expected("One."), expected("Two.")
    assert output.out == one + two + two
    assert output.err.splitlines() == [
        "taken back: One.",
        "the conversation begins anew",
        "taken back: Two.",
        "nothing to take back",
    ]


def test_thinking_can_be_switched_off(talk: Talk, capsys: Output) -> None:
    assert talk("/think off\nWrite a function.\n/stats\n") == 0
    output = capsys.readouterr()
    assert output.err.splitlines()[0] == "the model is asked not to think"
    assert output.out.strip()


def test_stats_tell_what_was_kept(talk: Talk, capsys: Output) -> None:
    assert talk("/stats\nWrite a function that adds.\nThanks.\n/stats\n") == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "context: 0 of 512 tokens"
    kept = int(lines[1].removeprefix("prompt: ").split()[0])
    assert kept > 5
    assert lines[2].startswith("answer: ")
    assert lines[-1].endswith(" of 512 tokens")


def test_a_saved_conversation_is_loaded_and_goes_on(
    talk: Talk, capsys: Output, tmp_path: Path
) -> None:
    path = tmp_path / "talk"
    assert talk(f"Write a function that adds.\n/save {path}\nThanks.\n") == 0
    first = capsys.readouterr()
    assert first.err == f"saved to {path}.json and talk.json.snapshot\n"
    messages = json.loads(path.with_suffix(".json").read_text())["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant"]
    assert talk(f"/load {path}\nThanks.\n/stats\n") == 0
    second = capsys.readouterr()
    assert second.err.startswith(f"loaded 2 messages from {path}.json\nprompt: ")
    assert not second.err.startswith(f"loaded 2 messages from {path}.json\nprompt: 0 ")
    assert first.out.endswith(second.out)


def test_a_message_may_begin_with_a_slash(talk: Talk, capsys: Output) -> None:
    assert talk("//etc/hosts is a file.\n") == 0
    assert capsys.readouterr().out == expected("/etc/hosts is a file.")


def test_quit_ends_before_what_follows(talk: Talk, capsys: Output) -> None:
    assert talk("/quit\nWrite a function.\n") == 0
    assert capsys.readouterr().out == ""


def test_help_names_every_command(talk: Talk, capsys: Output) -> None:
    assert talk("/help\n") == 0
    told = capsys.readouterr().err
    for name in ("/system", "/think", "/undo", "/reset", "/save", "/load", "/stats", "/quit"):
        assert f"\n{name} " in f"\n{told}"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/nope", "/nope: no such command; /help lists them"),
        ("/save", "/save: wanted the name of a file"),
        ("/load /no/such/file", "/no/such/file.json: no such file"),
        ("/save ~no-such-user/x", "~no-such-user/x: there is no such home directory"),
        ("/think hard", "/think: wanted show, hide, on or off, got 'hard'"),
        ("word " * 2000, "/undo and /reset make room, --ctx-size gives more"),
    ],
)
def test_a_mistake_is_one_line_and_the_conversation_goes_on(
    talk: Talk, capsys: Output, line: str, message: str
) -> None:
    assert talk(f"{line}\nWrite a function that adds.\n") == 1
    output = capsys.readouterr()
    (told,) = output.err.splitlines()
    assert message in told
    assert output.out == expected("Write a function that adds.")


def test_a_file_of_others_is_not_written_over(talk: Talk, capsys: Output, tmp_path: Path) -> None:
    path = tmp_path / "letter.json"
    path.write_text('{"dear": "Sir"}')
    assert talk(f"/save {path}\n") == 1
    assert "is there already, and no saved conversation" in capsys.readouterr().err
    assert path.read_text() == '{"dear": "Sir"}'


def test_input_that_is_not_text_is_wrong_usage(talk: Talk, capsys: Output) -> None:
    assert talk(b"\xff\n") == 2
    assert "standard input must be UTF-8 text" in capsys.readouterr().err


@pytest.mark.parametrize("stream", ["stdin", "stdout"])
def test_a_closed_stream_is_told(
    capsys: Output, monkeypatch: pytest.MonkeyPatch, stream: str
) -> None:
    monkeypatch.setattr(sys, stream, None)
    assert main(["chat", "demo"]) == 1
    assert "must be open" in capsys.readouterr().err


def test_an_interrupt_ends_it(talk: Talk, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Conversation, "ask", interrupted)
    assert talk("Hello.\n") == 130
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("terminal", "shown"), [(True, "\ufffd[2Ja\n"), (False, "\x1b[2Ja\n")])
def test_an_answer_does_not_steer_a_terminal(
    capsys: Output, monkeypatch: pytest.MonkeyPatch, terminal: bool, shown: str
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    PlainScreen().show(part for part in [Content("\x1b[2Ja")])
    assert capsys.readouterr().out == shown
