"""The devices every kernel is tested on: each backend, the CPU with each instruction set."""

from __future__ import annotations

import pytest

from moeflux._core import Device, device_names, open_device
from moeflux.errors import DeviceError

INSTRUCTION_SETS = ("baseline", "avx2", "avx512", "amx", "neon")


def _available_instruction_sets() -> list[str]:
    available = []
    for name in INSTRUCTION_SETS:
        try:
            open_device("cpu", 1, name)
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
    return open_device(name, 2, instruction_set)


@pytest.fixture(params=AVAILABLE_INSTRUCTION_SETS)
def instruction_set(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name
