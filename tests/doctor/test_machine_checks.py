"""What the doctor says of installation, processor and memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import moeflux
from moeflux.doctor import Finding, Status, machine
from moeflux.doctor.machine import check_installation, check_machine, control_group_cores


def by_name(findings: Iterator[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def group(root: Path, path: str, quota: str) -> None:
    folder = root / "sys/fs/cgroup" / path
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.max").write_text(quota)


def membership(root: Path, text: str) -> None:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(text)


def test_versions_are_told() -> None:
    versions = by_name(check_installation())["versions"]
    assert f"moeflux {moeflux.__version__}" in versions.said
    assert "NumPy" in versions.said


def test_every_backend_is_there_or_has_a_reason() -> None:
    found = by_name(check_installation())
    for device in moeflux.devices():
        finding = found[f"backend {device.name}"]
        assert finding.said == (device.description if device.available else device.reason)
        assert (finding.status is Status.OK) is device.available


def test_a_backend_that_is_there_and_does_not_open_is_a_problem(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = moeflux.api.DeviceInfo("metal", "", available=True, reason="no command queue")
    monkeypatch.setattr(machine, "devices", lambda: [broken])
    metal = by_name(check_installation())["backend metal"]
    assert (metal.status, metal.said) == (Status.PROBLEM, "no command queue")


def test_the_backend_of_the_operating_system_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.platform, "system", lambda: "Darwin")
    missing = moeflux.api.DeviceInfo("metal", "", available=False, reason="no metal backend")
    monkeypatch.setattr(machine, "devices", lambda: [missing])
    metal = by_name(check_installation())["backend metal"]
    assert metal.status is Status.PROBLEM
    assert "pip install" in metal.advice


def test_a_control_group_that_allows_fewer_cores_is_a_problem(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "control_group_cores", lambda: 0.5)
    processor = by_name(check_machine())["processor"]
    assert processor.status is Status.PROBLEM
    assert "--threads 1" in processor.advice


def test_little_memory_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available_memory", lambda: 900_000_000)
    memory = by_name(check_machine())["memory"]
    assert memory.status is Status.PROBLEM
    assert "900 MB available" in memory.said


def test_enough_memory_is_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available_memory", lambda: 9_000_000_000)
    assert by_name(check_machine())["memory"].status is Status.OK


def test_the_smallest_quota_of_the_groups_above_counts(tmp_path: Path) -> None:
    membership(tmp_path, "0::/outer/inner\n")
    group(tmp_path, "outer/inner", "max 100000")
    group(tmp_path, "outer", "150000 100000\n")
    assert control_group_cores(tmp_path) == 1.5


def test_without_quota_or_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert control_group_cores(tmp_path) is None
    membership(tmp_path, "4:memory:/x\n0::/\n")
    group(tmp_path, "", "max 100000")
    assert control_group_cores(tmp_path) is None
