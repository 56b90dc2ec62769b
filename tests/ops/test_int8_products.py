"""Activations in 8 bits, with every instruction set: exact sums of codes times rounded values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from device_arrays import Single, random_array
from runs import run_experts, run_gate_up, run_matmul
from test_matmul_ops import AFFINE, format_name, random_matrix
from test_moe_ops import FORMATS, expert_inputs

import reference
from moeflux._core import Device, open_device
from moeflux.errors import DeviceError
from moeflux.quant import Dtype, MatrixFormat
from reference import store_matrix
from tolerance import assert_close

by_format = pytest.mark.parametrize(
    "form", [form for form in AFFINE if form.dtype is Dtype.BFLOAT16], ids=format_name
)
N_TOKENS = 19


@pytest.fixture
def int8_device(instruction_set: str) -> Device:
    return open_device("cpu", 2, instruction_set, "int8")


def in_8_bits(x: Single, group_size: int) -> Any:
    """Every group rounded to 127ths of its largest magnitude."""
    groups = x.astype(np.float64).reshape(len(x), -1, group_size)
    unit = np.abs(groups).max(-1, keepdims=True) / 127
    return (np.round(groups / unit) * unit).reshape(x.shape)


@by_format
def test_products_are_those_of_rounded_activations(int8_device: Device, form: MatrixFormat) -> None:
    for rows, n_groups, n_tokens in ((1, 1, 1), (37, 3, 2), (70, 18, 33)):
        weight = random_matrix(rows, rows, n_groups * form.group_size, form)
        x = random_array(n_groups, n_tokens, weight.cols)
        wanted = reference.matmul(weight.dense, in_8_bits(x, form.group_size))
        assert_close(run_matmul(int8_device, weight, x, [n_tokens]), wanted, form.dtype)


@pytest.mark.parametrize("dtype", Dtype)
def test_scales_of_every_dtype(int8_device: Device, dtype: Dtype) -> None:
    for bits in (4, 8):
        form = MatrixFormat(dtype, bits, 32)
        weight, x = random_matrix(bits, 21, 160, form), random_array(bits, 3, 160)
        wanted = reference.matmul(weight.dense, in_8_bits(x, 32))
        assert_close(run_matmul(int8_device, weight, x, [3]), wanted, dtype)


@by_format
def test_sums_of_extreme_codes_and_activations_are_exact(
    int8_device: Device, form: MatrixFormat
) -> None:
    """Scales are 1 and units 1, so that every product is an integer that float32 holds."""
    cols, most = 2 * form.group_size, 2**form.bits - 1
    codes = np.full((3, cols), most)
    codes[1] = np.random.default_rng(0).integers(0, most, cols, endpoint=True)
    codes[2, ::2] = 0
    codes[:, :: form.group_size], codes[:, 1 :: form.group_size] = 0, most
    x = np.full((5, cols), 127, np.float32)
    x[1], x[2, ::2], x[3, 1::2] = -127, -127, -127
    x[4] = np.random.default_rng(1).integers(-127, 127, cols, endpoint=True)
    x[:, 1 :: form.group_size] = 127
    weight = store_matrix(codes, form)
    assert np.array_equal(weight.dense, codes)
    out = run_matmul(int8_device, weight, x, [5])
    assert np.array_equal(out, x.astype(np.int64) @ codes.T)


def _matmul(device: Device, chunks: list[int]) -> list[Single]:
    x = random_array(1, N_TOKENS, 384)
    weights = (random_matrix(0, 75, 384, form) for form in AFFINE if form.dtype is Dtype.BFLOAT16)
    return [run_matmul(device, weight, x, chunks) for weight in weights]


def _gate_up(device: Device, chunks: list[int]) -> list[Single]:
    gate_proj, up_proj = (random_matrix(i, 75, 384, FORMATS[i][0]) for i in (0, 1))
    return [run_gate_up(device, gate_proj, up_proj, random_array(2, N_TOKENS, 384), chunks)]


def _experts(device: Device, chunks: list[int]) -> list[Single]:
    return list(run_experts(device, expert_inputs(6, N_TOKENS, 3, FORMATS[0]), chunks))


@pytest.mark.parametrize("kernels", [_matmul, _gate_up, _experts])
def test_a_token_gives_the_same_bits_alone_as_within_a_batch(
    kernels: Callable[[Device, list[int]], list[Single]], int8_device: Device, instruction_set: str
) -> None:
    wanted = kernels(int8_device, [1] * N_TOKENS)
    one_thread = open_device("cpu", 1, instruction_set, "int8")
    for device in (int8_device, one_thread):
        for chunks in ([N_TOKENS], [2, 5, 12], [16, 3]):
            for got, alone in zip(kernels(device, chunks), wanted, strict=True):
                assert np.array_equal(got.view(np.uint32), alone.view(np.uint32))


@by_format
def test_a_row_gives_the_same_bits_alone_as_among_others(
    int8_device: Device, form: MatrixFormat
) -> None:
    dense, x = random_array(0, 11, 3 * form.group_size), random_array(1, 5, 3 * form.group_size)
    together = run_matmul(int8_device, store_matrix(dense, form), x, [5])
    for row in range(len(dense)):
        alone = run_matmul(int8_device, store_matrix(dense[row : row + 1], form), x, [5])
        assert np.array_equal(alone[:, 0].view(np.uint32), together[:, row].view(np.uint32))


@by_format
def test_what_is_not_finite_stays_in_its_token(int8_device: Device, form: MatrixFormat) -> None:
    weight, x = random_matrix(4, 20, 256, form), random_array(5, 7, 256)
    x[2, 70], x[4, 3] = np.nan, np.inf
    out = run_matmul(int8_device, weight, x, [7])
    assert np.isnan(out[[2, 4]]).all()
    assert np.isfinite(np.delete(out, [2, 4], axis=0)).all()


def test_zeros_give_zeros(int8_device: Device) -> None:
    weight = random_matrix(4, 20, 128, MatrixFormat(Dtype.BFLOAT16, 4, 64))
    assert not run_matmul(int8_device, weight, np.zeros((5, 128), np.float32), [5]).any()


def test_unquantised_weights_keep_float32_activations(int8_device: Device) -> None:
    weight, x = random_matrix(0, 9, 40, MatrixFormat(Dtype.BFLOAT16)), random_array(1, 3, 40)
    assert_close(run_matmul(int8_device, weight, x, [3]), reference.matmul(weight.dense, x))


def test_other_activations_are_refused() -> None:
    with pytest.raises(DeviceError, match="activations must be float32 or int8, got 'int4'"):
        open_device("cpu", 1, "", "int4")
