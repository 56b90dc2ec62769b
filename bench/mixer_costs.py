"""What the kernels of mixers and norms must move and compute; counted as in kernel_costs.py."""

from __future__ import annotations

from dataclasses import dataclass

from kernel_costs import FLOAT, RMS_NORM_FLOPS, SIGMOID_FLOPS, SILU_MULTIPLY_FLOPS, Cost
from moeflux.ops.operands import AttentionShape, DeltaNetShape
from moeflux.quant import Dtype

ROW_NORM_FLOPS = 4  # of a whole row: mean, epsilon, square root, reciprocal
SOFTMAX_FLOPS = 5  # of a score: scale, largest, difference, exp, sum
ROTATION_FLOPS = 6  # of a pair
DECAY_FLOPS = 8  # add, softplus (exp, add, log), exp, multiply, negate, exp


def rms_norm(*, width: int, n_tokens: int, weight_dtype: Dtype) -> Cost:
    nbytes = 2 * FLOAT * n_tokens * width + weight_dtype.itemsize * width
    return Cost(nbytes, n_tokens * (RMS_NORM_FLOPS * width + ROW_NORM_FLOPS))


def gated_rms_norm(*, n_heads: int, width: int, n_tokens: int, weight_dtype: Dtype) -> Cost:
    n_heads_in_all = n_tokens * n_heads
    nbytes = 3 * FLOAT * n_heads_in_all * width + weight_dtype.itemsize * width
    flops = width * (RMS_NORM_FLOPS + SILU_MULTIPLY_FLOPS) + ROW_NORM_FLOPS
    return Cost(nbytes, n_heads_in_all * flops)


def attention_prepare(*, shape: AttentionShape, n_tokens: int, norm_dtype: Dtype) -> Cost:
    """Queries, keys and values are read and written; the output gate is not touched."""
    width, angles = shape.head_dim, shape.rope_dim // 2
    n_normed = shape.n_heads + shape.n_kv_heads
    moved = 2 * FLOAT * n_tokens * (n_normed + shape.n_kv_heads) * width
    weights = 2 * norm_dtype.itemsize * width + FLOAT * angles
    per_head = RMS_NORM_FLOPS * width + ROW_NORM_FLOPS + ROTATION_FLOPS * angles
    return Cost(moved + weights, n_tokens * (n_normed * per_head + 3 * angles))


def attention(*, shape: AttentionShape, n_tokens: int, position: int) -> Cost:
    """The cache is read once up to the last position; a token sees those up to its own."""
    width = shape.n_heads * shape.head_dim
    cache = 2 * FLOAT * (position + n_tokens) * shape.n_kv_heads * shape.head_dim
    rows = FLOAT * n_tokens * width * (3 if shape.output_gate else 2)
    n_scores = shape.n_heads * sum(position + t + 1 for t in range(n_tokens))
    per_value = 1 + (SIGMOID_FLOPS + 1 if shape.output_gate else 0)
    flops = n_scores * (4 * shape.head_dim + SOFTMAX_FLOPS) + n_tokens * width * per_value
    return Cost(cache + rows, flops)


@dataclass(frozen=True)
class Splits:
    """Up to n_splits of the keys of every token of a step."""

    n_tokens: int
    position: int
    n_splits: int

    def used(self) -> int:
        """Splits of all tokens together that have keys: 128, or the fewest times 128, each."""
        n_used = 0
        for n_keys in range(self.position + 1, self.position + self.n_tokens + 1):
            n_used += -(-n_keys // (128 * -(-n_keys // (128 * self.n_splits))))
        return n_used


def attention_decode(*, shape: AttentionShape, splits: Splits) -> Cost:
    """The cache and queries are read once; the splits that have keys are written."""
    n_keys = [splits.position + t + 1 for t in range(splits.n_tokens)]
    cache = 2 * FLOAT * n_keys[-1] * shape.n_kv_heads * shape.head_dim
    queries = FLOAT * splits.n_tokens * shape.n_heads * shape.head_dim
    partials = FLOAT * splits.used() * shape.partial_width
    flops = shape.n_heads * sum(n_keys) * (4 * shape.head_dim + SOFTMAX_FLOPS)
    return Cost(cache + queries + partials, flops)


def attention_merge(*, shape: AttentionShape, splits: Splits) -> Cost:
    """A split's largest score gives a factor (difference, exp) for its sum and its values."""
    width = splits.n_tokens * shape.n_heads * shape.head_dim
    rows = FLOAT * width * (2 if shape.output_gate else 1)
    flops = splits.used() * shape.n_heads * (2 + 2 * (1 + shape.head_dim))
    per_value = 1 + (SIGMOID_FLOPS + 1 if shape.output_gate else 0)
    return Cost(FLOAT * splits.used() * shape.partial_width + rows, flops + width * per_value)


def gated_delta_net_split(*, shape: DeltaNetShape, n_tokens: int) -> Cost:
    width = shape.channels + shape.value_width + 2 * shape.n_value_heads
    return Cost(2 * FLOAT * n_tokens * width, 0)


def gated_delta_net_conv(*, shape: DeltaNetShape, n_tokens: int, weight_dtype: Dtype) -> Cost:
    """The state is read and written."""
    channels, taps = shape.channels, shape.conv_kernel_size
    rows = 2 * FLOAT * channels * (n_tokens + taps - 1)
    flops = n_tokens * channels * (2 * taps + SIGMOID_FLOPS)
    return Cost(rows + weight_dtype.itemsize * channels * taps, flops)


def gated_delta_net_decay(*, n_value_heads: int, n_tokens: int, weight_dtype: Dtype) -> Cost:
    n_values = n_value_heads * n_tokens
    nbytes = 4 * FLOAT * n_values + 2 * weight_dtype.itemsize * n_value_heads
    return Cost(nbytes, n_values * (DECAY_FLOPS + SIGMOID_FLOPS))


def gated_delta_net(*, shape: DeltaNetShape, n_tokens: int) -> Cost:
    """The state is read and written once; a token decays it, reads it twice and adds to it."""
    state = shape.value_width * shape.key_dim
    rows = n_tokens * (shape.channels + 2 * shape.n_value_heads + shape.value_width)
    lengths = 2 * shape.n_key_heads * (3 * shape.key_dim + ROW_NORM_FLOPS)
    flops = n_tokens * (7 * state + 2 * shape.value_width + lengths)
    return Cost(FLOAT * (2 * state + rows), flops)
