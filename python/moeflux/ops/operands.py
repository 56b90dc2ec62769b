"""What ops work on: device buffers with a shape. Knows no device and no model.

Letters: T n_tokens, D hidden, H heads, Hkv key/value heads, Dh head_dim, E experts, K top_k, F
expert FFN width.
"""

from __future__ import annotations

from dataclasses import dataclass

from moeflux._core import Buffer
from moeflux.quant import Dtype, MatrixFormat


@dataclass(frozen=True)
class Activations:
    """Float32 rows [capacity, width], one per token (or per token and head)."""

    buffer: Buffer
    width: int

    def __post_init__(self) -> None:
        if self.width < 1 or self.buffer.nbytes % (4 * self.width):
            raise ValueError(
                f"{self.buffer.nbytes} bytes are not whole float32 rows of width {self.width}"
            )

    @property
    def capacity(self) -> int:
        """Rows that fit."""
        return self.buffer.nbytes // (4 * self.width)

    def rows(self, first: int, count: int) -> Activations:
        """The rows first .. first + count - 1, sharing the bytes."""
        return Activations(
            self.buffer.view(4 * self.width * first, 4 * self.width * count), self.width
        )


@dataclass(frozen=True)
class Vector:
    """A weight vector [length] of `dtype`: norm weights, rope frequencies, biases per head."""

    buffer: Buffer
    length: int
    dtype: Dtype = Dtype.FLOAT32

    def __post_init__(self) -> None:
        if self.buffer.nbytes != self.length * self.dtype.itemsize:
            wanted = self.length * self.dtype.itemsize
            raise ValueError(
                f"a {self.dtype.name} vector of {self.length} needs {wanted} bytes, "
                f"got {self.buffer.nbytes}"
            )


@dataclass(frozen=True)
class RmsNorm:
    """The weight [D] of an RMS norm and what is added to the mean square."""

    weight: Vector
    epsilon: float


@dataclass(frozen=True)
class Matrix:
    """A weight matrix [rows, cols] in `format`; scales and biases only if it is quantised."""

    rows: int
    cols: int
    format: MatrixFormat
    weight: Buffer
    scales: Buffer | None = None
    biases: Buffer | None = None

    def __post_init__(self) -> None:
        wanted = self.format.weight_nbytes(self.rows, self.cols)
        if self.weight.nbytes != wanted:
            raise ValueError(
                f"weight [{self.rows}, {self.cols}] needs {wanted} bytes, got {self.weight.nbytes}"
            )
        wanted = self.format.scales_nbytes(self.rows, self.cols)
        for name, part in (("scales", self.scales), ("biases", self.biases)):
            got = part.nbytes if part is not None else 0
            if got != wanted:
                raise ValueError(
                    f"{name} of [{self.rows}, {self.cols}] need {wanted} bytes, got {got}"
                )

    @property
    def triple(self) -> tuple[Buffer, Buffer, Buffer]:
        """Weight, scales and biases as kernels bind them."""
        return self.weight, self.scales or self.weight, self.biases or self.weight

    @property
    def nbytes(self) -> int:
        return self.format.nbytes(self.rows, self.cols)


@dataclass(frozen=True)
class KeyValueCache:
    """Keys and values of one attention layer: k and v float32 [context, Hkv, Dh]."""

    k: Buffer
    v: Buffer
    context: int

    @property
    def position_rows(self) -> tuple[Buffer, ...]:
        """Buffers of `context` equal rows; a token writes its position's and no other."""
        return self.k, self.v

    @property
    def recurrent_parts(self) -> tuple[Buffer, ...]:
        """Buffers that every token changes as a whole: none."""
        return ()


@dataclass(frozen=True)
class AttentionShape:
    """Head counts and widths of one attention layer.

    Q_head_stride is 2 * Dh where q_proj also holds the output gate.
    """

    n_heads: int
    n_kv_heads: int
    head_dim: int
    rope_dim: int
    output_gate: bool

    @property
    def q_head_stride(self) -> int:
        return 2 * self.head_dim if self.output_gate else self.head_dim

    @property
    def partial_width(self) -> int:
        """Floats of one split of a token's keys: per head its largest score, sum and values."""
        return self.n_heads * (2 + self.head_dim)


@dataclass(frozen=True)
class DeltaNetShape:
    """Head counts and widths of one gated delta net."""

    n_key_heads: int
    n_value_heads: int
    key_dim: int
    value_dim: int
    conv_kernel_size: int

    @property
    def key_width(self) -> int:
        return self.n_key_heads * self.key_dim

    @property
    def value_width(self) -> int:
        return self.n_value_heads * self.value_dim

    @property
    def channels(self) -> int:
        """Width of q, k and v together, the channels of the convolution."""
        return 2 * self.key_width + self.value_width


@dataclass(frozen=True)
class ExpertMatrixPlace:
    """A matrix [rows, cols] inside a slot: byte offsets of weight, scales and biases."""

    rows: int
    cols: int
    format: MatrixFormat
    weight: int
    scales: int = 0
    biases: int = 0


@dataclass(frozen=True)
class ExpertPlaces:
    """Where the three matrices of one expert lie inside a slot, for all experts of a layer."""

    gate_proj: ExpertMatrixPlace
    up_proj: ExpertMatrixPlace
    down_proj: ExpertMatrixPlace


@dataclass(frozen=True)
class ExpertBatch:
    """The experts of one dispatch, as the host writes them (layouts in shaders/params.h).

    slots: all slots, slot_nbytes apart. groups: host int32 [1 + 3 * n_groups]. pairs: host int32, t
    * top_k + k.
    """

    slots: Buffer
    slot_nbytes: int
    groups: Buffer
    pairs: Buffer
    top_k: int


@dataclass(frozen=True)
class RoutedExperts:
    """What routers write: experts, host int32 [T, K], best first, and weights float32 [T, K]."""

    experts: Buffer
    weights: Buffer
    top_k: int
