"""The doctor's kernel checks: none is missing, right kernels pass, wrong results do not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from moeflux._core import Device, device_names, open_device
from moeflux.doctor import Status
from moeflux.doctor.arrays import Array
from moeflux.doctor.cases import TOLERANCE, Case
from moeflux.doctor.kernel_checks import CASES, check_bits, check_kernels
from moeflux.doctor.row_cases import rms_norm_cases
from moeflux.errors import DeviceError


@pytest.fixture(params=device_names())
def device(request: pytest.FixtureRequest) -> Device:
    return open_device(request.param, 2)


class OtherKernels:
    """A device that has `names` as its kernels."""

    def __init__(self, device: Device, *names: str) -> None:
        self._device = device
        self._names = names

    def __getattr__(self, name: str) -> object:
        return getattr(self._device, name)

    def kernels(self) -> Sequence[str]:
        return self._names


def test_every_kernel_has_cases(device: Device) -> None:
    assert sorted(device.kernels()) == sorted(CASES)


@pytest.mark.parametrize("kernel", CASES)
def test_cases_of_a_right_kernel_are_within_the_tolerance(device: Device, kernel: str) -> None:
    cases = list(CASES[kernel]())
    assert cases
    for case in cases:
        assert case.error(case.run(device)) <= TOLERANCE, case.detail


def test_details_of_a_kernel_differ() -> None:
    for kernel, cases in CASES.items():
        details = [case.detail for case in cases()]
        assert len(set(details)) == len(details), kernel


def test_a_kernel_without_cases_is_reported_as_unchecked() -> None:
    device = OtherKernels(open_device("cpu"), "rms_norm", "new_kernel")
    unchecked, norm = check_kernels(device, {"rms_norm": rms_norm_cases})  # type: ignore[arg-type]
    assert (norm.name, norm.status) == ("rms_norm", Status.OK)
    assert (unchecked.name, unchecked.status) == ("new_kernel", Status.PROBLEM)
    assert unchecked.said.startswith("unchecked")


def test_a_kernel_that_the_device_lacks_is_a_problem() -> None:
    device = OtherKernels(open_device("cpu"))
    (finding,) = check_kernels(device, {"rms_norm": rms_norm_cases})  # type: ignore[arg-type]
    assert finding.status is Status.PROBLEM
    assert finding.said == "the device has no such kernel"


@pytest.mark.parametrize("wrong", [1 + 2 * TOLERANCE, np.nan, np.inf])
def test_a_wrong_value_is_a_problem_that_names_its_case(wrong: float) -> None:
    def wrong_cases() -> Iterator[Case]:
        first, *others = rms_norm_cases()
        yield first

        def spoiled(device: Device) -> list[Array]:
            (out,) = others[0].run(device)
            spoiled = out.astype(np.float32)
            spoiled.reshape(-1)[np.abs(out).argmax()] *= wrong
            return [spoiled]

        yield Case("the wrong one", spoiled, others[0].wanted)

    device = OtherKernels(open_device("cpu"), "rms_norm")
    (finding,) = check_kernels(device, {"rms_norm": wrong_cases})  # type: ignore[arg-type]
    assert finding.status is Status.PROBLEM
    assert "the wrong one" in finding.said
    assert finding.advice
    assert finding.values["worst_case"] == "the wrong one"


def test_a_kernel_that_fails_is_a_problem_with_its_message() -> None:
    def failing(_: Device) -> list[Array]:
        raise DeviceError("the compiler refused rms_norm")

    def cases() -> Iterator[Case]:
        yield Case("a case", failing, [])

    device = OtherKernels(open_device("cpu"), "rms_norm")
    (finding,) = check_kernels(device, {"rms_norm": cases})  # type: ignore[arg-type]
    assert finding.status is Status.PROBLEM
    assert finding.said == "a case: DeviceError: the compiler refused rms_norm"


@pytest.mark.parametrize("got", [[], [np.zeros(3)], [np.zeros(2), np.zeros(2)]])
def test_results_of_another_shape_are_infinitely_wrong(got: Sequence[Array]) -> None:
    case = Case("", lambda _: [], [np.zeros(2)])
    assert case.error(got) == np.inf


def test_whole_numbers_are_right_or_wrong() -> None:
    case = Case("", lambda _: [], [np.array([3, 5])])
    assert case.error([np.array([3, 5], np.int32)]) == 0
    assert case.error([np.array([3, 4], np.int32)]) == np.inf


def test_bits_are_the_same_twice_and_with_one_thread(device: Device) -> None:
    findings = list(check_bits(device, open_device(device.name, 1)))
    assert [finding.status for finding in findings] == [Status.OK, Status.OK]


def test_other_bits_are_a_problem() -> None:
    """Instruction sets sum in different orders, which stands in for a device that does."""
    baseline = open_device("cpu", 1, "baseline")
    twice, alone = check_bits(open_device("cpu", 1), baseline)
    assert twice.status is Status.OK
    if open_device("cpu").description.split(", ")[1] != "baseline":
        assert alone.status is Status.PROBLEM
        assert alone.values["differing"]
