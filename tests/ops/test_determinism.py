"""The same bits for any number of threads, and for a token alone as within a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from device_arrays import Single, random_array
from runs import (
    run_attention,
    run_combine_norm,
    run_convolve,
    run_decay,
    run_experts,
    run_gate_up,
    run_gated_rms_norm,
    run_matmul,
    run_recurrence,
    run_rms_norm,
    run_router,
    run_split,
)
from test_attention_ops import SHAPES as ATTENTION_SHAPES
from test_attention_ops import attention_inputs
from test_gated_delta_net_ops import SHAPES as DELTA_NET_SHAPES
from test_gated_delta_net_ops import recurrence_inputs
from test_matmul_ops import UNQUANTISED
from test_moe_ops import FORMATS, expert_inputs

from moeflux._core import Device, open_device
from moeflux.quant import AFFINE_BITS, Dtype, MatrixFormat
from reference import store_matrix

N_TOKENS = 19
Run = Callable[[Device, Sequence[int]], Sequence[Single]]


def _matmul(device: Device, chunks: Sequence[int]) -> Sequence[Single]:
    outputs = []
    for form in [*UNQUANTISED, *(MatrixFormat(Dtype.BFLOAT16, bits, 32) for bits in AFFINE_BITS)]:
        weight = store_matrix(random_array(0, 150, 416), form)
        x, start = random_array(1, N_TOKENS, 416), random_array(2, N_TOKENS, 150)
        outputs += [
            run_matmul(device, weight, x, chunks),
            run_matmul(device, weight, x, chunks, start),
        ]
    return outputs


def _gate_up(device: Device, chunks: Sequence[int]) -> Sequence[Single]:
    gate_proj, up_proj = (store_matrix(random_array(i, 150, 192), FORMATS[i][0]) for i in (0, 1))
    return [run_gate_up(device, gate_proj, up_proj, random_array(2, N_TOKENS, 192), chunks)]


def _experts(device: Device, chunks: Sequence[int]) -> Sequence[Single]:
    return run_experts(device, expert_inputs(6, N_TOKENS, 3, FORMATS[0]), chunks)


def _combine(device: Device, chunks: Sequence[int]) -> Sequence[Single]:
    shared = random_array(3, N_TOKENS, 67), random_array(4, N_TOKENS, 1)
    h, experts = random_array(0, N_TOKENS, 67), random_array(1, N_TOKENS, 8, 67)
    weights, norm = random_array(2, N_TOKENS, 8), random_array(5, 67)
    return run_combine_norm(device, h, experts, weights, shared, norm, chunks)


def _router(device: Device, chunks: Sequence[int]) -> Sequence[Single]:
    logits = random_array(0, N_TOKENS, 133)
    experts, weights = run_router(device, logits, 7, chunks, normalise=True)
    return [experts.astype(np.float32), weights]


def _norms(device: Device, chunks: Sequence[int]) -> Sequence[Single]:
    x, z, weight = (
        random_array(0, N_TOKENS, 260),
        random_array(1, N_TOKENS, 260),
        random_array(2, 260),
    )
    return [
        run_rms_norm(device, x, weight, Dtype.BFLOAT16, chunks),
        run_gated_rms_norm(device, x, z, weight[:26], Dtype.BFLOAT16, chunks),
    ]


def _attention(device: Device, chunks: Sequence[int]) -> Sequence[Single]:
    outputs: list[Single] = []
    for shape in (ATTENTION_SHAPES["odd"], ATTENTION_SHAPES["many heads per key head"]):
        inputs = attention_inputs(shape, N_TOKENS, 250)
        got = run_attention(device, inputs, chunks)
        outputs += [got.q, got.k_cache, got.v_cache, got.out]
        outputs.append(run_attention(device, inputs, chunks, n_splits=2).out)
    return outputs


def _gated_delta_net(device: Device, chunks: Sequence[int]) -> Sequence[Single]:
    shape = DELTA_NET_SHAPES["odd"]
    qkvz = random_array(0, N_TOKENS, shape.channels + shape.value_width)
    ba = random_array(1, N_TOKENS, 2 * shape.n_value_heads)
    a, weight = random_array(2, N_TOKENS, 6), random_array(3, 600, 4)
    x, state = random_array(4, N_TOKENS, 600), random_array(5, 3, 600)
    dtypes = Dtype.FLOAT32, Dtype.BFLOAT16
    return [
        *run_split(device, shape, qkvz, ba, chunks),
        *run_convolve(device, x, weight, Dtype.BFLOAT16, state, chunks),
        *run_decay(device, a, a, (random_array(6, 6), random_array(7, 6)), dtypes, chunks),
        *run_recurrence(device, recurrence_inputs(DELTA_NET_SHAPES["qwen3"], N_TOKENS), chunks),
        *run_recurrence(device, recurrence_inputs(shape, N_TOKENS), chunks),
    ]


RUNS = [_matmul, _gate_up, _experts, _combine, _router, _norms, _attention, _gated_delta_net]
by_kernels = pytest.mark.parametrize(
    "kernels", RUNS, ids=lambda kernels: kernels.__name__.strip("_")
)


def assert_same_bits(got: Sequence[Single], wanted: Sequence[Single]) -> None:
    assert len(got) == len(wanted)
    for one, other in zip(got, wanted, strict=True):
        assert np.array_equal(one.view(np.uint32), other.view(np.uint32))


@by_kernels
def test_results_do_not_depend_on_the_number_of_threads(kernels: Run, instruction_set: str) -> None:
    for chunks in ([N_TOKENS], [1] * N_TOKENS):
        wanted = kernels(open_device("cpu", 1, instruction_set), chunks)
        for n_threads in (2, 3, 8):
            assert_same_bits(
                kernels(open_device("cpu", n_threads, instruction_set), chunks), wanted
            )


@by_kernels
def test_results_do_not_depend_on_how_tokens_are_batched(
    kernels: Run, instruction_set: str
) -> None:
    device = open_device("cpu", 2, instruction_set)
    wanted = kernels(device, [1] * N_TOKENS)
    for chunks in ([N_TOKENS], [2, 5, 12], [16, 3]):
        assert_same_bits(kernels(device, chunks), wanted)
