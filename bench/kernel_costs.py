"""What each kernel must move and compute per dispatch: what measured times are held against.

Bytes: every distinct byte that a dispatch needs is read once, every result is written once. What a
kernel reads again, keeps in caches or spends on unpacking codes is its own affair. Operations: each
addition, multiplication, division, comparison and elementary function is one, so that a product
with a matrix [rows, cols] takes 2 * rows * cols per token. Letters as in shaders/params.h.

KERNEL_COSTS finds the function of a kernel by the kernel's name; they take shapes as keywords.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from moeflux.quant import Dtype, MatrixFormat

FLOAT = INT = 4  # bytes of an activation, of an index


@dataclass(frozen=True)
class Cost:
    """Of one dispatch."""

    nbytes: int
    flops: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.nbytes + other.nbytes, self.flops + other.flops)

    def seconds(self, bytes_per_second: float, flops_per_second: float) -> float:
        """The least time on a machine with these peaks."""
        return max(self.nbytes / bytes_per_second, self.flops / flops_per_second)


@dataclass(frozen=True)
class MatrixShape:
    rows: int
    cols: int
    format: MatrixFormat

    @property
    def nbytes(self) -> int:
        return self.format.nbytes(self.rows, self.cols)

    def product_flops(self, n_vectors: int) -> int:
        """Of the products with so many vectors."""
        return 2 * self.rows * self.cols * n_vectors


@dataclass(frozen=True)
class ExpertLoad:
    """How many experts of one dispatch work for how many pairs of tokens and experts."""

    n_tokens: int
    n_experts: int
    n_pairs: int

    @property
    def index_nbytes(self) -> int:
        """The groups and pairs."""
        return INT * (1 + 3 * self.n_experts + self.n_pairs)


# --- Embedding and matrices ------------------------------------------------------------------

SILU_MULTIPLY_FLOPS = 5  # negate, exp, add, divide; times up
SIGMOID_FLOPS = 4
RMS_NORM_FLOPS = 4  # square and add; times the scale, times the weight


def embedding(*, width: int, n_tokens: int, form: MatrixFormat) -> Cost:
    """Rows of different tokens."""
    rows = form.nbytes(n_tokens, width)
    flops = 2 * n_tokens * width if form.quantised else 0
    return Cost(rows + INT * n_tokens + FLOAT * n_tokens * width, flops)


def matmul(*, matrix: MatrixShape, n_tokens: int, accumulate: bool = False) -> Cost:
    n_out = matrix.rows * n_tokens
    nbytes = matrix.nbytes + FLOAT * (matrix.cols * n_tokens + n_out * (2 if accumulate else 1))
    return Cost(nbytes, matrix.product_flops(n_tokens) + (n_out if accumulate else 0))


def gate_up(*, gate_proj: MatrixShape, up_proj: MatrixShape, n_tokens: int) -> Cost:
    weights = gate_proj.nbytes + up_proj.nbytes
    activations = FLOAT * (gate_proj.cols + gate_proj.rows) * n_tokens
    products = gate_proj.product_flops(n_tokens) + up_proj.product_flops(n_tokens)
    return Cost(weights + activations, products + SILU_MULTIPLY_FLOPS * gate_proj.rows * n_tokens)


# --- Experts ---------------------------------------------------------------------------------


def expert_gate_up(*, gate_proj: MatrixShape, up_proj: MatrixShape, load: ExpertLoad) -> Cost:
    weights = load.n_experts * (gate_proj.nbytes + up_proj.nbytes)
    activations = FLOAT * (gate_proj.cols * load.n_tokens + gate_proj.rows * load.n_pairs)
    products = gate_proj.product_flops(load.n_pairs) + up_proj.product_flops(load.n_pairs)
    return Cost(
        weights + activations + load.index_nbytes,
        products + SILU_MULTIPLY_FLOPS * gate_proj.rows * load.n_pairs,
    )


def expert_down(*, down_proj: MatrixShape, load: ExpertLoad) -> Cost:
    weights = load.n_experts * down_proj.nbytes
    activations = FLOAT * (down_proj.cols + down_proj.rows) * load.n_pairs
    return Cost(weights + activations + load.index_nbytes, down_proj.product_flops(load.n_pairs))


def moe_combine_norm(
    *, width: int, top_k: int, n_tokens: int, shared_expert: bool, norm_dtype: Dtype
) -> Cost:
    """h is read and written; out is written."""
    n_rows = 3 + top_k + shared_expert
    nbytes = FLOAT * n_tokens * (n_rows * width + top_k + shared_expert)
    flops = n_tokens * (width * (2 * (top_k + shared_expert) + RMS_NORM_FLOPS) + 4)
    if shared_expert:
        flops += SIGMOID_FLOPS * n_tokens
    return Cost(nbytes + norm_dtype.itemsize * width, flops)


def router_top_k(*, n_experts: int, top_k: int, n_tokens: int, normalise: bool) -> Cost:
    """Largest, difference, exp and sum of all; one comparison of each for each of the top_k."""
    nbytes = n_tokens * (FLOAT * n_experts + (INT + FLOAT) * top_k)
    flops = n_experts * (4 + top_k) + top_k * (3 if normalise else 1)
    return Cost(nbytes, n_tokens * flops)


KERNEL_COSTS: dict[str, Callable[..., Cost]] = {
    "embedding": embedding,
    "matmul": matmul,
    "gate_up": gate_up,
    "expert_gate_up": expert_gate_up,
    "expert_down": expert_down,
    "moe_combine_norm": moe_combine_norm,
    "router_top_k": router_top_k,
}
