"""Products by integers of AVX-512 and AMX: the same bits, and no less precision than float32."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from device_arrays import Prompt, random_array
from runs import run_gate_up, run_matmul
from test_matmul_ops import format_name, random_matrix

import reference
from moeflux._core import Device, open_device
from moeflux.errors import DeviceError
from moeflux.quant import AFFINE_BITS, Dtype, MatrixFormat
from tolerance import assert_close

FORMATS = [MatrixFormat(Dtype.BFLOAT16, bits, 64) for bits in AFFINE_BITS]
by_format = pytest.mark.parametrize("form", FORMATS, ids=format_name)


def devices(activations: str) -> list[Device]:
    """One for each instruction set here that multiplies integers; none on other processors."""
    opened = []
    for name in ("amx", "avx512"):
        with suppress(DeviceError):
            opened.append(open_device("cpu", 2, name, activations))
    return opened


@pytest.mark.parametrize("activations", ["float32", "int8"])
@by_format
def test_all_integer_instruction_sets_give_the_same_bits(
    form: MatrixFormat, activations: str
) -> None:
    weight, x = random_matrix(0, 75, 1152, form), random_array(1, 150, 1152)
    results = []
    for device in devices(activations):
        for chunks in ([Prompt(150)], [Prompt(64), Prompt(86)], [1] * 3 + [147]):
            results.append(run_matmul(device, weight, x, chunks))
            results.append(run_gate_up(device, weight, weight, x, chunks))
    for index, result in enumerate(results):
        assert np.array_equal(result.view(np.uint32), results[index % 2].view(np.uint32))


@by_format
def test_magnitudes_of_all_sizes_keep_their_precision(form: MatrixFormat) -> None:
    weight = random_matrix(2, 33, 3 * form.group_size, form)
    x = (
        random_array(3, 5, weight.cols)
        * np.float32(2.0) ** np.array([-90, -20, 0, 20, 90])[:, None]
    )
    x = x.astype(np.float32)
    wanted = reference.matmul(weight.dense, x)
    for device in devices("float32"):
        out = run_matmul(device, weight, x, [5])
        for row, wanted_row in zip(out, wanted, strict=True):
            assert_close(row, wanted_row, form.dtype)


def test_a_group_of_every_leading_mantissa_keeps_its_precision() -> None:
    """Largest magnitudes on both sides of where three digits take the next exponent."""
    form = MatrixFormat(Dtype.FLOAT32, 4, 32)
    weight = random_matrix(0, 16, 32, form)
    for largest in (1.0, 1.9921, 1.99216, 1.99218, 1.9961, 1.9999999):
        x = np.linspace(-largest, largest, 32, dtype=np.float32)[None]
        for device in devices("float32"):
            assert_close(run_matmul(device, weight, x, [1]), reference.matmul(weight.dense, x))


@pytest.mark.parametrize("form", [form for form in FORMATS if form.bits in (2, 4)], ids=format_name)
def test_what_is_not_finite_stays_in_its_token(form: MatrixFormat) -> None:
    weight, x = random_matrix(4, 20, 2 * form.group_size, form), random_array(5, 7, 128)
    x[2, 70], x[4, 3] = np.nan, np.inf
    for device in devices("float32"):
        out = run_matmul(device, weight, x, [7])
        assert np.isnan(out[[2, 4]]).all()
        assert np.isfinite(np.delete(out, [2, 4], axis=0)).all()


def test_zeros_give_zeros() -> None:
    weight = random_matrix(4, 20, 128, FORMATS[2])
    for device in devices("float32"):
        assert not run_matmul(device, weight, np.zeros((5, 128), np.float32), [5]).any()
