"""The devices every kernel is tested on: each backend, the CPU with each instruction set."""

from __future__ import annotations

import dataclasses

import pytest

from moeflux import _core
from moeflux._core import Device
from moeflux.backends import device_names, open_device
from moeflux.errors import DeviceError
from moeflux.settings import Settings

# What only a backend that has a choice between floats and integers can be asked for.
collect_ignore = [] if "metal" in device_names() else ["test_metal_integers.py"]

INSTRUCTION_SETS = ("baseline", "avx2", "avxvnni", "avx512", "amx", "neon")


def _available_instruction_sets() -> list[str]:
    available = []
    for name in INSTRUCTION_SETS:
        try:
            _core.open_device("cpu", 1, name)
        except DeviceError:
            continue
        available.append(name)
    return available


AVAILABLE_INSTRUCTION_SETS = _available_instruction_sets()
DEVICES = [
    (name, instruction_set)
    for name in device_names()
    for instruction_set in (AVAILABLE_INSTRUCTION_SETS if name == "cpu" else [""])
]


@pytest.fixture(scope="session", params=DEVICES, ids="-".join)
def device(request: pytest.FixtureRequest) -> Device:
    name, instruction_set = request.param
    settings = dataclasses.replace(
        Settings.from_environment(), n_threads=2, instruction_set=instruction_set
    )
    return open_device(name, settings)


@pytest.fixture(params=AVAILABLE_INSTRUCTION_SETS)
def instruction_set(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name
