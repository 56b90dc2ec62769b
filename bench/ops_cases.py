"""Dispatches of every kernel in the shapes of a mid-size model, for bench/ops.py to time.

Weights are laid out so that no dispatch finds its own in the processor's caches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from moeflux._core import Buffer, CommandBuffer, Device
from moeflux.blocks.attention import KEY_SPLITS
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
from moeflux.quant import AFFINE_BITS, GROUP_SIZES, Dtype, MatrixFormat

HIDDEN, EXPERT_WIDTH, N_EXPERTS, TOP_K, VOCABULARY = 2048, 512, 128, 8, 32768
ATTENTION = AttentionShape(16, 2, 256, 64, output_gate=True)
DELTA_NET = DeltaNetShape(16, 32, 128, 128, 4)
WORKING_SET = 256 << 20
CONTEXT = 4096
AFFINE_4 = MatrixFormat(Dtype.BFLOAT16, 4, 64)

Encode = Callable[[CommandBuffer], None]


@dataclass(frozen=True)
class Case:
    """Dispatches to time; one must move nbytes and make n_products multiplications."""

    kernel: str
    detail: str
    n_tokens: int
    nbytes: int
    dispatches: list[Encode]
    n_products: int = 0

    @property
    def title(self) -> str:
        return title(self.kernel, self.detail, self.n_tokens)


class Operands:
    """Makes operands of arbitrary but finite contents."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._bytes = np.random.default_rng(0).integers(0, 256, 64 << 20, np.uint8)

    def codes(self, nbytes: int) -> Buffer:
        repeats = -(-nbytes // self._bytes.nbytes)
        return self.device.upload(np.tile(self._bytes, repeats)[:nbytes].tobytes())

    def elements(self, count: int, dtype: Dtype) -> Buffer:
        """Small finite elements: 1/64 in every dtype."""
        value = {Dtype.FLOAT32: 0x3C800000, Dtype.FLOAT16: 0x2400, Dtype.BFLOAT16: 0x3C80}[dtype]
        storage = np.uint32 if dtype is Dtype.FLOAT32 else np.uint16
        return self.device.upload(np.full(count, value, storage).tobytes())

    def matrix(self, rows: int, cols: int, form: MatrixFormat) -> Matrix:
        if not form.quantised:
            return Matrix(rows, cols, form, self.elements(rows * cols, form.dtype))
        n_groups = rows * cols // form.group_size
        return Matrix(
            rows,
            cols,
            form,
            self.codes(form.weight_nbytes(rows, cols)),
            self.elements(n_groups, form.dtype),
            self.elements(n_groups, form.dtype),
        )

    def rows(self, count: int, width: int) -> Activations:
        array = np.random.default_rng(count).standard_normal((count, width), dtype=np.float32)
        return Activations(self.device.upload(array.tobytes()), width)

    def vector(self, length: int, dtype: Dtype = Dtype.FLOAT32) -> Vector:
        return Vector(self.elements(length, dtype), length, dtype)

    def integers(self, values: list[int]) -> Buffer:
        return self.device.upload(np.array(values, np.int32).tobytes())


def title(kernel: str, detail: str, n_tokens: int) -> str:
    return f"{kernel} {detail} {n_tokens} tokens"


def format_name(form: MatrixFormat) -> str:
    name = form.dtype.name.lower()
    return f"{form.bits} bits, groups of {form.group_size}, {name}" if form.quantised else name


def matmul_case(make: Operands, form: MatrixFormat, n_tokens: int) -> Case:
    rows, cols = 4 * HIDDEN, HIDDEN
    nbytes = form.nbytes(rows, cols)
    weights = [make.matrix(rows, cols, form) for _ in range(-(-WORKING_SET // nbytes))]
    x, out = make.rows(n_tokens, cols), make.rows(n_tokens, rows)
    dispatches: list[Encode] = [
        lambda encoder, weight=weight: matmul.matmul(encoder, weight, x, out)  # type: ignore[misc]
        for weight in weights
    ]
    return Case("matmul", format_name(form), n_tokens, nbytes, dispatches, n_tokens * rows * cols)


def gate_up_case(make: Operands, n_tokens: int) -> Case:
    nbytes = 2 * AFFINE_4.nbytes(EXPERT_WIDTH, HIDDEN)
    count = -(-WORKING_SET // nbytes)
    pairs = [[make.matrix(EXPERT_WIDTH, HIDDEN, AFFINE_4) for _ in range(2)] for _ in range(count)]
    x, out = make.rows(n_tokens, HIDDEN), make.rows(n_tokens, EXPERT_WIDTH)
    dispatches: list[Encode] = [
        lambda encoder, pair=pair: matmul.gate_up(encoder, *pair, x, out)  # type: ignore[misc]
        for pair in pairs
    ]
    n_products = 2 * n_tokens * EXPERT_WIDTH * HIDDEN
    return Case("gate_up", format_name(AFFINE_4), n_tokens, nbytes, dispatches, n_products)


def expert_places(form: MatrixFormat) -> tuple[ExpertPlaces, int]:
    places, offset = [], 0
    shapes = [(EXPERT_WIDTH, HIDDEN), (EXPERT_WIDTH, HIDDEN), (HIDDEN, EXPERT_WIDTH)]
    for rows, cols in shapes:
        scales = offset + form.weight_nbytes(rows, cols)
        biases = scales + form.scales_nbytes(rows, cols)
        places.append(ExpertMatrixPlace(rows, cols, form, offset, scales, biases))
        offset += form.nbytes(rows, cols)
    return ExpertPlaces(*places), offset


def expert_cases(make: Operands, n_tokens: int) -> Iterator[Case]:
    """Top_k of all experts for one token; all experts, evenly loaded, for a chunk."""
    places, slot_nbytes = expert_places(AFFINE_4)
    # 64 as every 16-bit scale is a small finite number in bfloat16: 0x4040 is 3.
    slots = make.device.upload(np.full(N_EXPERTS * slot_nbytes, 0x40, np.uint8).tobytes())
    x = make.rows(n_tokens, HIDDEN)
    inner = make.rows(n_tokens * TOP_K, EXPERT_WIDTH)
    out = make.rows(n_tokens * TOP_K, HIDDEN)
    n_groups = min(N_EXPERTS, n_tokens * TOP_K)
    per_group = n_tokens * TOP_K // n_groups
    generator = np.random.default_rng(1)
    batches = []
    for _ in range(64):
        chosen = generator.permutation(N_EXPERTS)[:n_groups].tolist()
        groups = [n_groups]
        for index, slot in enumerate(chosen):
            groups += [slot, index * per_group, per_group]
        pairs = generator.permutation(n_groups * per_group).tolist()
        batches.append(
            ExpertBatch(slots, slot_nbytes, make.integers(groups), make.integers(pairs), TOP_K)
        )
    gate_ups: list[Encode] = [
        lambda encoder, batch=batch: moe.expert_gate_up(encoder, batch, places, x, inner)  # type: ignore[misc]
        for batch in batches
    ]
    downs: list[Encode] = [
        lambda encoder, batch=batch: moe.expert_down(encoder, batch, places, inner, out)  # type: ignore[misc]
        for batch in batches
    ]
    one = AFFINE_4.nbytes(EXPERT_WIDTH, HIDDEN)
    products = n_tokens * TOP_K * EXPERT_WIDTH * HIDDEN
    detail = f"{n_groups} experts, {format_name(AFFINE_4)}"
    yield Case("expert_gate_up", detail, n_tokens, 2 * n_groups * one, gate_ups, 2 * products)
    yield Case("expert_down", detail, n_tokens, n_groups * one, downs, products)


def attention_cases(make: Operands, n_tokens: int) -> Iterator[Case]:
    shape = ATTENTION
    width, kv_width = shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim
    caches = [
        KeyValueCache(
            make.rows(CONTEXT, kv_width).buffer, make.rows(CONTEXT, kv_width).buffer, CONTEXT
        )
        for _ in range(-(-WORKING_SET // (8 * CONTEXT * kv_width)))
    ]
    q_proj, q, out = (
        make.rows(n_tokens, 2 * width),
        make.rows(n_tokens, width),
        make.rows(n_tokens, width),
    )
    projections = attention.Projections(
        q_proj, make.rows(n_tokens, kv_width), make.rows(n_tokens, kv_width)
    )
    head = make.vector(shape.head_dim)
    norms = attention.HeadNorms(head, head, 1e-6, make.vector(shape.rope_dim // 2))
    prepares: list[Encode] = [
        lambda encoder, cache=cache: attention.prepare(encoder, shape, projections, norms, cache, q)  # type: ignore[misc]
        for cache in caches
    ]
    n_products = 2 * n_tokens * (CONTEXT - n_tokens // 2) * width
    yield Case(
        "attention_prepare", "", n_tokens, 4 * n_tokens * (2 * width + 4 * kv_width), prepares
    )
    detail, cache_nbytes = f"position {CONTEXT - n_tokens}", 8 * CONTEXT * kv_width
    if n_tokens > 1:
        attentions: list[Encode] = [
            lambda encoder, cache=cache: attention.attention(encoder, shape, q, q_proj, cache, out)  # type: ignore[misc]
            for cache in caches
        ]
        yield Case("attention", detail, n_tokens, cache_nbytes, attentions, n_products)
        return
    partials = make.rows(1, KEY_SPLITS * shape.partial_width)

    def merge(encoder: CommandBuffer) -> None:
        attention.attention_merge(encoder, shape, partials, q_proj, out)

    decodes: list[Encode] = [
        lambda encoder, cache=cache: attention.attention_decode(encoder, shape, q, cache, partials)  # type: ignore[misc]
        for cache in caches
    ]
    yield Case("attention_decode", detail, 1, cache_nbytes, decodes, n_products)
    yield Case("attention_merge", detail, 1, partials.buffer.nbytes + 8 * width, [merge] * 32)


def delta_net_cases(make: Operands, n_tokens: int) -> Iterator[Case]:
    shape = DELTA_NET
    state_nbytes = 4 * shape.value_width * shape.key_dim
    states = [make.device.buffer(state_nbytes) for _ in range(-(-WORKING_SET // state_nbytes))]
    x, qkv = make.rows(n_tokens, shape.channels), make.rows(n_tokens, shape.channels)
    z, out = make.rows(n_tokens, shape.value_width), make.rows(n_tokens, shape.value_width)
    a, b, decay, beta = (make.rows(n_tokens, shape.n_value_heads) for _ in range(4))
    taps = make.vector(shape.channels * shape.conv_kernel_size, Dtype.BFLOAT16)
    history = make.device.buffer(4 * (shape.conv_kernel_size - 1) * shape.channels)
    heads, head = make.vector(shape.n_value_heads), make.vector(shape.value_dim)
    projected = gated_delta_net.Projected(x, z, b, a)
    weights = gated_delta_net.DecayWeights(heads, heads)
    inputs = gated_delta_net.DeltaRuleInputs(qkv, decay, beta)

    def convolve(encoder: CommandBuffer) -> None:
        gated_delta_net.convolve(encoder, x, taps, history, qkv)

    def decays(encoder: CommandBuffer) -> None:
        gated_delta_net.decay(encoder, projected, weights, decay, beta)

    def gated_norm(encoder: CommandBuffer) -> None:
        norm.gated_rms_norm(encoder, out, z, head, 1e-6, out)

    recurrences: list[Encode] = [
        lambda encoder, state=state: gated_delta_net.recurrence(encoder, shape, inputs, state, out)  # type: ignore[misc]
        for state in states
    ]
    width_nbytes = 4 * n_tokens * shape.value_width
    conv_nbytes = 8 * n_tokens * shape.channels + taps.buffer.nbytes + 2 * history.nbytes
    yield Case("gated_delta_net_conv", "", n_tokens, conv_nbytes, [convolve] * 32)
    yield Case("gated_delta_net_decay", "", n_tokens, 16 * n_tokens * a.width, [decays] * 32)
    detail = "state read and written"
    n_products = 3 * n_tokens * shape.value_width * shape.key_dim
    yield Case("gated_delta_net", detail, n_tokens, 2 * state_nbytes, recurrences, n_products)
    yield Case("gated_rms_norm", "", n_tokens, 3 * width_nbytes, [gated_norm] * 32)


def small_cases(make: Operands, n_tokens: int) -> Iterator[Case]:
    h, x, normed = (make.rows(n_tokens, HIDDEN) for _ in range(3))
    experts, gate = make.rows(n_tokens * TOP_K, HIDDEN), make.rows(n_tokens, 1)
    outputs = moe.ExpertOutputs(experts, make.rows(n_tokens, TOP_K).buffer, TOP_K, x, gate)
    table = make.matrix(VOCABULARY, HIDDEN, AFFINE_4)
    tokens = make.integers(np.random.default_rng(2).integers(0, VOCABULARY, n_tokens).tolist())
    row_norm = RmsNorm(make.vector(HIDDEN, Dtype.BFLOAT16), 1e-6)
    logits = make.rows(n_tokens, N_EXPERTS)
    routed = RoutedExperts(
        make.rows(n_tokens, TOP_K).buffer, make.rows(n_tokens, TOP_K).buffer, TOP_K
    )
    row_nbytes = 4 * n_tokens * HIDDEN
    table_nbytes = n_tokens * AFFINE_4.nbytes(1, HIDDEN)

    def embed(encoder: CommandBuffer) -> None:
        embedding.embed(encoder, table, tokens, x)

    def rms_norm(encoder: CommandBuffer) -> None:
        norm.rms_norm(encoder, h, row_norm, x)

    def combine(encoder: CommandBuffer) -> None:
        moe.combine_norm(encoder, h, outputs, row_norm, normed)

    def route(encoder: CommandBuffer) -> None:
        router_top_k(encoder, logits, routed, normalise=True)

    yield Case(
        "embedding", format_name(AFFINE_4), n_tokens, table_nbytes + row_nbytes, [embed] * 32
    )
    yield Case("rms_norm", "", n_tokens, 2 * row_nbytes, [rms_norm] * 32)
    yield Case("moe_combine_norm", "", n_tokens, (TOP_K + 4) * row_nbytes, [combine] * 32)
    yield Case("router_top_k", "", n_tokens, logits.buffer.nbytes, [route] * 32)


def all_cases(make: Operands, only: str = "") -> Iterator[Case]:
    """Those whose title has `only` in it, made one after the other."""
    forms = [MatrixFormat(Dtype.BFLOAT16, bits, 64) for bits in AFFINE_BITS]
    forms += [MatrixFormat(Dtype.BFLOAT16, 4, size) for size in GROUP_SIZES if size != 64]
    forms += [MatrixFormat(dtype) for dtype in Dtype]
    for n_tokens in (1, 4, 256):
        for form in forms:
            if only in title("matmul", format_name(form), n_tokens):
                yield matmul_case(make, form, n_tokens)
    for n_tokens in (1, 256):
        if only in title("gate_up", format_name(AFFINE_4), n_tokens):
            yield gate_up_case(make, n_tokens)
        for cases in (expert_cases, attention_cases, delta_net_cases, small_cases):
            yield from (case for case in cases(make, n_tokens) if only in case.title)
