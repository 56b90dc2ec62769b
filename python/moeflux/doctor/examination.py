"""The whole examination, in order, and the report that comes out of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

from moeflux._core import Device
from moeflux.api import BACKENDS
from moeflux.backends import open_device
from moeflux.doctor.demo_check import check_demo
from moeflux.doctor.device_checks import check_capture, check_device, check_memory_speed
from moeflux.doctor.drive import check_drive
from moeflux.doctor.failures import EXPECTED, told
from moeflux.doctor.findings import Finding, Status, without_folders
from moeflux.doctor.kernel_checks import check_bits, check_kernels
from moeflux.doctor.machine import check_installation, check_machine
from moeflux.engine.chosen import open_named_device
from moeflux.errors import DeviceError
from moeflux.hub import DEMO, resolve
from moeflux.settings import Settings

FORMAT = 1
"""Of the report's dictionary."""


@dataclass(frozen=True)
class Report:
    """All findings of one examination."""

    findings: tuple[Finding, ...]
    seconds: float
    date: str

    @property
    def problems(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.status is Status.PROBLEM)

    @property
    def verdict(self) -> str:
        count = len(self.problems)
        found = f"{count} problem{'s' if count > 1 else ''}" if count else "all is well"
        return f"{found} ({self.seconds:.0f} s)"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "format": FORMAT,
            "date": self.date,
            "seconds": self.seconds,
            "ok": not self.problems,
            "findings": [finding.as_dict() for finding in self.findings],
        }

    def as_markdown(self) -> str:
        """Tables by topic, for an issue."""
        lines = ["# moeflux doctor", "", f"{self.date}: {self.verdict}."]
        topic = ""
        for finding in self.findings:
            if finding.topic != topic:
                topic = finding.topic
                lines += ["", f"## {topic}", "", "| | | |", "| --- | --- | --- |"]
            cells = (finding.name, finding.status.value, finding.said)
            lines.append("| " + " | ".join(map(_cell, cells)) + " |")
        if self.problems:
            lines += ["", "## What to do", ""]
            lines += [f"- {_cell(found.name)}: {_cell(found.advice)}" for found in self.problems]
        return "\n".join(lines) + "\n"


def examine(
    device_name: str = "auto",
    path: str | None = None,
    settings: Settings | None = None,
    progress: Callable[[Finding], None] | None = None,
) -> Report:
    """Look at installation, machine, device, kernels, drive and demo model; under two minutes.

    Settings that round what is computed are left out: kernels are held to their formulas.
    `path`: a folder or model on the drive to measure; without, that of the installation. `progress`
    gets each finding when it is made. Raises DeviceError for a name that no backend has, and
    CheckpointError for a model that does not exist.
    """
    settings = replace(settings or Settings.from_environment(), activations="float32")
    asked = settings.device if device_name == "auto" else device_name
    if asked != "auto" and asked not in BACKENDS:
        raise DeviceError(f"no device {asked!r}; there are auto, {', '.join(BACKENDS)}")
    folder = resolve(DEMO if path is None else path)
    place = "the installation" if path is None else "the folder that was asked for"
    started, findings = time.perf_counter(), []
    private = (folder, folder.absolute(), folder.resolve(), Path.home(), Path.cwd())
    for finding in _findings(asked, folder, place, settings):
        said, advice = (without_folders(text, private) for text in (finding.said, finding.advice))
        findings.append(replace(finding, said=said, advice=advice))
        if progress is not None:
            progress(findings[-1])
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    return Report(tuple(findings), time.perf_counter() - started, date)


def _findings(asked: str, folder: Path, place: str, settings: Settings) -> Iterator[Finding]:
    yield from check_installation()
    yield from check_machine()
    try:
        device, alone = (
            open_named_device(asked, replace(settings, n_threads=n))
            for n in (settings.n_threads, 1)
        )
    except EXPECTED as failure:
        advice = "Choose another one with --device; `moeflux devices` lists them."
        yield Finding("device", "device", Status.PROBLEM, told(failure), advice)
        yield from check_drive(open_device("cpu"), folder, place)
        return
    yield from _of_device(device, alone, settings)
    yield from check_drive(device, folder, place)
    yield from check_demo(asked, settings)


def _of_device(device: Device, alone: Device, settings: Settings) -> Iterator[Finding]:
    """A device that fails at one of these is examined no further."""
    checks = chain(
        check_device(device),
        check_capture(device),
        check_kernels(device),
        check_bits(device, alone),
        check_memory_speed(device, settings.n_threads),
    )
    try:
        yield from checks
    except EXPECTED as failure:
        advice = "Attach this report to an issue."
        yield Finding("device", "examination", Status.PROBLEM, told(failure), advice)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
