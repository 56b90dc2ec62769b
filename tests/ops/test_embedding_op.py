"""embed: every format, and token ids outside of the vocabulary."""

from __future__ import annotations

import numpy as np
import pytest
from device_arrays import random_array
from runs import run_embedding
from test_matmul_ops import AFFINE, UNQUANTISED, format_name

import reference
from moeflux._core import Device
from moeflux.errors import DeviceError
from moeflux.quant import Dtype, MatrixFormat
from reference import store_matrix
from tolerance import assert_close


@pytest.mark.parametrize("form", UNQUANTISED + AFFINE, ids=format_name)
def test_embedding(device: Device, form: MatrixFormat) -> None:
    for width in (form.group_size or 1, 3 * (form.group_size or 13), 640):
        table = store_matrix(random_array(width, 11, width), form)
        tokens = np.array([3, 10, 0, 3, 7], np.int32)
        out = run_embedding(device, table, tokens)
        assert_close(out, reference.embedding(table.dense, tokens), form.dtype)


@pytest.mark.parametrize("token", [-1, 11])
def test_token_outside_of_the_vocabulary_never_passes_for_another(
    device: Device, token: int
) -> None:
    """The CPU can fail the command buffer, a GPU cannot."""
    table = store_matrix(random_array(0, 11, 8), MatrixFormat(Dtype.FLOAT32))
    tokens = np.array([0, token], np.int32)
    if device.name == "cpu":
        with pytest.raises(DeviceError, match=rf"token id {token} .* vocabulary of 11"):
            run_embedding(device, table, tokens)
    else:
        rows = run_embedding(device, table, tokens)
        assert_close(rows[:1], table.dense[:1])
        assert np.isnan(rows[1]).all()
