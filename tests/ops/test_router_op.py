"""router_top_k against the formula."""

from __future__ import annotations

import numpy as np
import pytest
from device_arrays import random_array
from runs import run_router

import reference
from moeflux._core import Device
from tolerance import assert_close


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize(
    ("n_tokens", "n_experts", "top_k"),
    [(1, 1, 1), (1, 128, 8), (3, 7, 7), (5, 60, 4), (2, 512, 10), (1, 2048, 1)],
)
def test_router(device: Device, normalise: bool, n_tokens: int, n_experts: int, top_k: int) -> None:
    logits = random_array(0, n_tokens, n_experts)
    experts, weights = run_router(device, logits, top_k, [n_tokens], normalise=normalise)
    wanted_experts, wanted_weights = reference.router_top_k(logits, top_k, normalise=normalise)
    assert np.array_equal(experts, wanted_experts)
    assert_close(weights, wanted_weights)


def test_of_equal_experts_the_lower_ones_are_chosen_in_order(device: Device) -> None:
    logits = np.zeros((2, 100), np.float32)
    logits[1, 40:] = 1.0
    experts, weights = run_router(device, logits, 3, [2], normalise=True)
    assert experts.tolist() == [[0, 1, 2], [40, 41, 42]]
    assert_close(weights, np.full((2, 3), 1 / 3))


def test_large_logits_do_not_overflow(device: Device) -> None:
    logits = np.array([[1e4, 1e4 - 1.0, -1e4, 0.0]], np.float32)
    experts, weights = run_router(device, logits, 2, [1], normalise=False)
    assert experts.tolist() == [[0, 1]]
    assert_close(weights, np.array([[1.0, np.exp(-1.0)]]) / (1 + np.exp(-1.0)))
