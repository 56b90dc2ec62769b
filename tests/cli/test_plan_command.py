"""`moeflux plan`: what a run would need, in tables or as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import moeflux
from moeflux.cli import main
from moeflux.engine import decode_speed, read_speed
from tiny_checkpoint import CheckpointFolders

Output = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tiny_folder: CheckpointFolders, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("moeflux.engine.budget.resident_memory", lambda: 1_000_000)
    monkeypatch.setattr(read_speed, "MEASURED_SECONDS", 0.02)
    monkeypatch.setattr(decode_speed, "MEASURED_SECONDS", 0.01)
    monkeypatch.setenv("COLUMNS", "120")
    return tiny_folder("qwen3_moe", "mlx")


def test_purposes_and_speeds_are_listed(folder: Path, capsys: Output) -> None:
    options = ["--ctx-size", "128", "--threads", "1", "--device", "cpu"]
    assert main(["plan", str(folder), *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line[:25].strip(): line[27:].strip() for line in lines}
    assert rows["context"] == "128 tokens"
    assert rows["device"].endswith("1 thread")
    assert rows["interpreter and libraries"] == "1 MB"
    assert rows["expert slots"].endswith("32 of 32 experts (100%)")
    assert rows["hit rate"].startswith("100% (uniform routing")
    assert rows["misses"] == "none once every expert has been read"
    assert rows["expected speed"].endswith(" tok/s")
    rates = [line.split()[0] for line in lines if line.endswith("tok/s")]
    assert rates == ["0%", "25%", "50%", "75%", "90%", "100%"]


def test_a_cap_that_streams_says_where_misses_come_from(
    folder: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOEFLUX_READ_MODE", "page-cache")
    needs = moeflux.plan(folder, device="cpu").needs
    memory = needs.fixed_nbytes + 8 * needs.slot_nbytes
    assert main(["plan", str(folder), "--memory", str(memory)]) == 0
    out = capsys.readouterr().out
    assert "8 of 32 experts (25%)" in out
    assert "from the page cache" in out


def test_json_has_the_whole_plan(folder: Path, capsys: Output) -> None:
    assert main(["plan", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["info"]["path"] == str(folder)
    assert found["n_slots"] == 32
    assert [row["hit_rate"] for row in found["speeds"]] == [0.0, 0.25, 0.5, 0.75, 0.9, 1.0]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--memory", "1MB"], 1, "memory of 1 MB is below the "),
        (["--memory", "lots"], 2, "a memory size looks like"),
        (["--device", "abacus"], 1, "abacus"),
        (["--trace", "missing.trace"], 1, "missing.trace"),
    ],
)
def test_a_plan_that_cannot_be_made_is_one_line(
    folder: Path, capsys: Output, arguments: list[str], code: int, message: str
) -> None:
    assert main(["plan", str(folder), *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("moeflux: error: ")
    assert message in line
