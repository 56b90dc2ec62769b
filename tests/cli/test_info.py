"""`moeflux info`, `moeflux devices`, `moeflux --version`."""

from __future__ import annotations

import dataclasses
import json

import pytest
from stand_ins import INFO

import moeflux
from moeflux.api import DeviceInfo
from moeflux.cli import main

DEVICES = [
    DeviceInfo("metal", "", available=False, reason="not built in"),
    DeviceInfo("cpu", "16 cores, AVX2 [x]", available=True, reason=""),
]


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moeflux, "inspect", lambda model: dataclasses.replace(INFO, path=model))
    monkeypatch.setattr(moeflux, "devices", lambda: DEVICES)
    monkeypatch.setenv("COLUMNS", "120")


def test_info_tells_architecture_sizes_and_fit(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "[bold]tiny"]) == 0
    rows = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert {name: value.strip() for name, value in rows.items()} == {
        "folder": "[bold]tiny",
        "architecture": "qwen3_5_moe: 60 layers, hidden size 4096",
        "experts": "512 per layer, 10 per token",
        "vocabulary": "248320 tokens",
        "context": "262144 tokens",
        "quantisation": "affine 4-bit, groups of 64",
        "dense weights": "6 GB",
        "routed experts": "207 GB",
        "read per token": "up to 4.05 GB of experts",
        "touched per token": "5.4 GB of dense weights",
        "needs at least": "6.07 GB of memory",
        "fits": "yes: experts are streamed: 213 GB in all, 8 GB available",
    }


def test_info_as_json_has_every_fact(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "tiny", "--json"]) == 0
    expected = dataclasses.asdict(dataclasses.replace(INFO, path="tiny"))
    assert json.loads(capsys.readouterr().out) == expected


def test_devices_are_listed_with_the_reason_of_those_that_cannot_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["devices"]) == 0
    lines = [line.split("  ", 1) for line in capsys.readouterr().out.splitlines()]
    assert [(name, text.strip()) for name, text in lines] == [
        ("metal", "not here: not built in"),
        ("cpu", "16 cores, AVX2 [x]"),
    ]


def test_devices_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == [dataclasses.asdict(device) for device in DEVICES]


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"moeflux {moeflux.__version__}\n"


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    assert all(command in out for command in ("run", "info", "plan", "trace", "devices"))
