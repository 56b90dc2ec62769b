"""Attention and the gated delta net in a prompt: right, and the same bits for any chunks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from device_arrays import Prompt
from runs import RecurrenceInputs, run_attention, run_recurrence
from test_attention_ops import SHAPES as ATTENTION_SHAPES
from test_attention_ops import assert_attention, attention_inputs
from test_gated_delta_net_ops import SHAPES as DELTA_NET_SHAPES
from test_gated_delta_net_ops import recurrence_inputs

import reference
from moeflux._core import Device
from moeflux.ops.operands import AttentionShape, DeltaNetShape
from tolerance import assert_close

# Heads as wide as each kernel takes, not all of whole vectors.
MORE_ATTENTION_SHAPES = {
    "head_dim 64": AttentionShape(3, 1, 64, 64, output_gate=False),
    "head_dim 96": AttentionShape(4, 4, 96, 32, output_gate=True),
    "head_dim 255": AttentionShape(2, 1, 255, 10, output_gate=True),
    "many heads": AttentionShape(64, 8, 12, 4, output_gate=False),
}
MORE_DELTA_NET_SHAPES = {
    "rows of no whole vectors": DeltaNetShape(1, 2, 40, 33, 4),
    "key_dim 192": DeltaNetShape(1, 1, 192, 8, 4),
    "key_dim 256": DeltaNetShape(1, 2, 256, 20, 4),
}


def by_shape(*tables: dict[str, AttentionShape] | dict[str, DeltaNetShape]) -> pytest.MarkDecorator:
    rows = {name: shape for table in tables for name, shape in table.items()}
    return pytest.mark.parametrize("shape", rows.values(), ids=rows.keys())


by_kind = pytest.mark.parametrize("kind", [int, Prompt])


@by_shape(MORE_ATTENTION_SHAPES)
def test_attention_in_splits(device: Device, shape: AttentionShape) -> None:
    inputs = attention_inputs(shape, 2, 255)
    assert_attention(inputs, run_attention(device, inputs, [2], 2))


@by_kind
@by_shape(ATTENTION_SHAPES, MORE_ATTENTION_SHAPES)
@pytest.mark.parametrize(("n_tokens", "position"), [(1, 63), (3, 126), (70, 0)])
def test_attention(
    device: Device, shape: AttentionShape, n_tokens: int, position: int, kind: type[int]
) -> None:
    inputs = attention_inputs(shape, n_tokens, position)
    outputs = run_attention(device, inputs, [kind(n_tokens)])
    assert_attention(inputs, outputs)


def test_attention_of_a_prompt_to_one_dominant_key_does_not_overflow(device: Device) -> None:
    shape = AttentionShape(1, 1, 4, 2, output_gate=False)
    inputs = attention_inputs(shape, 2, 200)
    inputs.k_cache[:] *= 1e4
    outputs = run_attention(device, inputs, [Prompt(2)])
    assert_attention(inputs, outputs)


@by_shape(ATTENTION_SHAPES)
def test_a_query_of_a_prompt_has_the_same_bits_in_any_chunk(
    device: Device, shape: AttentionShape
) -> None:
    inputs = attention_inputs(shape, 100, 64)
    wanted = run_attention(device, inputs, [Prompt(100)]).out
    for chunks in ([64, 36], [1, 99], [70, 30]):
        got = run_attention(device, inputs, [Prompt(n) for n in chunks]).out
        assert np.array_equal(got.view(np.uint32), wanted.view(np.uint32))


def assert_recurrence(device: Device, inputs: RecurrenceInputs, chunks: Sequence[int]) -> None:
    shape, n_tokens = inputs.shape, len(inputs.qkv)
    out, state = run_recurrence(device, inputs, chunks)
    q, k, v = np.split(
        inputs.qkv.astype(np.float64), [shape.key_width, 2 * shape.key_width], axis=-1
    )
    wanted, wanted_state = reference.gated_delta_rule(
        q.reshape(n_tokens, shape.n_key_heads, shape.key_dim),
        k.reshape(n_tokens, shape.n_key_heads, shape.key_dim),
        v.reshape(n_tokens, shape.n_value_heads, shape.value_dim),
        inputs.decay.astype(np.float64),
        inputs.beta.astype(np.float64),
        inputs.state.astype(np.float64),
        1e-6,
    )
    assert_close(out, wanted.reshape(n_tokens, -1))
    assert_close(state, wanted_state)


@by_kind
@by_shape(DELTA_NET_SHAPES, MORE_DELTA_NET_SHAPES)
@pytest.mark.parametrize("sizes", [[1], [31], [33], [90], [20, 70]], ids=str)
def test_recurrence(
    device: Device, shape: DeltaNetShape, sizes: Sequence[int], kind: type[int]
) -> None:
    assert_recurrence(device, recurrence_inputs(shape, sum(sizes)), [kind(n) for n in sizes])


@pytest.mark.parametrize("beta", [0.5, 1.0])
@pytest.mark.parametrize("decay", [0.0, 1e-30, 0.01, 1.0])
def test_recurrence_of_decays_that_vanish_and_that_do_not(
    device: Device, decay: float, beta: float
) -> None:
    shape = DELTA_NET_SHAPES["one value head per key head"]
    inputs = recurrence_inputs(shape, 70)
    inputs.decay[:] = decay
    inputs.decay[::7] = 0.9
    inputs.beta[:] = beta
    assert_recurrence(device, inputs, [Prompt(70)])


def test_recurrence_of_equal_keys(device: Device) -> None:
    """Every token overwrites what the one before it has stored: the system is far from diagonal."""
    shape = DELTA_NET_SHAPES["one value head per key head"]
    inputs = recurrence_inputs(shape, 64)
    inputs.qkv[:, : 2 * shape.key_width] = inputs.qkv[:1, : 2 * shape.key_width]
    inputs.decay[:], inputs.beta[:] = 1, 1
    assert_recurrence(device, inputs, [Prompt(64)])


@by_shape(DELTA_NET_SHAPES, MORE_DELTA_NET_SHAPES)
def test_recurrence_has_the_same_bits_in_chunks_of_whole_blocks(
    device: Device, shape: DeltaNetShape
) -> None:
    inputs = recurrence_inputs(shape, 140)
    wanted = run_recurrence(device, inputs, [Prompt(140)])
    for chunks in ([64, 76], [128, 12], [64, 64, 12]):
        got = run_recurrence(device, inputs, [Prompt(n) for n in chunks])
        for one, other in zip(got, wanted, strict=True):
            assert np.array_equal(one.view(np.uint32), other.view(np.uint32))
