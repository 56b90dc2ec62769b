"""expert_gate_up, expert_down and combine against the formulas."""

from __future__ import annotations

import numpy as np
import pytest
from device_arrays import random_array
from runs import ExpertInputs, run_combine_norm, run_experts
from test_matmul_ops import format_name

import reference
from moeflux._core import Device
from moeflux.quant import Dtype, MatrixFormat
from reference import store_matrix
from tolerance import assert_close

FORMATS = [
    (MatrixFormat(Dtype.BFLOAT16, 4, 64), MatrixFormat(Dtype.BFLOAT16, 4, 64)),
    (MatrixFormat(Dtype.FLOAT16, 3, 32), MatrixFormat(Dtype.FLOAT16, 5, 32)),
    (MatrixFormat(Dtype.BFLOAT16), MatrixFormat(Dtype.BFLOAT16)),
    (MatrixFormat(Dtype.FLOAT32, 8, 64), MatrixFormat(Dtype.FLOAT32)),
]


def expert_inputs(
    n_experts: int, n_tokens: int, top_k: int, forms: tuple[MatrixFormat, MatrixFormat]
) -> ExpertInputs:
    """Experts with D = 192, F = 64; gate_proj has the first format, the others the second."""
    gate_form, other = forms
    experts = [
        (
            store_matrix(random_array(3 * slot, 64, 192), gate_form),
            store_matrix(random_array(3 * slot + 1, 64, 192), other),
            store_matrix(random_array(3 * slot + 2, 192, 64), other),
        )
        for slot in range(n_experts)
    ]
    generator = np.random.default_rng(0)
    routed = np.array([generator.permutation(n_experts)[:top_k] for _ in range(n_tokens)])
    return ExpertInputs(experts, routed, random_array(100, n_tokens, 192))


@pytest.mark.parametrize("forms", FORMATS, ids=lambda forms: "+".join(map(format_name, forms)))
@pytest.mark.parametrize(
    ("n_experts", "n_tokens", "top_k"), [(1, 1, 1), (9, 1, 8), (5, 3, 2), (3, 40, 2)]
)
def test_experts(
    device: Device,
    forms: tuple[MatrixFormat, MatrixFormat],
    n_experts: int,
    n_tokens: int,
    top_k: int,
) -> None:
    inputs = expert_inputs(n_experts, n_tokens, top_k, forms)
    inner, out = run_experts(device, inputs, [n_tokens])
    for t in range(n_tokens):
        for k in range(top_k):
            gate_proj, up_proj, down_proj = inputs.experts[inputs.routed[t, k]]
            x = inputs.x[t : t + 1].astype(np.float64)
            wanted = reference.gate_up(gate_proj.dense, up_proj.dense, x)
            assert_close(inner[t, k], wanted[0], forms[0].dtype)
            wanted = reference.matmul(down_proj.dense, inner[t : t + 1, k].astype(np.float64))
            assert_close(out[t, k], wanted[0], forms[1].dtype)


@pytest.mark.parametrize("with_shared", [False, True])
@pytest.mark.parametrize("dtype", Dtype, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize(("n_tokens", "top_k", "width"), [(1, 1, 1), (1, 8, 2048), (5, 3, 67)])
def test_combine_norm(
    device: Device, with_shared: bool, dtype: Dtype, n_tokens: int, top_k: int, width: int
) -> None:
    h, experts = random_array(0, n_tokens, width), random_array(1, n_tokens, top_k, width)
    weights = np.random.default_rng(2).uniform(0, 1, (n_tokens, top_k)).astype(np.float32)
    norm_weight = random_array(5, width)
    shared = (
        (random_array(3, n_tokens, width), random_array(4, n_tokens, 1)) if with_shared else None
    )
    out, normed = run_combine_norm(
        device, h, experts, weights, shared, norm_weight, [n_tokens], dtype
    )
    wanted = reference.moe_combine(h, experts, weights, *(shared or (None, None)))
    assert_close(out, wanted)
    meaning = reference.decode(reference.encode(norm_weight, dtype), dtype)
    assert_close(normed, reference.rms_norm(wanted, meaning, 1e-6), dtype)


def test_rows_of_pairs_outside_of_the_batch_stay_as_they_are(device: Device) -> None:
    """A chunk may be done in several waves of experts; each writes its own rows only."""
    inputs = expert_inputs(4, 3, 2, FORMATS[0])
    partial = np.where(inputs.routed < 2, inputs.routed, -1)
    inner, out = run_experts(device, ExpertInputs(inputs.experts, partial, inputs.x), [3])
    full_inner, full_out = run_experts(device, inputs, [3])
    absent = partial < 0
    assert np.isnan(inner[absent]).all()
    assert np.isnan(out[absent]).all()
    assert np.array_equal(inner[~absent], full_inner[~absent])
    assert np.array_equal(out[~absent], full_out[~absent])
