"""matmul and gate_up: every format, odd and even shapes, any number of tokens."""

from __future__ import annotations

import numpy as np
import pytest
from device_arrays import random_array
from runs import run_gate_up, run_matmul

import reference
from moeflux._core import Device
from moeflux.quant import AFFINE_BITS, GROUP_SIZES, Dtype, MatrixFormat
from reference import StoredMatrix, store_matrix
from tolerance import assert_close

UNQUANTISED = [MatrixFormat(dtype) for dtype in Dtype]
AFFINE = [
    MatrixFormat(dtype, bits, group_size)
    for bits in AFFINE_BITS
    for group_size in GROUP_SIZES
    for dtype in Dtype
]


def format_name(form: MatrixFormat) -> str:
    name = form.dtype.name.lower()
    return f"{form.bits}bit-group{form.group_size}-{name}" if form.quantised else name


def random_matrix(seed: int, rows: int, cols: int, form: MatrixFormat) -> StoredMatrix:
    return store_matrix(random_array(seed, rows, cols), form)


@pytest.mark.parametrize("form", AFFINE, ids=format_name)
def test_matmul_of_affine_codes(device: Device, form: MatrixFormat) -> None:
    for rows, n_groups, n_tokens in ((1, 1, 1), (37, 3, 2), (6, 18, 3), (70, 5, 13), (9, 19, 17)):
        weight = random_matrix(rows, rows, n_groups * form.group_size, form)
        x = random_array(n_groups, n_tokens, weight.cols)
        out = run_matmul(device, weight, x, [n_tokens])
        assert_close(out, reference.matmul(weight.dense, x), form.dtype)


@pytest.mark.parametrize("form", UNQUANTISED, ids=format_name)
def test_matmul_of_unquantised_elements(device: Device, form: MatrixFormat) -> None:
    for rows, cols, n_tokens in ((1, 1, 1), (37, 7, 2), (6, 515, 3), (70, 64, 13), (33, 96, 9)):
        weight = random_matrix(rows, rows, cols, form)
        x = random_array(cols, n_tokens, cols)
        out = run_matmul(device, weight, x, [n_tokens])
        assert_close(out, reference.matmul(weight.dense, x), form.dtype)


@pytest.mark.parametrize(
    "form", [MatrixFormat(Dtype.BFLOAT16, 4, 64), MatrixFormat(Dtype.BFLOAT16)], ids=format_name
)
def test_matmul_of_a_vocabulary(device: Device, form: MatrixFormat) -> None:
    weight = random_matrix(5, 65539, 64, form)
    x = random_array(6, 2, 64)
    out = run_matmul(device, weight, x, [2])
    assert_close(out, reference.matmul(weight.dense, x), form.dtype)


@pytest.mark.parametrize(
    "form", [MatrixFormat(Dtype.BFLOAT16, 4, 64), *UNQUANTISED], ids=format_name
)
def test_matmul_accumulates(device: Device, form: MatrixFormat) -> None:
    weight = random_matrix(0, 41, 192, form)
    x, start = random_array(1, 11, 192), random_array(2, 11, 41)
    out = run_matmul(device, weight, x, [11], start)
    assert_close(out, start + reference.matmul(weight.dense, x), form.dtype)


@pytest.mark.parametrize("form", UNQUANTISED + AFFINE, ids=format_name)
def test_matmul_of_weights_at_any_address(device: Device, form: MatrixFormat) -> None:
    weight = random_matrix(3, 9, 384, form)
    x = random_array(4, 2, 384)
    aligned = run_matmul(device, weight, x, [2])
    for misalignment in (1, 2, 7):
        assert np.array_equal(run_matmul(device, weight, x, [2], None, misalignment), aligned)


@pytest.mark.parametrize("dtype", Dtype)
def test_matmul_keeps_extreme_elements(device: Device, dtype: Dtype) -> None:
    """Denormal, largest and negative zero elements mean what they say."""
    smallest = {Dtype.FLOAT32: 1e-40, Dtype.FLOAT16: 6e-8, Dtype.BFLOAT16: 1e-40}[dtype]
    dense = np.array([[smallest, -smallest, 0.0, -0.0, 60000.0, -60000.0, 1.0, -1.0]])
    weight = store_matrix(dense, MatrixFormat(dtype))
    x = np.eye(8, dtype=np.float32)
    out = run_matmul(device, weight, x, [8])
    assert np.array_equal(out, weight.dense.T.astype(np.float32))


@pytest.mark.parametrize("form", UNQUANTISED, ids=format_name)
def test_matmul_passes_on_what_is_not_a_number(device: Device, form: MatrixFormat) -> None:
    dense = random_array(5, 4, 40)
    dense[1, 3], dense[2, 17] = np.nan, np.inf
    out = run_matmul(device, store_matrix(dense, form), np.ones((1, 40), np.float32), [1])
    assert np.isnan(out[0, 1])
    assert out[0, 2] == np.inf
    assert np.isfinite(out[0, [0, 3]]).all()


@pytest.mark.parametrize(
    ("gate_form", "up_form"),
    [
        (MatrixFormat(Dtype.BFLOAT16, 4, 64), MatrixFormat(Dtype.BFLOAT16, 4, 64)),
        (MatrixFormat(Dtype.FLOAT16, 4, 32), MatrixFormat(Dtype.BFLOAT16, 6, 64)),
        (MatrixFormat(Dtype.BFLOAT16), MatrixFormat(Dtype.BFLOAT16)),
        (MatrixFormat(Dtype.FLOAT32), MatrixFormat(Dtype.FLOAT32, 3, 32)),
    ],
    ids=format_name,
)
def test_gate_up(device: Device, gate_form: MatrixFormat, up_form: MatrixFormat) -> None:
    for rows, cols, n_tokens in ((2, 64, 3), (37, 192, 2), (70, 320, 11)):
        gate_proj = random_matrix(rows, rows, cols, gate_form)
        up_proj = random_matrix(rows + 1, rows, cols, up_form)
        x = random_array(cols, n_tokens, cols)
        out = run_gate_up(device, gate_proj, up_proj, x, [n_tokens])
        assert_close(out, reference.gate_up(gate_proj.dense, up_proj.dense, x), up_form.dtype)


def test_gate_up_of_large_sums_saturates(device: Device) -> None:
    """silu goes to 0 on the left and to the identity on the right, without overflow."""
    form = MatrixFormat(Dtype.FLOAT32)
    gate_proj = store_matrix(np.array([[-1e4], [-90.0], [90.0], [1e4]]), form)
    up_proj = store_matrix(np.ones((4, 1)), form)
    out = run_gate_up(device, gate_proj, up_proj, np.ones((1, 1), np.float32), [1])
    assert np.abs(out[0, :2]).max() < 1e-30
    assert np.array_equal(out[0, 2:], [90.0, 1e4])
