"""rms_norm and gated_rms_norm."""

from __future__ import annotations

import numpy as np
import pytest
from device_arrays import random_array
from runs import run_gated_rms_norm, run_rms_norm

import reference
from moeflux._core import Device
from moeflux.quant import Dtype
from reference import decode, encode
from tolerance import assert_close


@pytest.mark.parametrize("dtype", Dtype)
@pytest.mark.parametrize(("n_tokens", "width"), [(1, 1), (3, 7), (1, 2048), (5, 131), (2, 64)])
def test_rms_norm(device: Device, dtype: Dtype, n_tokens: int, width: int) -> None:
    x, weight = 3 * random_array(0, n_tokens, width), random_array(1, width)
    out = run_rms_norm(device, x, weight, dtype, [n_tokens])
    meaning = decode(encode(weight, dtype), dtype)
    assert_close(out, reference.rms_norm(x.astype(np.float64), meaning, 1e-6), dtype)


def test_rms_norm_of_zeros_is_zero(device: Device) -> None:
    x, weight = np.zeros((2, 33), np.float32), random_array(1, 33)
    assert not run_rms_norm(device, x, weight, Dtype.FLOAT32, [2]).any()


@pytest.mark.parametrize("dtype", Dtype)
@pytest.mark.parametrize(("n_tokens", "n_heads", "width"), [(1, 1, 1), (3, 5, 7), (2, 32, 128)])
def test_gated_rms_norm(
    device: Device, dtype: Dtype, n_tokens: int, n_heads: int, width: int
) -> None:
    x, z = (
        random_array(0, n_tokens, n_heads * width),
        4 * random_array(1, n_tokens, n_heads * width),
    )
    weight = random_array(2, width)
    out = run_gated_rms_norm(device, x, z, weight, dtype, [n_tokens])
    meaning = decode(encode(weight, dtype), dtype)
    wanted = reference.gated_rms_norm(x.astype(np.float64), z.astype(np.float64), meaning, 1e-6)
    assert_close(out, wanted, dtype)
