"""matmul, gate_up and the experts as part of a prompt: right, and the same bits for any chunks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from device_arrays import Prompt, Single, random_array
from runs import ExpertInputs, run_experts, run_gate_up, run_matmul
from test_matmul_ops import AFFINE, UNQUANTISED, format_name, random_matrix
from test_moe_ops import FORMATS, expert_inputs

import reference
from moeflux._core import Device
from moeflux.quant import AFFINE_BITS, Dtype, MatrixFormat
from reference import StoredMatrix, store_matrix
from tolerance import assert_close

ALL_BITS = [*UNQUANTISED, *(MatrixFormat(Dtype.BFLOAT16, bits, 32) for bits in AFFINE_BITS)]
by_format = pytest.mark.parametrize("form", ALL_BITS, ids=format_name)
by_matrix_formats = pytest.mark.parametrize(
    "forms", FORMATS, ids=lambda forms: "+".join(map(format_name, forms))
)


@pytest.mark.parametrize("form", AFFINE, ids=format_name)
def test_matmul_of_affine_codes(device: Device, form: MatrixFormat) -> None:
    for rows, n_groups, n_tokens in ((1, 1, 1), (37, 3, 2), (6, 18, 33), (70, 5, 40)):
        weight = random_matrix(rows, rows, n_groups * form.group_size, form)
        x = random_array(n_groups, n_tokens, weight.cols)
        out = run_matmul(device, weight, x, [Prompt(n_tokens)])
        assert_close(out, reference.matmul(weight.dense, x), form.dtype)


@pytest.mark.parametrize("form", UNQUANTISED, ids=format_name)
def test_matmul_of_unquantised_elements(device: Device, form: MatrixFormat) -> None:
    for rows, cols, n_tokens in ((1, 1, 1), (37, 7, 2), (6, 515, 33), (70, 64, 13), (130, 96, 40)):
        weight = random_matrix(rows, rows, cols, form)
        x = random_array(cols, n_tokens, cols)
        out = run_matmul(device, weight, x, [Prompt(n_tokens)])
        assert_close(out, reference.matmul(weight.dense, x), form.dtype)


@by_format
def test_matmul_of_weights_at_any_address(device: Device, form: MatrixFormat) -> None:
    weight = random_matrix(3, 9, 384, form)
    x = random_array(4, 2, 384)
    aligned = run_matmul(device, weight, x, [Prompt(2)])
    for misalignment in (1, 2, 4, 7, 8):
        out = run_matmul(device, weight, x, [Prompt(2)], None, misalignment)
        assert np.array_equal(out, aligned)


@by_format
def test_matmul_accumulates(device: Device, form: MatrixFormat) -> None:
    weight = random_matrix(0, 41, 192, form)
    x, start = random_array(1, 35, 192), random_array(2, 35, 41)
    out = run_matmul(device, weight, x, [Prompt(35)], start)
    assert_close(out, start + reference.matmul(weight.dense, x), form.dtype)


@pytest.mark.parametrize("form", UNQUANTISED, ids=format_name)
def test_what_is_not_a_number_stays_in_its_row_and_token(
    device: Device, form: MatrixFormat
) -> None:
    dense = random_array(5, 20, 40)
    dense[1, 3], dense[2, 17] = np.nan, np.inf
    x = np.ones((11, 40), np.float32)
    x[4, 30] = np.nan
    out = run_matmul(device, store_matrix(dense, form), x, [Prompt(11)])
    assert np.isnan(out[:, 1]).all()
    assert np.isnan(out[4]).all()
    rest = np.delete(np.delete(out, 4, axis=0), 1, axis=1)
    assert (rest[:, 1] == np.inf).all()
    assert np.isfinite(np.delete(rest, 1, axis=1)).all()


@by_matrix_formats
def test_gate_up(device: Device, forms: tuple[MatrixFormat, MatrixFormat]) -> None:
    for rows, cols, n_tokens in ((2, 64, 3), (37, 192, 34), (70, 320, 11)):
        gate_proj = random_matrix(rows, rows, cols, forms[0])
        up_proj = random_matrix(rows + 1, rows, cols, forms[1])
        x = random_array(cols, n_tokens, cols)
        out = run_gate_up(device, gate_proj, up_proj, x, [Prompt(n_tokens)])
        assert_close(out, reference.gate_up(gate_proj.dense, up_proj.dense, x), forms[1].dtype)


@by_matrix_formats
@pytest.mark.parametrize(
    ("n_experts", "n_tokens", "top_k"), [(1, 1, 1), (5, 3, 2), (9, 35, 4), (2, 150, 1)]
)
def test_experts(
    device: Device,
    forms: tuple[MatrixFormat, MatrixFormat],
    n_experts: int,
    n_tokens: int,
    top_k: int,
) -> None:
    inputs = expert_inputs(n_experts, n_tokens, top_k, forms)
    inner, out = run_experts(device, inputs, [Prompt(n_tokens)])
    for expert, (gate_proj, up_proj, down_proj) in enumerate(inputs.experts):
        tokens, places = np.nonzero(inputs.routed == expert)
        x = inputs.x[tokens].astype(np.float64)
        if not len(tokens):
            continue
        wanted = reference.gate_up(gate_proj.dense, up_proj.dense, x)
        assert_close(inner[tokens, places], wanted, forms[0].dtype)
        rows = inner[tokens, places].astype(np.float64)
        assert_close(out[tokens, places], reference.matmul(down_proj.dense, rows), forms[1].dtype)


@pytest.mark.parametrize("kind", [int, Prompt])
def test_hundreds_of_experts_work_in_one_batch(device: Device, kind: type[int]) -> None:
    form = MatrixFormat(Dtype.BFLOAT16, 4, 32)
    experts = [
        tuple(random_matrix(3 * slot + i, 32, 32, form) for i in range(3)) for slot in range(300)
    ]
    routed = np.random.default_rng(0).permutation(300)[:, None]
    inputs = ExpertInputs([(e[0], e[1], e[2]) for e in experts], routed, random_array(1, 300, 32))
    inner, out = run_experts(device, inputs, [kind(300)])
    chosen = [experts[slot] for slot in routed[:, 0]]
    wanted = [
        reference.gate_up(gate_proj.dense, up_proj.dense, x)
        for (gate_proj, up_proj, _), x in zip(chosen, inputs.x.astype(np.float64), strict=True)
    ]
    assert_close(inner[:, 0], np.array(wanted), form.dtype)
    wanted = [
        reference.matmul(down_proj.dense, x)
        for (_, _, down_proj), x in zip(chosen, inner[:, 0].astype(np.float64), strict=True)
    ]
    assert_close(out[:, 0], np.array(wanted), form.dtype)


def test_rows_of_pairs_outside_of_the_batch_stay_as_they_are(device: Device) -> None:
    inputs = expert_inputs(4, 37, 2, FORMATS[0])
    partial = np.where(inputs.routed < 2, inputs.routed, -1)
    chunks = [Prompt(37)]
    inner, out = run_experts(device, ExpertInputs(inputs.experts, partial, inputs.x), chunks)
    full_inner, full_out = run_experts(device, inputs, chunks)
    absent = partial < 0
    assert np.isnan(inner[absent]).all()
    assert np.isnan(out[absent]).all()
    assert np.array_equal(inner[~absent], full_inner[~absent])
    assert np.array_equal(out[~absent], full_out[~absent])


def _products(
    device: Device, weight: StoredMatrix, x: Single, chunks: Sequence[int]
) -> list[Single]:
    start = random_array(7, len(x), weight.rows)
    return [
        run_matmul(device, weight, x, chunks),
        run_matmul(device, weight, x, chunks, start),
        run_gate_up(device, weight, weight, x, chunks),
    ]


@pytest.mark.parametrize("kind", [int, Prompt])
@by_format
def test_a_row_has_the_same_bits_in_any_chunk(
    device: Device, form: MatrixFormat, kind: type[int]
) -> None:
    weight, x = random_matrix(0, 75, 160, form), random_array(1, 39, 160)
    wanted = _products(device, weight, x, [kind(39)])
    for chunks in ([kind(1)] * 39, [kind(7), kind(32)], [kind(33), kind(6)]):
        for got, whole in zip(_products(device, weight, x, chunks), wanted, strict=True):
            assert np.array_equal(got.view(np.uint32), whole.view(np.uint32))


@pytest.mark.parametrize("kind", [int, Prompt])
@by_matrix_formats
def test_a_pair_has_the_same_bits_in_any_chunk(
    device: Device, forms: tuple[MatrixFormat, MatrixFormat], kind: type[int]
) -> None:
    inputs = expert_inputs(3, 70, 2, forms)
    wanted = run_experts(device, inputs, [kind(70)])
    for chunks in ([kind(1)] * 70, [kind(5), kind(65)], [kind(64), kind(6)]):
        for got, whole in zip(run_experts(device, inputs, chunks), wanted, strict=True):
            assert np.array_equal(got.view(np.uint32), whole.view(np.uint32))
