"""`moeflux doctor`: a table, a report, and one line for what a user got wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from moeflux.cli import main
from moeflux.doctor import Finding, Report, Status
from moeflux.settings import Settings

Output = pytest.CaptureFixture[str]

OK = Finding("kernels", "matmul", Status.OK, "72 cases, worst error 1e-07 [bold]")
ABSENT = Finding("device", "GPU traces", Status.ABSENT, "none", "set a variable")
PROBLEM = Finding("kernels", "rms_norm", Status.PROBLEM, "far off", "attach the report")


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What the examination was asked for; it finds no problem."""
    arguments: list[object] = []
    use_findings(monkeypatch, arguments, OK, ABSENT)
    return arguments


def use_findings(
    monkeypatch: pytest.MonkeyPatch, arguments: list[object], *findings: Finding
) -> None:
    def examine(
        device: str, path: str | None, settings: Settings, progress: Callable[[Finding], None]
    ) -> Report:
        arguments.extend((device, path, settings.n_threads))
        for finding in findings:
            progress(finding)
        return Report(findings, 3.2, "2026-01-02")

    monkeypatch.setattr("moeflux.cli.doctor.examine", examine)
    monkeypatch.setenv("COLUMNS", "120")


def test_findings_are_listed_and_all_is_well(given: list[object], capsys: Output) -> None:
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "72 cases, worst error 1e-07 [bold]" in out
    assert "not here" in out
    assert out.splitlines()[-1] == "all is well (3 s)"
    assert given == ["auto", None, 0]


def test_a_problem_is_told_with_advice_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    use_findings(monkeypatch, [], OK, PROBLEM)
    assert main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == ["1 problem (3 s)", "- kernels, rms_norm: attach the report"]


def test_options_reach_the_examination(given: list[object]) -> None:
    assert main(["doctor", "--device", "cpu", "--path", "demo", "--threads", "3"]) == 0
    assert given == ["cpu", "demo", 3]


@pytest.mark.usefixtures("given")
def test_the_report_is_json_or_markdown(tmp_path: Path, capsys: Output) -> None:
    for name in ("report.json", "report.md"):
        assert main(["doctor", "--report", str(tmp_path / name)]) == 0
        assert name in capsys.readouterr().err
    assert json.loads((tmp_path / "report.json").read_text())["ok"] is True
    assert (tmp_path / "report.md").read_text().startswith("# moeflux doctor")


def test_a_folder_is_no_report(given: list[object], tmp_path: Path, capsys: Output) -> None:
    folder = tmp_path / "folder.md"
    folder.mkdir()
    assert main(["doctor", "--report", str(folder)]) == 1
    assert "wanted a file" in capsys.readouterr().err
    assert given == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--report", "report.txt"], 2, "FILE.md or FILE.json"),
        (["--report", "missing/report.md"], 1, "missing/report.md: no such folder"),
    ],
)
def test_a_report_that_cannot_be_written_is_refused_before_the_work(
    given: list[object], capsys: Output, arguments: list[str], code: int, message: str
) -> None:
    assert main(["doctor", *arguments]) == code
    assert message in capsys.readouterr().err
    assert given == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--device", "abacus"], 1, "no device 'abacus'"),
        (["--path", "no such folder"], 1, "no such folder"),
        (["--threads", "-1"], 2, "--threads"),
    ],
)
def test_a_mistake_of_the_user_is_one_line(
    capsys: Output, arguments: list[str], code: int, message: str
) -> None:
    assert main(["doctor", *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("moeflux: error: ")
    assert message in line
