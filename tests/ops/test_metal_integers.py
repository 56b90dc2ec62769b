"""Shaders that multiply integers of three digits, as CUDA has it: as precise as float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pytest
from device_arrays import activations, empty_activations, matrix, random_array, read_rows, run
from runs import run_experts, run_gate_up, run_matmul
from test_matmul_ops import format_name, random_matrix
from test_moe_ops import expert_inputs

import reference
from moeflux._core import Buffer, CommandBuffer, Device, Pipeline, Queue, Step, open_device
from moeflux.ops import matmul
from moeflux.ops.operands import Activations
from moeflux.quant import GROUP_SIZES, Dtype, MatrixFormat
from tolerance import assert_close

FORMATS = [
    MatrixFormat(dtype, bits, group_size)
    for bits in (4, 8)
    for group_size in GROUP_SIZES
    for dtype in Dtype
]
by_format = pytest.mark.parametrize("form", FORMATS, ids=format_name)
FORM = MatrixFormat(Dtype.BFLOAT16, 4, 64)


@dataclass(frozen=True)
class IntegerEncoder:
    """A command buffer whose pipelines multiply integers."""

    device: IntegerDevice
    command_buffer: CommandBuffer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.command_buffer, name)


@dataclass(frozen=True)
class IntegerQueue:
    device: IntegerDevice
    queue: Queue

    def command_buffer(self, step: Step) -> IntegerEncoder:
        return IntegerEncoder(self.device, self.queue.command_buffer(step))


@dataclass(frozen=True)
class IntegerDevice:
    """A device whose pipelines multiply integers."""

    chosen: Device

    def __getattr__(self, name: str) -> Any:
        return getattr(self.chosen, name)

    def pipeline(self, kernel: str, **constants: int) -> Pipeline:
        return self.chosen.pipeline(kernel, fixed_point=1, **constants)

    def queue(self) -> IntegerQueue:
        return IntegerQueue(self, self.chosen.queue())


@pytest.fixture(scope="module")
def device() -> Device:
    return cast(Device, IntegerDevice(open_device("metal")))


@by_format
def test_matmul(device: Device, form: MatrixFormat) -> None:
    for rows, n_groups, n_tokens in ((1, 1, 1), (37, 3, 2), (70, 5, 1), (9, 67, 1)):
        weight = random_matrix(rows, rows, n_groups * form.group_size, form)
        x = random_array(n_groups, n_tokens, weight.cols)
        out = run_matmul(device, weight, x, [n_tokens])
        assert_close(out, reference.matmul(weight.dense, x), form.dtype)


def test_integers_differ_from_floats_by_rounding_only(device: Device) -> None:
    """Not a bit of difference would mean that the constant chose nothing."""
    weight, x = random_matrix(0, 64, 2048, FORM), random_array(1, 1, 2048)
    integers = run_matmul(device, weight, x, [1])
    floats = run_matmul(open_device("metal"), weight, x, [1])
    assert not np.array_equal(integers, floats)
    assert_close(integers, floats.astype(np.float64))


def test_matmul_of_a_vocabulary(device: Device) -> None:
    weight, x = random_matrix(5, 65539, 64, FORM), random_array(6, 1, 64)
    assert_close(run_matmul(device, weight, x, [1]), reference.matmul(weight.dense, x))


@by_format
def test_weights_at_any_address(device: Device, form: MatrixFormat) -> None:
    weight, x = random_matrix(3, 9, 384, form), random_array(4, 1, 384)
    aligned = run_matmul(device, weight, x, [1])
    for misalignment in (1, 2, 7):
        assert np.array_equal(run_matmul(device, weight, x, [1], None, misalignment), aligned)


def test_activations_at_any_address_of_floats(device: Device) -> None:
    weight, x = random_matrix(3, 9, 384, FORM), random_array(4, 1, 384)
    padded = activations(device, np.concatenate([np.zeros((1, 1), np.float32), x], axis=1))
    inputs = Activations(cast(Buffer, padded.buffer).view(4, x.nbytes), 384)
    out, operand = empty_activations(device, 1, 9), matrix(device, weight)

    def chunk(encoder: CommandBuffer, _first: int, _count: int) -> None:
        matmul.matmul(encoder, operand, inputs, out)

    run(device, [1], chunk)
    assert np.array_equal(read_rows(device, out), run_matmul(device, weight, x, [1]))


@pytest.mark.parametrize("up_bits", [4, 8, 6])
def test_gate_up_of_equal_and_of_other_formats(device: Device, up_bits: int) -> None:
    gate_proj = random_matrix(0, 37, 320, FORM)
    up_proj = random_matrix(1, 37, 320, MatrixFormat(Dtype.BFLOAT16, up_bits, 64))
    x = random_array(2, 2, 320)
    out = run_gate_up(device, gate_proj, up_proj, x, [2])
    assert_close(out, reference.gate_up(gate_proj.dense, up_proj.dense, x.astype(np.float64)))


def test_experts(device: Device) -> None:
    inputs = expert_inputs(9, 1, 8, (FORM, FORM))
    inner, out = (rows[0] for rows in run_experts(device, inputs, [1]))
    for k, expert in enumerate(inputs.routed[0]):
        gate_proj, up_proj, down_proj = inputs.experts[expert]
        wanted = reference.gate_up(gate_proj.dense, up_proj.dense, inputs.x.astype(np.float64))
        assert_close(inner[k : k + 1], wanted)
        assert_close(out[k : k + 1], reference.matmul(down_proj.dense, inner[k : k + 1]))


@pytest.mark.parametrize("exponent", [-90, -20, 0, 20, 90])
def test_magnitudes_of_all_sizes_keep_their_precision(device: Device, exponent: int) -> None:
    weight = random_matrix(2, 33, 192, FORM)
    x = random_array(3, 1, 192) * np.float32(2.0) ** exponent
    assert_close(run_matmul(device, weight, x, [1]), reference.matmul(weight.dense, x))


@pytest.mark.parametrize("largest", [1.0, 1.9921, 1.99216, 1.99218, 1.9961, 1.9999999])
def test_every_leading_mantissa_keeps_its_precision(device: Device, largest: float) -> None:
    """On both sides of where three digits take the next exponent."""
    weight = random_matrix(0, 16, 32, MatrixFormat(Dtype.FLOAT32, 4, 32))
    x = np.linspace(-largest, largest, 32, dtype=np.float32)[None]
    assert_close(run_matmul(device, weight, x, [1]), reference.matmul(weight.dense, x))


def test_what_is_not_finite_stays_in_its_token(device: Device) -> None:
    weight, x = random_matrix(4, 20, 128, FORM), random_array(5, 5, 128)
    x[2, 70], x[4, 3] = np.nan, np.inf
    out = run_matmul(device, weight, x, [5])
    assert np.isnan(out[[2, 4]]).all()
    assert np.isfinite(np.delete(out, [2, 4], axis=0)).all()
