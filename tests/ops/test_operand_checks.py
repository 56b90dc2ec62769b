"""Every op refuses operands that do not fit before anything is dispatched, saying which and why."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from moeflux._core import Buffer, CommandBuffer, Step, open_device
from moeflux.ops import attention, embedding, gated_delta_net, matmul, moe, norm
from moeflux.ops.operands import (
    Activations,
    AttentionShape,
    DeltaNetShape,
    ExpertBatch,
    ExpertMatrixPlace,
    ExpertPlaces,
    KeyValueCache,
    Matrix,
    RmsNorm,
    RoutedExperts,
    Vector,
)
from moeflux.ops.router import router_top_k
from moeflux.quant import Dtype, MatrixFormat

DEVICE = open_device("cpu", 1)
AFFINE = MatrixFormat(Dtype.BFLOAT16, 4, 32)
PLAIN = MatrixFormat(Dtype.FLOAT32)
HEADS = AttentionShape(4, 2, 8, 4, output_gate=True)
DELTA_NET = DeltaNetShape(2, 4, 8, 8, 4)


def buffer(nbytes: int) -> Buffer:
    return DEVICE.buffer(nbytes)


def rows(width: int) -> Activations:
    return Activations(buffer(8 * width), width)


def vector(length: int, dtype: Dtype = Dtype.FLOAT32) -> Vector:
    return Vector(buffer(length * dtype.itemsize), length, dtype)


def matrix(n_rows: int, cols: int) -> Matrix:
    return Matrix(n_rows, cols, PLAIN, buffer(4 * n_rows * cols))


def projections(q: int = 64, k: int = 16, v: int = 16) -> attention.Projections:
    return attention.Projections(rows(q), rows(k), rows(v))


def norms(
    q: Vector | None = None, k: Vector | None = None, frequencies: Vector | None = None
) -> attention.HeadNorms:
    return attention.HeadNorms(q or vector(8), k or vector(8), 1e-6, frequencies or vector(2))


def cache(k_nbytes: int = 640) -> KeyValueCache:
    return KeyValueCache(buffer(k_nbytes), buffer(640), 10)


def projected(qkv: int = 64, z: int = 32, b: int = 4, a: int = 4) -> gated_delta_net.Projected:
    return gated_delta_net.Projected(rows(qkv), rows(z), rows(b), rows(a))


def delta_inputs(qkv: int = 64, decay: int = 4, beta: int = 4) -> gated_delta_net.DeltaRuleInputs:
    return gated_delta_net.DeltaRuleInputs(rows(qkv), rows(decay), rows(beta))


def decay_weights(a_log: int = 4, dt_bias: int = 4) -> gated_delta_net.DecayWeights:
    return gated_delta_net.DecayWeights(vector(a_log), vector(dt_bias))


def batch(slot_nbytes: int = 1024, top_k: int = 2) -> ExpertBatch:
    return ExpertBatch(buffer(4096), slot_nbytes, buffer(16), buffer(16), top_k)


def places(
    gate_proj: ExpertMatrixPlace | None = None,
    up_proj: ExpertMatrixPlace | None = None,
    down_proj: ExpertMatrixPlace | None = None,
) -> ExpertPlaces:
    wide = ExpertMatrixPlace(8, 32, AFFINE, 0, 128, 144)
    tall = ExpertMatrixPlace(32, 8, PLAIN, 0)
    return ExpertPlaces(gate_proj or wide, up_proj or wide, down_proj or tall)


NORM = RmsNorm(vector(32), 1e-6)


def combine_norm(
    encoder: CommandBuffer,
    routed: Activations,
    shared: Activations | None = None,
    shared_gate: Activations | None = None,
    weights_nbytes: int = 16,
    norm: RmsNorm = NORM,
) -> None:
    outputs = moe.ExpertOutputs(routed, buffer(weights_nbytes), 2, shared, shared_gate)
    moe.combine_norm(encoder, rows(32), outputs, norm, rows(32))


OUTSIDE = ExpertMatrixPlace(8, 32, AFFINE, 0, 1010, 144)

REFUSED: list[tuple[str, Callable[[CommandBuffer], None]]] = [
    (
        "out needs rows of width 16, got 8",
        lambda e: embedding.embed(e, matrix(4, 16), buffer(4), rows(8)),
    ),
    (
        "weight needs 16 elements, got 8",
        lambda e: norm.rms_norm(e, rows(16), RmsNorm(vector(8), 1e-6), rows(16)),
    ),
    (
        "out needs rows of width 16, got 8",
        lambda e: norm.rms_norm(e, rows(16), RmsNorm(vector(16), 1e-6), rows(8)),
    ),
    (
        "width of x needs a multiple of the weight's length, got 16 for 5",
        lambda e: norm.gated_rms_norm(e, rows(16), rows(16), vector(5), 1e-6, rows(16)),
    ),
    (
        "z needs rows of width 16, got 8",
        lambda e: norm.gated_rms_norm(e, rows(16), rows(8), vector(4), 1e-6, rows(16)),
    ),
    (
        "x needs rows of width 16, got 8",
        lambda e: matmul.matmul(e, matrix(4, 16), rows(8), rows(4)),
    ),
    (
        "out needs rows of width 4, got 8",
        lambda e: matmul.matmul(e, matrix(4, 16), rows(16), rows(8)),
    ),
    (
        "up_proj needs the shape of gate_proj [4, 16], got [4, 8]",
        lambda e: matmul.gate_up(e, matrix(4, 16), matrix(4, 8), rows(16), rows(4)),
    ),
    (
        "out needs rows of width 4, got 8",
        lambda e: matmul.gate_up(e, matrix(4, 16), matrix(4, 16), rows(16), rows(8)),
    ),
    (
        "q projection needs rows of width 64, got 32",
        lambda e: attention.prepare(e, HEADS, projections(q=32), norms(), cache(), rows(32)),
    ),
    (
        "v projection needs rows of width 16, got 8",
        lambda e: attention.prepare(e, HEADS, projections(v=8), norms(), cache(), rows(32)),
    ),
    (
        "k_norm needs dtype FLOAT32, got BFLOAT16",
        lambda e: attention.prepare(
            e, HEADS, projections(), norms(k=vector(8, Dtype.BFLOAT16)), cache(), rows(32)
        ),
    ),
    (
        "rope_frequencies needs 2 elements, got 4",
        lambda e: attention.prepare(
            e, HEADS, projections(), norms(frequencies=vector(4)), cache(), rows(32)
        ),
    ),
    (
        "rope_dim needs an even number from 2 to head_dim 8, got 10",
        lambda e: attention.prepare(
            e, replace(HEADS, rope_dim=10), projections(), norms(), cache(), rows(32)
        ),
    ),
    (
        "key cache needs 640 bytes, got 320",
        lambda e: attention.attention(e, HEADS, rows(32), rows(64), cache(320), rows(32)),
    ),
    (
        "n_heads needs a multiple of n_kv_heads, got 4 for 3",
        lambda e: attention.attention(
            e, replace(HEADS, n_kv_heads=3), rows(32), rows(64), cache(), rows(32)
        ),
    ),
    (
        "width of partials needs a multiple of those of a split, got 41 for 40",
        lambda e: attention.attention_decode(e, HEADS, rows(32), cache(), rows(41)),
    ),
    (
        "key cache needs 640 bytes, got 320",
        lambda e: attention.attention_decode(e, HEADS, rows(32), cache(320), rows(40)),
    ),
    (
        "q projection needs rows of width 64, got 32",
        lambda e: attention.attention_merge(e, HEADS, rows(40), rows(32), rows(32)),
    ),
    (
        "qkvz needs rows of width 96, got 64",
        lambda e: gated_delta_net.split(e, DELTA_NET, rows(64), rows(8), projected()),
    ),
    (
        "z needs rows of width 32, got 16",
        lambda e: gated_delta_net.split(e, DELTA_NET, rows(96), rows(8), projected(z=16)),
    ),
    (
        "n_value_heads needs a multiple of n_key_heads, got 4 for 3",
        lambda e: gated_delta_net.recurrence(
            e, replace(DELTA_NET, n_key_heads=3), delta_inputs(), buffer(1024), rows(32)
        ),
    ),
    (
        "length of weight needs a multiple of the channels, got 30 for 8",
        lambda e: gated_delta_net.convolve(e, rows(8), vector(30), buffer(96), rows(8)),
    ),
    (
        "convolution state needs 96 bytes, got 64",
        lambda e: gated_delta_net.convolve(e, rows(8), vector(32), buffer(64), rows(8)),
    ),
    (
        "dt_bias needs 4 elements, got 3",
        lambda e: gated_delta_net.decay(e, projected(), decay_weights(dt_bias=3), rows(4), rows(4)),
    ),
    (
        "recurrent state needs 1024 bytes, got 512",
        lambda e: gated_delta_net.recurrence(e, DELTA_NET, delta_inputs(), buffer(512), rows(32)),
    ),
    (
        "beta needs rows of width 4, got 2",
        lambda e: gated_delta_net.recurrence(
            e, DELTA_NET, delta_inputs(beta=2), buffer(1024), rows(32)
        ),
    ),
    (
        "size of slots needs a multiple of slot_nbytes, got 4096 for 1000",
        lambda e: moe.expert_gate_up(e, batch(1000), places(), rows(32), rows(8)),
    ),
    (
        "top_k needs at least 1, got 0",
        lambda e: moe.expert_gate_up(e, batch(top_k=0), places(), rows(32), rows(8)),
    ),
    (
        "up_proj scales needs 16 bytes inside a slot of 1024, got offset 1010",
        lambda e: moe.expert_gate_up(e, batch(), places(up_proj=OUTSIDE), rows(32), rows(8)),
    ),
    (
        "up_proj needs the shape of gate_proj [8, 32], got [32, 8]",
        lambda e: moe.expert_gate_up(
            e, batch(), places(up_proj=places().down_proj), rows(32), rows(8)
        ),
    ),
    (
        "x needs rows of width 8, got 32",
        lambda e: moe.expert_down(e, batch(), places(), rows(32), rows(32)),
    ),
    (
        "routed needs rows of width 32, got 16",
        lambda e: combine_norm(e, rows(16)),
    ),
    (
        "shared and shared_gate are needed together, got shared alone",
        lambda e: combine_norm(e, rows(32), rows(32)),
    ),
    (
        "shared_gate needs rows of width 1, got 2",
        lambda e: combine_norm(e, rows(32), rows(32), rows(2)),
    ),
    (
        "routing weights needs at least 8 bytes, got 4",
        lambda e: combine_norm(e, rows(32), weights_nbytes=4),
    ),
    (
        "norm weight needs 32 elements, got 8",
        lambda e: combine_norm(e, rows(32), norm=RmsNorm(vector(8), 1e-6)),
    ),
    (
        "top_k needs 1 to 4 experts, got 5",
        lambda e: router_top_k(
            e, rows(4), RoutedExperts(buffer(20), buffer(20), 5), normalise=True
        ),
    ),
    (
        "routed experts needs at least 8 bytes, got 4",
        lambda e: router_top_k(e, rows(4), RoutedExperts(buffer(4), buffer(8), 2), normalise=True),
    ),
    (
        "routing weights needs at least 8 bytes, got 4",
        lambda e: router_top_k(e, rows(4), RoutedExperts(buffer(8), buffer(4), 2), normalise=True),
    ),
]


@pytest.mark.parametrize(("message", "encode"), REFUSED, ids=[message for message, _ in REFUSED])
def test_op_refuses(message: str, encode: Callable[[CommandBuffer], None]) -> None:
    command_buffer = DEVICE.queue().command_buffer(Step(0, 1))
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        encode(command_buffer)
