"""`moeflux pull`, `moeflux ls` and `moeflux rm`."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from hub_server import NAME, FakeHub

import moeflux
from moeflux.cli import main
from moeflux.hub.pull import used_nbytes

Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def environment(
    settings: moeflux.Settings, offered: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> FakeHub:
    monkeypatch.setenv("MOEFLUX_HUB_ENDPOINT", settings.hub_endpoint)
    monkeypatch.setenv("MOEFLUX_MODELS_FOLDER", settings.models_folder)
    monkeypatch.setenv("COLUMNS", "400")
    return offered


class Terminal(io.StringIO):
    """A person at the keyboard."""

    def isatty(self) -> bool:
        return True


def test_pull_says_where_the_model_is(tmp_path: Path, capsys: Output) -> None:
    assert main(["pull", NAME]) == 0
    output = capsys.readouterr()
    assert output.out == ""
    *progress, last = output.err.splitlines()
    assert last.startswith(f"{tmp_path}/models/org/tiny: org/tiny at 0123456789ab, ")
    assert last.endswith(" fetched")
    assert progress[-1].startswith(f"fetching {NAME}: ")


def test_pull_converts_on_the_way(tmp_path: Path, capsys: Output) -> None:
    arguments = ["pull", NAME, str(tmp_path / "mine"), "--convert", "--bits", "3"]
    assert main(arguments) == 0
    assert moeflux.inspect(tmp_path / "mine").quantisation == "affine 3-bit, groups of 64"
    assert "converting: " in capsys.readouterr().err


def test_pull_of_a_model_that_is_not_there_is_one_line(capsys: Output) -> None:
    assert main(["pull", "org/absent"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "moeflux: error: org/absent: no such model on the hub that you may see"


def test_pull_that_is_interrupted_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("moeflux.cli.models.pull_model", interrupted)
    assert main(["pull", NAME]) == 130
    assert "what has arrived is kept; run the same command again" in capsys.readouterr().err


def test_ls_tells_what_every_model_is(tmp_path: Path, capsys: Output, environment: FakeHub) -> None:
    environment.repositories["org/strange"] = {"config.json": b'{"model_type": "gpt2"}'}
    environment.commits["org/strange"] = "a" * 40
    main(["pull", NAME])
    main(["pull", "org/strange"])
    capsys.readouterr()
    assert main(["ls"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (tiny,) = [line for line in lines if line.startswith(NAME)]
    (strange,) = [line for line in lines if line.startswith("org/strange")]
    for said in ("qwen3_moe", "affine 4-bit, groups of 64", "yes, all of it", f"{tmp_path}/models"):
        assert said in tiny
    assert "cannot be run: " in strange


def test_ls_as_json(capsys: Output, tmp_path: Path) -> None:
    main(["pull", NAME])
    capsys.readouterr()
    assert main(["ls", "--json"]) == 0
    (model,) = json.loads(capsys.readouterr().out)
    folder = tmp_path / "models" / NAME
    assert (model["id"], model["path"], model["nbytes"]) == (NAME, str(folder), used_nbytes(folder))
    assert (model["model_type"], model["pulled"], model["finished"]) == ("qwen3_moe", True, True)
    assert model["fits"] is True


def test_ls_of_nothing_says_so(capsys: Output) -> None:
    assert main(["ls"]) == 0
    output = capsys.readouterr()
    assert (output.out, "no models on this disk" in output.err) == ("", True)
    assert main(["ls", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_an_unfinished_pull_is_told(capsys: Output, environment: FakeHub) -> None:
    environment.damaged.add("config.json")
    assert main(["pull", NAME]) == 1
    capsys.readouterr()
    main(["ls"])
    assert "not whole yet: pull it again to go on" in capsys.readouterr().out


@pytest.mark.parametrize(("answer", "code", "is_left"), [("y\n", 0, False), ("n\n", 1, True)])
def test_rm_asks(
    answer: str,
    code: int,
    is_left: bool,
    tmp_path: Path,
    capsys: Output,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    main(["pull", NAME])
    folder = tmp_path / "models" / NAME
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    capsys.readouterr()
    assert main(["rm", NAME]) == code
    assert f"Remove {folder} (" in "".join(capsys.readouterr())
    assert folder.exists() == is_left


def test_rm_says_what_is_free_now(tmp_path: Path, capsys: Output) -> None:
    main(["pull", NAME])
    folder = tmp_path / "models" / NAME
    nbytes = moeflux.memory.format_size(used_nbytes(folder))
    capsys.readouterr()
    assert main(["rm", NAME, "--yes"]) == 0
    assert capsys.readouterr().err == f"{folder}: removed, {nbytes} are free\n"
    assert not folder.exists()


def test_rm_does_not_guess_where_nobody_can_be_asked(
    tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["pull", NAME])
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    capsys.readouterr()
    assert main(["rm", NAME]) == 2
    assert "--yes" in capsys.readouterr().err
    assert (tmp_path / "models" / NAME).exists()
