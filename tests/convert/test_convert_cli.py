"""`moeflux convert` and `moeflux verify`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import typer
from conversion_sources import N_EXPERTS, N_LAYERS, Sources

from moeflux.checkpoint.convert_files import Progress
from moeflux.cli import convert as commands
from moeflux.cli import progress

app = typer.Typer()
app.command()(commands.convert)
app.command()(commands.verify)


def run(*arguments: object) -> int:
    return int(app([str(argument) for argument in arguments], standalone_mode=False))


def test_convert_makes_a_checkpoint_that_verify_accepts(
    source_folder: Sources, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "packed"
    assert run("convert", source_folder("hf"), folder, "--bits", 4, "--group-size", 32) == 0
    assert run("verify", folder) == 0
    output = capsys.readouterr()
    assert f"read {N_LAYERS * N_EXPERTS} expert records" in output.out
    assert "all is well" in output.out


def test_progress_is_plain_lines_without_a_terminal(
    source_folder: Sources, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("convert", source_folder("mlx"), tmp_path / "packed")
    output = capsys.readouterr()
    lines = [line for line in output.err.splitlines() if line.startswith("converting to")]
    assert output.out == ""
    assert 5 < len(lines) <= progress.PLAIN_STEPS + 1
    assert "(experts/layer_00.bin)" in lines[1]
    assert "\x1b" not in output.err


def test_an_interrupted_conversion_says_how_to_go_on(
    source_folder: Sources,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(_what: str) -> object:
        def show(done: Progress) -> None:
            if 2 * done.done_nbytes > done.total_nbytes:
                raise KeyboardInterrupt

        return show

    monkeypatch.setattr(progress, "plain_lines", interrupt)
    folder = tmp_path / "packed"
    assert run("convert", source_folder("mlx"), folder) == 130
    assert f"kept in {folder}; run the same command again" in capsys.readouterr().err
    monkeypatch.undo()
    assert run("convert", source_folder("mlx"), folder) == 0
    assert "from before" in capsys.readouterr().err


def test_verify_of_a_damaged_checkpoint_fails_and_names_the_part(
    source_folder: Sources, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("convert", source_folder("mlx"), tmp_path / "packed")
    path = tmp_path / "packed" / "experts" / "layer_01.bin"
    data = bytearray(path.read_bytes())
    data[100] ^= 4
    path.write_bytes(data)
    capsys.readouterr()
    assert run("verify", tmp_path / "packed") == 1
    assert "layer 1 expert 0: wanted checksum" in capsys.readouterr().out
    assert run("verify", tmp_path / "packed", "--json") == 1
    values = json.loads(capsys.readouterr().out)
    assert [(part["layer"], part["expert"]) for part in values["damaged"]] == [(1, 0)]
    assert values["has_checksums"] is True


def test_verify_of_an_untouched_checkpoint_says_that_there_are_no_checksums(
    source_folder: Sources, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("verify", source_folder("mlx")) == 0
    assert "no checksums" in capsys.readouterr().out


def test_a_terminal_gets_a_bar(
    source_folder: Sources,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    run("convert", source_folder("mlx"), tmp_path / "packed")
    assert "\x1b[" in capsys.readouterr().err
