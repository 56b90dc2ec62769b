"""The doctor's formulas and its reading of stored weights, against the specification."""

from __future__ import annotations

import numpy as np
import pytest

import reference as specification
from moeflux.doctor import reference
from moeflux.doctor.cases import FORMATS, format_name
from moeflux.doctor.stored import random_matrix, random_rows, random_vector
from moeflux.ops.operands import DeltaNetShape
from moeflux.quant import AFFINE_BITS, GROUP_SIZES, Dtype, MatrixFormat
from reference import Float


def assert_equal(got: Float, wanted: Float) -> None:
    """Up to the rounding of float64."""
    np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("form", FORMATS, ids=format_name)
def test_values_of_a_matrix_are_those_of_its_bytes(form: MatrixFormat) -> None:
    """Quantising the values again gives bytes of the same meaning."""
    stored = random_matrix(0, 3, 2 * (form.group_size or 7), form)
    if not form.quantised:
        again = specification.store_matrix(stored.values, form)
        assert again.weight == stored.weight
        return
    codes = np.frombuffer(stored.weight, np.uint8)
    scale, bias = (
        specification.decode(
            np.frombuffer(part, np.float32 if form.dtype is Dtype.FLOAT32 else kind), form.dtype
        ).reshape(3, 2, 1)
        for part in (stored.scales, stored.biases)
        for kind in [np.float16 if form.dtype is Dtype.FLOAT16 else np.uint16]
    )
    levels = np.rint((stored.values.reshape(3, 2, -1) - bias) / scale)
    assert specification.pack_codes(levels, form.bits) == codes.tobytes()
    assert_equal((levels * scale + bias).reshape(3, -1), stored.values)


@pytest.mark.parametrize("dtype", Dtype)
def test_values_of_a_vector_are_those_of_its_bytes(dtype: Dtype) -> None:
    stored = random_vector(1, 40, dtype)
    assert specification.encode(stored.values, dtype).tobytes() == stored.data


def test_formats_are_of_every_width_and_group_size() -> None:
    assert {form.bits for form in FORMATS} == {0, *AFFINE_BITS}
    assert {form.group_size for form in FORMATS} == {0, *GROUP_SIZES}
    assert {form.dtype for form in FORMATS if form.quantised} == set(Dtype)


def test_norms() -> None:
    x, z, weight = random_rows(0, 2, 3, 8), random_rows(1, 2, 3, 8), random_rows(2, 8)
    assert_equal(reference.rms_norm(x, weight), specification.rms_norm(x, weight, 1e-6))
    wanted = specification.gated_rms_norm(x.reshape(2, 24), z.reshape(2, 24), weight, 1e-6)
    assert_equal(reference.gated_rms_norm(x, z, weight).reshape(2, 24), wanted)


def test_gate_up() -> None:
    gate_proj, up_proj, x = random_rows(0, 5, 8), random_rows(1, 5, 8), random_rows(2, 3, 8)
    wanted = specification.gate_up(gate_proj, up_proj, x)
    assert_equal(reference.gate_up(gate_proj, up_proj, x), wanted)


def test_rotation() -> None:
    heads, positions = random_rows(0, 3, 2, 10), np.array([0, 7, 30011])
    frequencies = random_rows(1, 3)
    wanted = specification.rope(heads, positions, frequencies)
    assert_equal(reference.rotate(heads, positions, frequencies), wanted)


def test_attention() -> None:
    q, k, v = random_rows(0, 3, 6, 8), random_rows(1, 12, 2, 8), random_rows(2, 12, 2, 8)
    wanted = specification.attention(q, specification.Cache(k, v), 5, None)
    assert_equal(reference.attention(q, k, v, 5), wanted)


def test_convolution() -> None:
    x, weight, state = random_rows(0, 2, 9), random_rows(1, 9, 4), random_rows(2, 3, 9)
    got = reference.convolve(x, weight, state)
    for part, wanted in zip(got, specification.convolve(x, weight, state), strict=True):
        assert_equal(part, wanted)


def test_decay_and_beta() -> None:
    inputs = [random_rows(seed, 4, 6) for seed in (0, 1)] + [random_rows(i, 6) for i in (2, 3)]
    got = reference.decay_and_beta(*inputs)
    for part, wanted in zip(got, specification.decay_and_beta(*inputs), strict=True):
        assert_equal(part, wanted)


def test_delta_rule() -> None:
    shape = DeltaNetShape(2, 6, 5, 7, 4)
    q, k = (random_rows(seed, 4, shape.n_key_heads, shape.key_dim) for seed in (0, 1))
    v = random_rows(2, 4, shape.n_value_heads, shape.value_dim)
    decay, beta = (abs(random_rows(seed, 4, shape.n_value_heads)) / 4 for seed in (3, 4))
    state = random_rows(5, shape.n_value_heads, shape.value_dim, shape.key_dim)
    got = reference.delta_rule(q, k, v, decay, beta, state)
    wanted = specification.gated_delta_rule(q, k, v, decay, beta, state, 1e-6)
    for part, wanted_part in zip(got, wanted, strict=True):
        assert_equal(part, wanted_part)


@pytest.mark.parametrize("normalise", [False, True])
def test_top_k(normalise: bool) -> None:
    logits = random_rows(0, 4, 19)
    experts, weights = reference.top_k(logits, 5, normalise=normalise)
    wanted = specification.router_top_k(logits, 5, normalise=normalise)
    assert np.array_equal(experts, wanted[0])
    assert_equal(weights, wanted[1])


def test_combine() -> None:
    h, routed, weights = random_rows(0, 3, 8), random_rows(1, 3, 2, 8), random_rows(2, 3, 2)
    shared, shared_gate = random_rows(3, 3, 8), random_rows(4, 3, 1)
    wanted = specification.moe_combine(h, routed, weights, shared, shared_gate)
    assert_equal(reference.combine(h, routed, weights, shared, shared_gate), wanted)
