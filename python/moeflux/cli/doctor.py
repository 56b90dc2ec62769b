"""`moeflux doctor`: whether all of it works here, and a report to attach to an issue."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from moeflux.cli.exit_code import ExitCode
from moeflux.cli.options import DeviceOption, ThreadsOption, given_settings
from moeflux.cli.table import compact_table
from moeflux.doctor import Finding, Report, Status, examine

STYLES = {Status.OK: "green", Status.PROBLEM: "bold red", Status.ABSENT: "dim"}

_Report = Annotated[
    Path | None,
    typer.Option("--report", metavar="FILE", help="Write a report too: FILE.md or FILE.json."),
]
_Path = Annotated[
    str | None,
    typer.Option("--path", metavar="PATH", help="Measure the drive of this folder or model."),
]


def doctor(
    device: DeviceOption = "auto",
    report: _Report = None,
    path: _Path = None,
    threads: ThreadsOption = None,
) -> ExitCode:
    """Check installation, machine, device, every kernel, drive and demo model.

    Takes up to two minutes. The report names hardware and versions, not you or your folders.
    """
    if report is not None:
        _check_can_write(report)
    console = Console(stderr=True)
    with console.status("examining") as status:

        def show(finding: Finding) -> None:
            status.update(Text(f"examining: {finding.topic}, {finding.name}"))

        found = examine(device, path, given_settings(threads, None), show)
    Console(highlight=False).print(_table(found))
    _print_verdict(found)
    if report is not None:
        report.write_text(_contents(found, report), encoding="utf-8")
        print(f"{report}: the report, to attach to an issue", file=sys.stderr)
    return ExitCode.FAILED if found.problems else ExitCode.DONE


def _check_can_write(report: Path) -> None:
    """Raises before the examination rather than after it."""
    if report.suffix not in (".json", ".md"):
        raise typer.BadParameter(
            f"wanted FILE.md or FILE.json, got {report}", param_hint="--report"
        )
    if not report.absolute().parent.is_dir():
        raise FileNotFoundError(f"{report}: no such folder")
    if report.is_dir():
        raise IsADirectoryError(f"{report}: wanted a file, it is a folder")


def _contents(found: Report, report: Path) -> str:
    if report.suffix == ".json":
        return json.dumps(found.as_dict(), indent=2) + "\n"
    return found.as_markdown()


def _table(found: Report) -> Table:
    table = compact_table("")
    table.title = None
    for name in ("", "", ""):
        table.add_column(name, no_wrap=True)
    table.show_header = False
    table.add_column(overflow="fold")
    topic = ""
    for index, finding in enumerate(found.findings):
        following = found.findings[index + 1 : index + 2]
        table.add_row(
            Text(finding.topic if finding.topic != topic else "", style="bold"),
            Text(finding.name),
            Text(finding.status.value, style=STYLES[finding.status]),
            Text(finding.said),
            end_section=any(other.topic != finding.topic for other in following),
        )
        topic = finding.topic
    return table


def _print_verdict(found: Report) -> None:
    print(found.verdict)
    for finding in found.problems:
        print(f"- {finding.topic}, {finding.name}: {finding.advice}")
