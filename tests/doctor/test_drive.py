"""The drive check: what is read, what is written and removed, and what counts as a problem."""

from __future__ import annotations

from pathlib import Path

import pytest

from moeflux._core import Device, open_device
from moeflux.doctor import Finding, Status, drive
from moeflux.doctor.drive import BLOCK_NBYTES, Drive, check_drive


@pytest.fixture
def device() -> Device:
    return open_device("cpu", 1)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drive, "MEASURED_SECONDS", 0.01)
    monkeypatch.setattr(drive, "WRITTEN_NBYTES", 5 * BLOCK_NBYTES)
    monkeypatch.setattr(drive, "N_WORKERS", (1, 2))
    # A drive that others keep busy is slow as well.
    monkeypatch.setattr(drive, "LEAST_NBYTES_PER_SECOND", 1)


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_a_model_is_read_and_nothing_is_written(device: Device, tmp_path: Path) -> None:
    experts = tmp_path / "packed_experts" / "layer_00.bin"
    experts.parent.mkdir()
    experts.write_bytes(bytes(4 * BLOCK_NBYTES + 5))
    (tmp_path / "config.json").write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    findings = check_drive(device, tmp_path, "the folder")
    assert "8.39 MB in the folder" in next(findings).said
    assert sorted(tmp_path.rglob("*")) == before
    assert all(finding.status is not Status.PROBLEM for finding in findings)


def test_in_an_empty_folder_a_file_is_written_and_removed(device: Device, tmp_path: Path) -> None:
    found = by_name(list(check_drive(device, tmp_path, "the folder")))
    assert found["file"].said.startswith("10.5 MB in the folder")
    assert list(tmp_path.iterdir()) == []


def test_speeds_are_told_by_workers_and_state_of_the_page_cache(
    device: Device, tmp_path: Path
) -> None:
    found = by_name(list(check_drive(device, tmp_path, "the folder")))
    assert found["bytes"].status is Status.OK
    assert found["page cache"].values["warm_bytes_per_second"] > 0
    direct = found["direct reads"]
    if direct.status is Status.OK:  # some file systems, as those in memory, have none
        assert set(direct.values["bytes_per_second_by_workers"]) == {"1", "2"}


def test_a_slow_drive_is_a_problem_with_advice(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drive, "LEAST_NBYTES_PER_SECOND", 1e15)
    monkeypatch.setattr(Drive, "blocks", lambda _self, direct: iter(()))  # noqa: ARG005
    monkeypatch.setattr(Drive, "nbytes_per_second", lambda *_, **__: 1e6)
    found = by_name(list(check_drive(device, tmp_path, "the folder")))
    assert found["direct reads"].status is Status.PROBLEM
    assert "NVMe" in found["direct reads"].advice


def test_where_the_page_cache_cannot_be_emptied_speeds_are_not_called_cold(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Drive, "blocks", lambda _self, direct: iter(()))  # noqa: ARG005
    monkeypatch.setattr(Drive, "nbytes_per_second", lambda *_, **__: 1e9)
    monkeypatch.setattr(Drive, "drop_from_page_cache", lambda _: False)
    found = by_name(list(check_drive(device, tmp_path, "the folder")))
    assert "maybe from the page cache" in found["direct reads"].said
    assert set(found["page cache"].values) == {"warm_bytes_per_second"}


def test_a_file_system_without_direct_reads_is_no_problem(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Drive.blocks

    def blocks(self: Drive, *, direct: bool) -> object:
        if direct:
            raise OSError(22, "Invalid argument")
        return read(self, direct=direct)

    monkeypatch.setattr(Drive, "blocks", blocks)
    found = by_name(list(check_drive(device, tmp_path, "the folder")))
    assert found["direct reads"].status is Status.ABSENT
    assert found["page cache"].status is Status.OK


def test_other_bytes_than_those_of_the_file_are_a_problem(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = [bytes(BLOCK_NBYTES)] * 2
    monkeypatch.setattr(Drive, "blocks", lambda _self, direct: iter(wrong))  # noqa: ARG005
    found = by_name(list(check_drive(device, tmp_path, "the folder")))
    assert found["bytes"].status is Status.PROBLEM


def test_a_folder_without_space_is_a_problem(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drive, "available_memory", lambda: 0)
    (finding,) = check_drive(device, tmp_path, "the folder")
    assert finding.status is Status.PROBLEM
    assert "too little space" in finding.said
    assert list(tmp_path.iterdir()) == []


def test_each_block_is_read_once_if_asked_so(device: Device, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(3 * BLOCK_NBYTES))
    assert Drive(device, path).nbytes_per_second(2, direct=False, once=True) > 0
