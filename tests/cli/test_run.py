"""`moeflux run`: text on standard output, receipt on standard error, one line for every mistake."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from stand_ins import STATS, StandInModel

import moeflux
from moeflux.cli import main
from moeflux.cli.receipt import receipt
from moeflux.experts.timeline import Timeline

Output = pytest.CaptureFixture[bytes]


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandInModel:
    model = StandInModel()
    monkeypatch.setattr(moeflux, "load", model.load)
    return model


def errors_of(output: Output) -> list[str]:
    return output.readouterr().err.decode().splitlines()


# ---- text and receipt ----


def test_output_is_the_text_and_a_newline(stand_in: StandInModel, capsysbinary: Output) -> None:
    assert main(["run", "demo", "Say"]) == 0
    captured = capsysbinary.readouterr()
    assert captured.out == "Hello, wörld\n".encode()
    assert captured.err.decode() == receipt(STATS) + "\n"
    assert stand_in.closed


def test_control_characters_and_line_ends_of_the_text_are_left_as_they_are(
    stand_in: StandInModel, capsysbinary: Output
) -> None:
    stand_in.texts = ("a\r\n", "\x1b[31m", "[bold]", "\x00")
    main(["run", "demo", "Say"])
    assert capsysbinary.readouterr().out == b"a\r\n\x1b[31m[bold]\x00\n"


def test_receipt_tells_speed_reads_and_memory() -> None:
    assert receipt(STATS) == (
        "prefill 80 tok/s (40 tokens), decode 2.5 tok/s (11 tokens), "
        "read 5.1 GB (100 MB per token), peak memory 2 GB"
    )


@pytest.mark.usefixtures("stand_in")
def test_stats_are_tables_on_standard_error(capsysbinary: Output) -> None:
    assert main(["run", "demo", "Say", "--stats"]) == 0
    captured = capsysbinary.readouterr()
    assert captured.out == "Hello, wörld\n".encode()
    rows = {line[:28].strip(): line[28:].split() for line in captured.err.decode().splitlines()}
    assert rows["waiting for experts"] == ["0.100", "s", "(20%)", "2.500", "s", "(62%)"]
    assert rows["host"] == ["0.100", "s", "(20%)", "0.500", "s", "(12%)"]
    assert rows["experts ready"] == ["0", "(0.0%)", "60", "(75.0%)"]
    assert rows["from drives"] == ["2", "GB", "2.2", "GB"]
    assert rows["from the page cache"] == ["1", "GB", "0", "B"]
    assert rows["reads that failed"] == ["0", "1"]
    text = captured.err.decode()
    assert "bound by           disk: waiting for experts took most of the time" in text
    assert "longest waits      layer 0 2.000 s, layer 1 0.500 s" in text
    assert "prefetch governor  at token 80 on: prefetch saves 25.0% of a token's time" in text
    assert rows["precision by rank, %"] == ["75", "50"]
    assert rows["guessed bytes wasted"] == ["200", "MB"]


@pytest.mark.usefixtures("stand_in")
def test_stats_as_json_go_to_a_file_or_to_standard_output(
    capsysbinary: Output, tmp_path: Path
) -> None:
    assert main(["run", "demo", "Say", "--stats-json", str(tmp_path / "a.json")]) == 0
    assert capsysbinary.readouterr().err.decode() == receipt(STATS) + "\n"
    found = json.loads((tmp_path / "a.json").read_text())
    assert found == json.loads(json.dumps(STATS.as_dict()))
    assert main(["run", "demo", "Say", "--stats-json", "-"]) == 0
    text, _, rest = capsysbinary.readouterr().out.decode().partition("\n")
    assert (text, json.loads(rest)) == ("Hello, wörld", found)


@pytest.mark.parametrize("option", ["--stats-json", "--trace"])
def test_a_file_that_cannot_be_written_is_told_before_loading(
    stand_in: StandInModel, capsysbinary: Output, tmp_path: Path, option: str
) -> None:
    assert main(["run", "demo", "Say", option, str(tmp_path / "missing" / "a.json")]) == 1
    (line,) = errors_of(capsysbinary)
    assert line.endswith("a.json: no such folder")
    assert stand_in.loaded_with == ()


def test_a_timeline_is_written_even_if_the_run_is_interrupted(
    stand_in: StandInModel, tmp_path: Path
) -> None:
    stand_in.texts = ("one", KeyboardInterrupt())
    assert main(["run", "demo", "Say", "--trace", str(tmp_path / "a.json")]) == 130
    assert isinstance(stand_in.arguments["timeline"], Timeline)
    assert "traceEvents" in json.loads((tmp_path / "a.json").read_text())


# ---- arguments ----


def test_only_options_that_are_given_reach_the_model(stand_in: StandInModel) -> None:
    main(["run", "demo", "Say"])
    assert stand_in.prompt == "Say"
    assert stand_in.arguments == {"max_tokens": 256, "stop": []}
    assert stand_in.loaded_with == ("demo", "auto", None, moeflux.Settings())


def test_every_option_reaches_the_model(stand_in: StandInModel) -> None:
    options = "--max-tokens 5 --temp 0.5 --top-p 0.9 --top-k 20 --min-p 0.05 --seed 3"
    options += " --repetition-penalty 1.1 --presence-penalty 0.2 --frequency-penalty -0.3"
    options += " --stop a --stop b --device cpu --memory 8GB --threads 2 --ctx-size 64"
    assert main(["run", "demo", "Say", *options.split()]) == 0
    assert stand_in.arguments == {
        "max_tokens": 5,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 20,
        "min_p": 0.05,
        "seed": 3,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.2,
        "frequency_penalty": -0.3,
        "stop": ["a", "b"],
    }
    settings = moeflux.Settings(n_threads=2, context_size=64)
    assert stand_in.loaded_with == ("demo", "cpu", "8GB", settings)


def test_settings_come_from_the_environment_where_no_option_is_given(
    stand_in: StandInModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOEFLUX_N_THREADS", "3")
    monkeypatch.setenv("MOEFLUX_CONTEXT_SIZE", "512")
    main(["run", "demo", "Say", "--threads", "1"])
    assert stand_in.loaded_with[3] == moeflux.Settings(n_threads=1, context_size=512)


def test_chat_makes_messages(stand_in: StandInModel) -> None:
    main(["run", "demo", "Hi", "--chat", "--system", "Be kind."])
    assert stand_in.prompt == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
    ]


def test_prompt_is_read_from_standard_input_unchanged(
    stand_in: StandInModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("é\r\n ".encode())))
    assert main(["run", "demo", "-"]) == 0
    assert stand_in.prompt == "é\r\n "


# ---- mistakes ----


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "demo"], "Missing argument 'PROMPT'"),
        (["run", "demo", "a", "b"], "unexpected extra argument"),
        (["run", "demo", "a", "--temp", "warm"], "'--temp'"),
        (["run", "demo", "a", "--temp", "-1"], "'--temp'"),
        (["run", "demo", "a", "--top-p", "1.5"], "'--top-p'"),
        (["run", "demo", "a", "--max-tokens", "0"], "'--max-tokens'"),
        (["run", "demo", "a", "--unknown"], "--unknown"),
        (["run", "demo", "a", "--system", "b"], "only with --chat"),
        (["run", "demo", "a", "--memory", "lots"], 'memory size looks like "8GB"'),
        (["nonsense"], "No such command 'nonsense'"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(
    stand_in: StandInModel, capsysbinary: Output, arguments: list[str], message: str
) -> None:
    assert main(arguments) == 2
    (line,) = errors_of(capsysbinary)
    assert line.startswith("moeflux: error: ")
    assert message in line
    assert stand_in.loaded_with == ()


def test_standard_input_that_is_not_text_is_wrong_usage(
    stand_in: StandInModel, monkeypatch: pytest.MonkeyPatch, capsysbinary: Output
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff")))
    assert main(["run", "demo", "-"]) == 2
    assert "standard input must be UTF-8" in errors_of(capsysbinary)[0]
    assert stand_in.loaded_with == ()


@pytest.mark.parametrize(("stream", "prompt"), [("stdout", "Say"), ("stdin", "-")])
def test_closed_stream_is_told(
    stand_in: StandInModel,
    monkeypatch: pytest.MonkeyPatch,
    capsysbinary: Output,
    stream: str,
    prompt: str,
) -> None:
    monkeypatch.setattr(sys, stream, None)
    assert main(["run", "demo", prompt]) == 1
    assert errors_of(capsysbinary)[0].endswith("is closed")
    assert stand_in.loaded_with == ()


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("top_p must be above 0"), 2, "top_p must be above 0"),
        (moeflux.CheckpointError("a.safetensors:\n truncated"), 1, "a.safetensors: truncated"),
        (moeflux.CheckpointError("model_type '\x1b[2J'"), 1, "model_type '?[2J'"),
        (moeflux.ContextOverflowError(0, 9, 8), 1, "9 tokens at position 0 exceed"),
        (moeflux.ChatTemplateError("no chat template"), 1, "no chat template"),
        (moeflux.OutOfMemoryError("no room for 5 bytes"), 1, "no room for 5 bytes"),
        (PermissionError(13, "Permission denied", "x.json"), 1, "Permission denied: 'x.json'"),
        (MemoryError(), 1, "out of memory"),
    ],
)
def test_failure_is_one_line_and_its_code(
    stand_in: StandInModel,
    capsysbinary: Output,
    error: Exception,
    code: int,
    message: str,
) -> None:
    stand_in.texts = ("begun", error)
    assert main(["run", "demo", "Say"]) == code
    (line,) = errors_of(capsysbinary)
    assert line.startswith("moeflux: error: ")
    assert message in line
    assert stand_in.closed


def test_interrupt_ends_with_what_was_done(stand_in: StandInModel, capsysbinary: Output) -> None:
    stand_in.texts = ("one", "two", KeyboardInterrupt())
    assert main(["run", "demo", "Say"]) == 130
    captured = capsysbinary.readouterr()
    assert captured.out == b"onetwo\n"
    assert captured.err.decode() == f"interrupted after 11 tokens\n{receipt(STATS)}\n"
    assert stand_in.closed


def test_interrupt_while_loading_is_silent(
    monkeypatch: pytest.MonkeyPatch, capsysbinary: Output
) -> None:
    def load(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(moeflux, "load", load)
    assert main(["run", "demo", "Say"]) == 130
    assert capsysbinary.readouterr().err.strip() == b""


# ---- the process ----

PROGRAM = """
import itertools, signal, sys, time
# A process started in the background inherits that SIGINT is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, {folder!r})
import moeflux
from moeflux.cli import main
from stand_ins import StandInModel

