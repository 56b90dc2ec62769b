"""Products with rows longer than what a GPU kernel keeps at a time: no width is too much."""

from __future__ import annotations

import numpy as np
import pytest
from device_arrays import Prompt, random_array
from runs import ExpertInputs, run_experts, run_gate_up, run_matmul
from test_matmul_ops import format_name, random_matrix

import reference
from moeflux._core import Device
from moeflux.quant import Dtype, MatrixFormat
from tolerance import assert_close

FORMATS = [
    MatrixFormat(Dtype.FLOAT32),
    MatrixFormat(Dtype.BFLOAT16),
    MatrixFormat(Dtype.BFLOAT16, 3, 32),
    MatrixFormat(Dtype.FLOAT16, 4, 64),
    MatrixFormat(Dtype.FLOAT32, 8, 64),
]
by_format = pytest.mark.parametrize("form", FORMATS, ids=format_name)
by_kind = pytest.mark.parametrize("kind", [int, Prompt])


@by_kind
@by_format
@pytest.mark.parametrize("cols", [2112, 20544])
def test_matmul(device: Device, form: MatrixFormat, cols: int, kind: type[int]) -> None:
    weight, x = random_matrix(0, 5, cols, form), random_array(1, 2, cols)
    out = run_matmul(device, weight, x, [kind(2)])
    assert_close(out, reference.matmul(weight.dense, x), form.dtype)


@by_kind
@by_format
def test_gate_up(device: Device, form: MatrixFormat, kind: type[int]) -> None:
    gate_proj, up_proj = (random_matrix(seed, 19, 4160, form) for seed in (0, 1))
    x = random_array(2, 2, 4160) / 16
    out = run_gate_up(device, gate_proj, up_proj, x, [kind(2)])
    assert_close(out, reference.gate_up(gate_proj.dense, up_proj.dense, x), form.dtype)


@by_kind
@by_format
@pytest.mark.parametrize(("width", "expert_width"), [(2112, 64), (64, 2112)])
def test_experts(
    device: Device, form: MatrixFormat, width: int, expert_width: int, kind: type[int]
) -> None:
    gate_proj, up_proj = (random_matrix(seed, expert_width, width, form) for seed in (0, 1))
    down_proj = random_matrix(2, width, expert_width, form)
    x = random_array(3, 1, width) / 16
    inputs = ExpertInputs([(gate_proj, up_proj, down_proj)], np.array([[0]]), x)
    inner, out = run_experts(device, inputs, [kind(1)])
    wanted = reference.gate_up(gate_proj.dense, up_proj.dense, x.astype(np.float64))
    assert_close(inner[:, 0], wanted, form.dtype)
    rows = inner[:, 0].astype(np.float64)
    assert_close(out[:, 0], reference.matmul(down_proj.dense, rows), form.dtype)
