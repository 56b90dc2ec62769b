"""Profiles of the demo model on the Metal backend: rows add up to the device's time."""

from __future__ import annotations

import pytest

import moeflux
from moeflux.profile import BETWEEN_KERNELS

pytestmark = pytest.mark.metal_bench

N_LAYERS = 8
PROMPT = [5, 6, 7]


def test_rows_add_up_to_the_command_buffers_of_the_run() -> None:
    with moeflux.load("demo", device="metal") as model:
        session, before = model.session(64), model.runtime.device_seconds
        with moeflux.profile() as profile:
            session.prefill(PROMPT)
            session.decode(8)
        spent = model.runtime.device_seconds - before
    rows = dict(profile.dump())
    wanted = 1e9 * spent
    n_command_buffers = sum(row.count for row in rows.values())
    assert sum(row.total_ns for row in rows.values()) == pytest.approx(
        wanted, abs=n_command_buffers
    )
    assert rows["layer 3 mixer"].count == rows["layer 3 experts"].count == 2
    assert len([label for label in rows if label.endswith("mixer")]) == N_LAYERS


def test_kernels_and_what_is_between_them_add_up_to_the_command_buffers() -> None:
    with moeflux.load("demo", device="metal") as model:
        session = model.session(64)
        with moeflux.profile(per_dispatch=True) as profile:
            session.prefill(PROMPT)
            session.decode(8)
    kernels = profile.kernels.rows()
    assert {"matmul", "expert_gate_up", "router_top_k", BETWEEN_KERNELS} <= set(kernels)
    # GPU times of command buffers and of passes come from two clocks.
    assert profile.kernels.total_ns == pytest.approx(profile.command_buffers.total_ns, rel=0.02)
    router = kernels["router_top_k"]
    assert router.count == 2 * N_LAYERS
    assert 0 < router.min_ns <= router.max_ns < profile.command_buffers.total_ns


def test_logits_are_the_same_bits_with_a_pass_per_kernel() -> None:
    with moeflux.load("demo", device="metal") as model:
        plain, profiled = model.session(64), model.session(64)
        wanted = [plain.prefill(PROMPT), plain.decode(8)]
        with moeflux.profile(per_dispatch=True):
            got = [profiled.prefill(PROMPT), profiled.decode(8)]
    assert [row.tobytes() for row in got] == [row.tobytes() for row in wanted]
