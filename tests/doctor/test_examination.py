"""The whole examination and its report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import moeflux
from moeflux._core import Device, device_names
from moeflux.doctor import Finding, Report, Status, device_checks, drive, examination, examine
from moeflux.doctor.findings import without_folders
from moeflux.errors import CheckpointError, DeviceError

OK = Finding("kernels", "matmul", Status.OK, "72 cases", values={"worst_error": 1e-7})
ABSENT = Finding("device", "GPU traces", Status.ABSENT, "none", "set a variable")
PROBLEM = Finding("kernels", "rms_norm", Status.PROBLEM, "wrong | far", "attach the report")


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drive, "MEASURED_SECONDS", 0.01)
    monkeypatch.setattr(drive, "WRITTEN_NBYTES", 5 * drive.BLOCK_NBYTES)
    monkeypatch.setattr(device_checks, "MEASURED_NBYTES", 2**20)


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out what takes time and is tested by itself."""

    def nothing(*_: object) -> Iterator[Finding]:
        return iter(())

    for check in ("check_kernels", "check_bits", "check_memory_speed", "check_demo"):
        monkeypatch.setattr(examination, check, nothing)


@pytest.mark.parametrize("device", device_names())
def test_here_everything_is_examined_and_works(device: str) -> None:
    seen: list[Finding] = []
    report = examine(device, None, moeflux.Settings(n_threads=2), seen.append)
    # How much memory and time others leave to this machine's tests is not the doctor's doing.
    ours = [found for found in report.problems if found.topic not in ("machine", "drive")]
    assert ours == []
    topics = list(dict.fromkeys(found.topic for found in report.findings))
    assert topics == [
        "installation",
        "machine",
        "device",
        "kernels",
        "same bits",
        "speed",
        "drive",
        "model",
    ]
    assert tuple(seen) == report.findings
    json.dumps(report.as_dict(), allow_nan=False)


def test_settings_that_round_are_no_error_of_the_device() -> None:
    report = examine("cpu", None, moeflux.Settings(activations="int8"))
    assert [found for found in report.problems if found.topic in ("kernels", "model")] == []


@pytest.mark.usefixtures("no_work")
def test_a_report_names_no_folder_of_the_user(tmp_path: Path) -> None:
    folder = tmp_path / "models of Jane Doe"
    folder.mkdir()
    report = examine("cpu", str(folder))
    text = report.as_markdown() + json.dumps(report.as_dict())
    for private in (str(tmp_path), "Jane Doe", str(Path.home()), str(Path.cwd())):
        assert private == "/" or private not in text


@pytest.mark.usefixtures("no_work")
def test_a_message_with_a_path_keeps_the_file_name_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_device: Device, folder: Path, _name: str) -> Iterator[Finding]:
        yield Finding("drive", "reads", Status.PROBLEM, f"{folder / 'layer_00.bin'}: short read")

    monkeypatch.setattr(examination, "check_drive", failing)
    (finding,) = examine("cpu", str(tmp_path)).problems
    assert finding.said.endswith("layer_00.bin: short read")
    assert str(tmp_path) not in finding.said


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("reads 3 GB/s, cold/warm", "reads 3 GB/s, cold/warm"),
        ("cannot open /home/jane/models/a.bin: no", "cannot open a.bin: no"),
        ("'/home/jane/x/y.py', line 3", "'y.py', line 3"),
        ("16/2 heads of 256", "16/2 heads of 256"),
    ],
)
def test_folders_of_absolute_paths_are_left_out(text: str, wanted: str) -> None:
    assert without_folders(text) == wanted


def test_known_folders_may_have_spaces() -> None:
    text = "/mnt/Jane Doe/models/x.bin: short"
    assert without_folders(text, [Path("/mnt/Jane Doe")]) == "x.bin: short"


@pytest.mark.usefixtures("no_work")
def test_a_device_that_does_not_open_is_a_problem_and_the_drive_is_still_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> Device:
        raise DeviceError("no such luck")

    monkeypatch.setattr(examination, "open_named_device", refuse)
    report = examine("metal")
    (problem,) = [found for found in report.problems if found.topic == "device"]
    assert problem.said == "DeviceError: no such luck"
    assert "--device" in problem.advice
    assert "drive" in [found.topic for found in report.findings]


@pytest.mark.usefixtures("no_work")
def test_a_device_that_fails_ends_its_checks_but_not_the_examination(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def failing(_: Device) -> Iterator[Finding]:
        yield OK
        raise DeviceError("the device was removed")

    monkeypatch.setattr(examination, "check_capture", failing)
    report = examine("cpu")
    assert "DeviceError: the device was removed" in [found.said for found in report.problems]
    assert "drive" in [found.topic for found in report.findings]


def test_unknown_devices_and_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="no device 'abacus'; there are auto, metal, cuda, cpu"):
        examine("abacus")
    with pytest.raises(CheckpointError, match="missing"):
        examine("cpu", str(tmp_path / "missing"))


def test_only_problems_make_a_report_not_ok() -> None:
    assert Report((OK, ABSENT), 1.0, "2026-01-02").as_dict()["ok"] is True
    assert Report((OK, PROBLEM), 1.0, "2026-01-02").as_dict()["ok"] is False


def test_markdown_has_a_table_by_topic_and_what_to_do() -> None:
    text = Report((ABSENT, OK, PROBLEM), 61.4, "2026-01-02").as_markdown()
    assert text.startswith("# moeflux doctor\n\n2026-01-02: 1 problem (61 s).\n")
    assert text.index("## device") < text.index("## kernels") < text.index("## What to do")
    assert text.count("## kernels") == 1
    assert "| rms_norm | problem | wrong \\| far |" in text
    assert "- rms_norm: attach the report" in text
    assert "set a variable" not in text


def test_a_dictionary_has_everything() -> None:
    found = Report((OK,), 2.0, "2026-01-02").as_dict()
    assert found["findings"] == [
        {
            "topic": "kernels",
            "name": "matmul",
            "status": "ok",
            "said": "72 cases",
            "advice": "",
            "values": {"worst_error": 1e-7},
        }
    ]
