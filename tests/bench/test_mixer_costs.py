"""What the kernels of mixers and norms must move and compute, worked out by hand."""

from __future__ import annotations

from kernel_costs import Cost
from mixer_costs import (
    Splits,
    attention,
    attention_decode,
    attention_merge,
    attention_prepare,
    gated_delta_net,
    gated_delta_net_conv,
    gated_delta_net_decay,
    gated_delta_net_split,
    gated_rms_norm,
    rms_norm,
)
from moeflux.ops.operands import AttentionShape, DeltaNetShape
from moeflux.quant import Dtype

PLAIN = AttentionShape(4, 2, 8, 6, output_gate=False)
GATED = AttentionShape(4, 2, 8, 6, output_gate=True)
NET = DeltaNetShape(2, 4, 8, 16, 4)  # channels 2 * 16 + 64, value width 64


def test_norms_read_and_write_rows() -> None:
    got = rms_norm(width=10, n_tokens=3, weight_dtype=Dtype.FLOAT16)
    assert got == Cost(2 * 3 * 40 + 20, 3 * (40 + 4))
    got = gated_rms_norm(n_heads=2, width=10, n_tokens=3, weight_dtype=Dtype.FLOAT16)
    assert got == Cost(3 * 6 * 40 + 20, 6 * (90 + 4))


def test_prepare_moves_all_heads_and_rotates_those_of_queries_and_keys() -> None:
    got = attention_prepare(shape=PLAIN, n_tokens=5, norm_dtype=Dtype.BFLOAT16)
    heads = 6 * (8 * 4 + 4 + 3 * 6)
    assert got == Cost(2 * 5 * (4 + 2 + 2) * 32 + 2 * 16 + 3 * 4, 5 * (heads + 9))
    assert got == attention_prepare(shape=GATED, n_tokens=5, norm_dtype=Dtype.BFLOAT16)


def test_attention_reads_the_cache_once_for_all_tokens() -> None:
    got = attention(shape=PLAIN, n_tokens=2, position=10)
    assert got == Cost(2 * 12 * 2 * 32 + 2 * 2 * 128, 4 * (11 + 12) * (32 + 5) + 2 * 32)


def test_an_output_gate_adds_its_rows() -> None:
    plain, gated = (attention(shape=shape, n_tokens=2, position=10) for shape in (PLAIN, GATED))
    assert gated == plain + Cost(2 * 128, 2 * 32 * 5)


def test_splits_are_as_few_as_keep_them_to_whole_blocks() -> None:
    assert Splits(n_tokens=1, position=511, n_splits=4).used() == 4
    assert Splits(n_tokens=1, position=512, n_splits=4).used() == 3
    assert Splits(n_tokens=2, position=511, n_splits=4).used() == 4 + 3


def test_attention_in_splits_writes_and_reads_those_that_have_keys() -> None:
    splits = Splits(n_tokens=1, position=299, n_splits=8)
    partials = 3 * 4 * 10 * 4
    got = attention_decode(shape=GATED, splits=splits)
    assert got == Cost(2 * 300 * 2 * 32 + 128 + partials, 4 * 300 * (32 + 5))
    got = attention_merge(shape=PLAIN, splits=splits)
    assert got == Cost(partials + 128, 3 * 4 * (2 + 2 * 9) + 32)
    assert attention_merge(shape=GATED, splits=splits) == got + Cost(128, 32 * 5)


def test_splitting_moves_everything_and_computes_nothing() -> None:
    assert gated_delta_net_split(shape=NET, n_tokens=3) == Cost(2 * 3 * 4 * (96 + 64 + 8), 0)


def test_convolution_reads_and_writes_its_state() -> None:
    got = gated_delta_net_conv(shape=NET, n_tokens=5, weight_dtype=Dtype.BFLOAT16)
    assert got == Cost(2 * 4 * 96 * (5 + 3) + 2 * 4 * 96, 5 * 96 * (8 + 4))


def test_decay_is_a_few_operations_per_head() -> None:
    got = gated_delta_net_decay(n_value_heads=4, n_tokens=3, weight_dtype=Dtype.FLOAT32)
    assert got == Cost(4 * 12 * 4 + 2 * 16, 12 * 12)


def test_the_delta_rule_moves_its_state_once_for_all_tokens() -> None:
    one, two = (gated_delta_net(shape=NET, n_tokens=n) for n in (1, 2))
    state = 4 * 16 * 8
    rows = 96 + 8 + 64
    assert one == Cost(4 * (2 * state + rows), 7 * state + 2 * 64 + 2 * 2 * (24 + 4))
    assert two.nbytes - one.nbytes == 4 * rows
    assert two.flops == 2 * one.flops
