"""What kernels must move and compute, against numbers worked out by hand."""

from __future__ import annotations

from kernel_costs import (
    KERNEL_COSTS,
    Cost,
    ExpertLoad,
    MatrixShape,
    embedding,
    expert_down,
    expert_gate_up,
    gate_up,
    matmul,
    moe_combine_norm,
    router_top_k,
)
from moeflux._core import open_device
from moeflux.quant import Dtype, MatrixFormat

HALVES = MatrixFormat(Dtype.FLOAT16)
CODES = MatrixFormat(Dtype.BFLOAT16, 4, 32)
WIDE = MatrixShape(10, 64, HALVES)  # 1280 bytes
NARROW = MatrixShape(10, 64, CODES)  # 320 bytes of codes, 20 scales and 20 biases: 400 bytes


def test_costs_are_those_of_kernels() -> None:
    assert set(KERNEL_COSTS) <= set(open_device("cpu").kernels())


def test_costs_add_up() -> None:
    assert Cost(3, 5) + Cost(10, 20) == Cost(13, 25)


def test_the_slower_of_memory_and_arithmetic_decides() -> None:
    assert Cost(100, 30).seconds(10, 10) == 10
    assert Cost(10, 30).seconds(10, 10) == 3


def test_embedding_reads_a_row_per_token() -> None:
    assert embedding(width=64, n_tokens=3, form=HALVES) == Cost(3 * (128 + 4 + 256), 0)
    assert embedding(width=64, n_tokens=1, form=CODES) == Cost(32 + 8 + 4 + 256, 128)


def test_matmul_reads_its_weights_once_for_all_tokens() -> None:
    assert matmul(matrix=WIDE, n_tokens=1) == Cost(1280 + 256 + 40, 1280)
    assert matmul(matrix=NARROW, n_tokens=5) == Cost(400 + 5 * (256 + 40), 5 * 1280)


def test_accumulating_reads_what_it_adds_to() -> None:
    plain, added = (matmul(matrix=WIDE, n_tokens=2, accumulate=a) for a in (False, True))
    assert added == plain + Cost(2 * 40, 2 * 10)


def test_gate_up_keeps_both_products_to_itself() -> None:
    wanted = Cost(1280 + 400 + 2 * (256 + 40), 2 * (2 * 1280 + 5 * 10))
    assert gate_up(gate_proj=WIDE, up_proj=NARROW, n_tokens=2) == wanted


def test_experts_read_the_weights_of_those_that_work_only() -> None:
    load = ExpertLoad(n_tokens=3, n_experts=4, n_pairs=6)
    indices = 4 * (1 + 12 + 6)
    assert expert_gate_up(gate_proj=WIDE, up_proj=WIDE, load=load) == Cost(
        4 * 2560 + 3 * 256 + 6 * 40 + indices, 6 * (2 * 1280 + 5 * 10)
    )
    assert expert_down(down_proj=NARROW, load=load) == Cost(
        4 * 400 + 6 * (256 + 40) + indices, 6 * 1280
    )


def test_combine_reads_each_output_and_writes_h_and_its_norm() -> None:
    shapes = {"width": 8, "top_k": 2, "n_tokens": 3, "norm_dtype": Dtype.FLOAT16}
    routed = moe_combine_norm(**shapes, shared_expert=False)
    assert routed == Cost(3 * (32 + 64 + 32 + 8 + 32) + 16, 3 * (8 * (4 + 4) + 4))
    shared = moe_combine_norm(**shapes, shared_expert=True)
    assert shared == routed + Cost(3 * (32 + 4), 3 * (8 * 2 + 4))


def test_router_reads_logits_and_writes_choices() -> None:
    plain = router_top_k(n_experts=16, top_k=2, n_tokens=5, normalise=False)
    assert plain == Cost(5 * (64 + 16), 5 * (16 * 6 + 2))
    normalised = router_top_k(n_experts=16, top_k=2, n_tokens=5, normalise=True)
    assert normalised == plain + Cost(0, 5 * 4)
