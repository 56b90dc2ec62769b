"""`moeflux eval ppl` and `moeflux eval kl` on the demo model."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import moeflux
from moeflux.cli import main

Output = pytest.CaptureFixture[str]
TEXT = "def read_lines(path):\n    with open(path) as file:\n        return list(file)\n"


@pytest.fixture
def text(tmp_path: Path) -> str:
    (tmp_path / "text.py").write_text(TEXT)
    return str(tmp_path / "text.py")


def test_perplexity_is_that_of_the_package(text: str, capsys: Output) -> None:
    with moeflux.load("demo", device="cpu") as model:
        expected = moeflux.perplexity(model, TEXT, window_size=16, stride=8)
    options = ["--ctx-size", "16", "--stride", "8", "--device", "cpu"]
    assert main(["eval", "ppl", "demo", text, *options, "--json"]) == 0
    output = capsys.readouterr()
    assert json.loads(output.out) == expected.as_dict()
    n = expected.n_tokens
    assert output.err.splitlines()[-1].startswith(f"{n} of {n} tokens: nats per token ")


def test_perplexity_for_people(text: str, capsys: Output) -> None:
    with moeflux.load("demo", device="cpu") as model:
        expected = moeflux.perplexity(model, TEXT)
    assert main(["eval", "ppl", "demo", text, "--device", "cpu"]) == 0
    rows = {line[:16].strip(): line[16:].strip() for line in capsys.readouterr().out.splitlines()}
    error = f"± {expected.perplexity_error:.2g}"
    assert rows["perplexity"] == f"{expected.perplexity:.5g} {error}"
    assert rows["nats per token"].startswith(f"{expected.nats_per_token:.5g} ± ")
    assert rows["bits per byte"] == f"{expected.bits_per_byte:.5g}"
    assert rows["tokens"] == f"{expected.n_tokens} scored, {expected.n_bytes} bytes"
    assert rows["windows"] == "2048 tokens, 2048 from one to the next"


def test_a_memory_cap_holds_the_logits_too(text: str, capsys: Output) -> None:
    floor = moeflux.inspect("demo").floor_nbytes + 10_000_000
    assert main(["eval", "ppl", "demo", text, "--memory", str(floor)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "that this model needs and the 71.3 MB for logits" in line


def test_divergence_of_a_model_from_itself_is_nothing(text: str, capsys: Output) -> None:
    assert main(["eval", "kl", "demo", "demo", "--text", text, "--device", "cpu"]) == 0
    rows = {line[:17].strip(): line[17:].strip() for line in capsys.readouterr().out.splitlines()}
    assert rows["mean KL"] == "0 ± 0 nats"
    assert rows["percentiles"] == "50 % 0, 90 % 0, 99 % 0, 99.9 % 0, most 0 nats"
    assert rows["top-1 agreement"] == "100.000%"


def test_divergence_as_json(text: str, capsys: Output) -> None:
    assert main(["eval", "kl", "demo", "demo", "--text", text, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["mean"] == 0.0
    assert values["top_1_agreement"] == 1.0


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [(b"", 2, "has 0 tokens"), (b"\xff\xfe", 2, "wanted UTF-8 text"), (None, 1, "text.py")],
)
def test_a_text_that_cannot_be_scored_is_told(
    tmp_path: Path, capsys: Output, content: bytes | None, code: int, message: str
) -> None:
    path = tmp_path / "text.py"
    if content is not None:
        path.write_bytes(content)
    assert main(["eval", "ppl", "demo", str(path)]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_terminal_gets_a_bar(text: str, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert main(["eval", "ppl", "demo", text]) == 0
    assert "\x1b[" in capsys.readouterr().err