class Endless(StandInModel):
    def events(self):
        for n in itertools.count():
            yield moeflux.Event("token\\n", n)
            time.sleep({pause})

moeflux.load = Endless().load
sys.exit(main(["run", "demo", "Say"]))
"""


def start(pause: float) -> subprocess.Popen[bytes]:
    program = PROGRAM.format(folder=str(Path(__file__).parent), pause=pause)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )


def test_closed_pipe_ends_quietly() -> None:
    with start(pause=0) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"token\n"
        process.stdout.close()
        assert process.wait(timeout=30) == 141
        assert process.stderr.read() == b""


def test_interrupt_of_the_process_ends_it_with_130() -> None:
    with start(pause=0.01) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"token\n"
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.stdout.read().endswith(b"token\n\n")
        assert process.wait(timeout=30) == 130
        interrupted, cost = process.stderr.read().decode().splitlines()
        assert interrupted.startswith("interrupted after ")
        assert cost == receipt(STATS)


@pytest.mark.parametrize(
    "command",
    [
        ["run", "demo", "x"],
        ["chat", "demo"],
        ["bench", "demo"],
        ["plan", "demo"],
        ["eval", "ppl", "demo", __file__],
        ["trace", "record", "demo", "x", "-o", "x.gz"],
    ],
    ids=lambda command: command[0],
)
def test_a_cap_on_memory_that_the_device_does_not_have_is_one_line(
    capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    assert main([*command, "--device", "cpu", "--vram", "1GB"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "vram of 1GB was asked for, but the cpu device" in line
    assert "has no memory of its own" in line
