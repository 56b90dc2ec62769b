"""Products by integers: AVX-512 and AMX agree to the bit; 8-bit activations err as they must."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from device_arrays import Prompt, Single, random_array
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


def in_8_bits(x: Single, group_size: int) -> Single:
    """Every group rounded to 127ths of its largest magnitude."""
    groups = x.astype(np.float64).reshape(len(x), -1, group_size)
    unit = np.abs(groups).max(-1, keepdims=True) / 127
    return (np.round(groups / unit) * unit).reshape(x.shape)


@by_format
def test_int8_products_are_those_of_rounded_activations(form: MatrixFormat) -> None:
    for rows, n_groups, n_tokens in ((1, 1, 1), (37, 3, 2), (70, 18, 33)):
        weight = random_matrix(rows, rows, n_groups * form.group_size, form)
        x = random_array(n_groups, n_tokens, weight.cols)
        wanted = reference.matmul(weight.dense, in_8_bits(x, form.group_size))
        for device in devices("int8"):
            assert_close(run_matmul(device, weight, x, [n_tokens]), wanted, form.dtype)


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
    for device in devices("float32") + devices("int8"):
        assert not run_matmul(device, weight, np.zeros((5, 128), np.float32), [5]).any()


def test_int8_activations_are_refused_where_there_are_none() -> None:
    with pytest.raises(
        DeviceError, match="int8 activations need the instruction set amx or avx512"
    ):
        open_device("cpu", 1, "baseline", "int8")
    with pytest.raises(DeviceError, match="activations must be float32 or int8, got 'int4'"):
        open_device("cpu", 1, "", "int4")
