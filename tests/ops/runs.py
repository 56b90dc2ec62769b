"""Each op over NumPy arrays: upload, run in chunks of tokens, download. Outputs start as NaN."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from device_arrays import (
    Single,
    activations,
    empty_activations,
    host_array,
    matrix,
    read,
    read_rows,
    run,
    upload,
    vector,
)

from moeflux._core import CommandBuffer, Device
from moeflux.ops import attention, embedding, gated_delta_net, matmul, moe, norm
from moeflux.ops.operands import (
    AttentionShape,
    DeltaNetShape,
    ExpertBatch,
    ExpertMatrixPlace,
    ExpertPlaces,
    KeyValueCache,
    RmsNorm,
    RoutedExperts,
)
from moeflux.ops.router import router_top_k
from moeflux.quant import Dtype
from reference import StoredMatrix

Chunks = Sequence[int]


def run_embedding(device: Device, table: StoredMatrix, tokens: npt.NDArray[np.int32]) -> Single:
    out = empty_activations(device, len(tokens), table.cols)
    buffer, operand = host_array(device, tokens), matrix(device, table, misalignment=2)

    def chunk(encoder: CommandBuffer, first: int, count: int) -> None:
        view = buffer.view(4 * first, 4 * count)
        embedding.embed(encoder, operand, view, out.rows(first, count))

    run(device, [len(tokens)], chunk)
    return read_rows(device, out)


def run_rms_norm(device: Device, x: Single, weight: Single, dtype: Dtype, chunks: Chunks) -> Single:
    rows, out = activations(device, x), empty_activations(device, *x.shape)
    operand = RmsNorm(vector(device, weight, dtype, 1), 1e-6)

    def chunk(encoder: CommandBuffer, first: int, count: int) -> None:
        norm.rms_norm(encoder, rows.rows(first, count), operand, out.rows(first, count))

    run(device, chunks, chunk)
    return read_rows(device, out)


def run_gated_rms_norm(
    device: Device, x: Single, z: Single, weight: Single, dtype: Dtype, chunks: Chunks
) -> Single:
    rows, z_rows = activations(device, x), activations(device, z)
    out, operand = empty_activations(device, *x.shape), vector(device, weight, dtype, 1)

    def chunk(encoder: CommandBuffer, first: int, count: int) -> None:
        inputs = rows.rows(first, count), z_rows.rows(first, count)
        norm.gated_rms_norm(encoder, *inputs, operand, 1e-6, out.rows(first, count))

    run(device, chunks, chunk)
    return read_rows(device, out)


def run_matmul(
    device: Device,
    weight: StoredMatrix,
    x: Single,
    chunks: Chunks,
    start: Single | None = None,
    misalignment: int = 0,
) -> Single:
    """With `start` the product is added to it."""
    operand = matrix(device, weight, misalignment=misalignment)
    rows = activations(device, x)
    out = empty_activations(device, len(x), weight.rows)
    if start is not None:
        out = activations(device, start)

    def chunk(encoder: CommandBuffer, first: int, count: int) -> None:
        inputs, outputs = rows.rows(first, count), out.rows(first, count)
        matmul.matmul(encoder, operand, inputs, outputs, accumulate=start is not None)

    run(device, chunks, chunk)
    return read_rows(device, out)


def run_gate_up(
    device: Device, gate_proj: StoredMatrix, up_proj: StoredMatrix, x: Single, chunks: Chunks
) -> Single:
    weights = matrix(device, gate_proj), matrix(device, up_proj)
    rows, out = activations(device, x), empty_activations(device, len(x), gate_proj.rows)

    def chunk(encoder: CommandBuffer, first: int, count: int) -> None:
        matmul.gate_up(encoder, *weights, rows.rows(first, count), out.rows(first, count))

    run(device, chunks, chunk)
    return read_rows(device, out)


@dataclass(frozen=True)
class AttentionInputs:
    """q_proj [T, H, q_head_stride], k and v [T, Hkv, Dh], norms [Dh], cache [context, Hkv, Dh]."""

    shape: AttentionShape
    q_proj: Single
    k_proj: Single
    v_proj: Single
    norms: tuple[Single, Single]
    frequencies: Single
    k_cache: Single
    v_cache: Single
    position: int
    norm_dtype: Dtype = Dtype.FLOAT32


@dataclass(frozen=True)
class AttentionOutputs:
    """q, out [T, H * Dh]; cache [context, Hkv, Dh]."""

    q: Single
    k_cache: Single
    v_cache: Single
    out: Single


def run_attention(
    device: Device, inputs: AttentionInputs, chunks: Chunks, n_splits: int = 0
) -> AttentionOutputs:
    """Prepare and attention for each chunk; with n_splits in two halves, over so many at most."""
    shape, n_tokens = inputs.shape, len(inputs.q_proj)
    q_proj, k_proj, v_proj = (
        activations(device, array.reshape(n_tokens, -1))
        for array in (inputs.q_proj, inputs.k_proj, inputs.v_proj)
    )
    head_norms = attention.HeadNorms(
        vector(device, inputs.norms[0], inputs.norm_dtype),
        vector(device, inputs.norms[1], inputs.norm_dtype),
        1e-6,
        vector(device, inputs.frequencies, Dtype.FLOAT32),
    )
    cache = KeyValueCache(
        upload(device, inputs.k_cache.tobytes()),
        upload(device, inputs.v_cache.tobytes()),
        len(inputs.k_cache),
    )
    q = empty_activations(device, n_tokens, shape.n_heads * shape.head_dim)
    out = empty_activations(device, n_tokens, q.width)
    # Not a number where a half writes nothing, so that the other must not read it.
    unwritten = np.full((n_tokens, max(1, n_splits) * shape.partial_width), np.nan, np.float32)
    partials = activations(device, unwritten)

    def chunk(encoder: CommandBuffer, first: int, count: int) -> None:
        q_rows, out_rows = q_proj.rows(first, count), out.rows(first, count)
        projections = attention.Projections(
            q_rows, k_proj.rows(first, count), v_proj.rows(first, count)
        )
        queries = q.rows(first, count)
        attention.prepare(encoder, shape, projections, head_norms, cache, queries)
        if n_splits == 0:
            attention.attention(encoder, shape, queries, q_rows, cache, out_rows)
        else:
            splits = partials.rows(first, count)
            attention.attention_decode(encoder, shape, queries, cache, splits)
            attention.attention_merge(encoder, shape, splits, q_rows, out_rows)

    run(device, chunks, chunk, inputs.position)
    return AttentionOutputs(
        read_rows(device, q),
        read(device, cache.k).reshape(inputs.k_cache.shape),
        read(device, cache.v).reshape(inputs.v_cache.shape),
        read_rows(device, out),
    )


def run_split(
    device: Device, shape: DeltaNetShape, qkvz: Single, ba: Single, chunks: Chunks
) -> list[Single]:
    """Gives qkv, z, b, a."""
    fused, fused_ba = activations(device, qkvz), activations(device, ba)
    widths = shape.channels, shape.value_width, shape.n_value_heads, shape.n_value_heads
    outputs = [empty_activations(device, len(qkvz), width) for width in widths]

    def chunk(encoder: CommandBuffer, first: int, count: int) -> None:
        projected = gated_delta_net.Projected(*(rows.rows(first, count) for rows in outputs))
        inputs = fused.rows(first, count), fused_ba.rows(first, count)
        gated_delta_net.split(encoder, shape, *inputs, projected)

    run(device, chunks, chunk)
    return [read_rows(device, rows) for rows in outputs]


def run_convolve(
    device: Device, x: Single, weight: Single, dtype: Dtype, state: Single, chunks: Chunks
) -> tuple[Single, Single]:
    """Gives the result and the new state."""
    rows, out = activations(device, x), empty_activations(device, *x.shape)
    operand, buffer = vector(device, weight, dtype, 1), upload(device, state.tobytes())

    def chunk(encoder: CommandBuffer, first: int, count: int) -> None:
        inputs, outputs = rows.rows(first, count), out.rows(first, count)
        gated_delta_net.convolve(encoder, inputs, operand, buffer, outputs)

    run(device, chunks, chunk)
    return read_rows(device, out), read(device, buffer).reshape(state.shape)


def run_decay(
    device: Device,
    a: Single,
    b: Single,
    weights: tuple[Single, Single],
    dtypes: tuple[Dtype, Dtype],
    chunks: Chunks,
) -> tuple[Single, Single]:
    """Gives decay and beta."""
    a_rows, b_rows = activations(device, a), activations(device, b)
    operands = gated_delta_net.DecayWeights(
        vector(device, weights[0], dtypes[0], 1), vector(device, weights[1], dtypes[1], 1)
    )
    outputs = empty_activations(device, *a.shape), empty_activations(device, *a.shape)

    def chunk(encoder: CommandBuffer, first: int, count: int) -> None:
        a_chunk, b_chunk = a_rows.rows(first, count), b_rows.rows(first, count)
        projected = gated_delta_net.Projected(a_chunk, a_chunk, b_chunk, a_chunk)
        decay, beta = (rows.rows(first, count) for rows in outputs)
        gated_delta_net.decay(encoder, projected, operands, decay, beta)

    run(device, chunks, chunk)
    return read_rows(device, outputs[0]), read_rows(device, outputs[1])


@dataclass(frozen=True)
class RecurrenceInputs:
    """qkv [T, channels]; decay, beta [T, n_value_heads]; state as the op has it."""

    shape: DeltaNetShape
    qkv: Single
    decay: Single
    beta: Single
    state: Single


def run_recurrence(
    device: Device, inputs: RecurrenceInputs, chunks: Chunks
) -> tuple[Single, Single]:
    """Gives the result and the new state."""
    shape = inputs.shape
    rows = [activations(device, array) for array in (inputs.qkv, inputs.decay, inputs.beta)]
    state = upload(device, inputs.state.tobytes())
    out = empty_activations(device, len(inputs.qkv), shape.value_width)

    def chunk(encoder: CommandBuffer, first: int, count: int) -> None:
        tokens = gated_delta_net.DeltaRuleInputs(*(array.rows(first, count) for array in rows))
        gated_delta_net.recurrence(encoder, shape, tokens, state, out.rows(first, count))

    run(device, chunks, chunk)
    return read_rows(device, out), read(device, state).reshape(inputs.state.shape)


@dataclass(frozen=True)
class ExpertInputs:
    """Experts by slot, and which expert works for which token: routed [T, K] are slot numbers."""

    experts: Sequence[tuple[StoredMatrix, StoredMatrix, StoredMatrix]]
    routed: npt.NDArray[np.int64]
    x: Single


def _pack_slots(inputs: ExpertInputs) -> tuple[bytes, int, ExpertPlaces]:
    """All experts one after the other, their parts at odd places."""
    places: list[ExpertMatrixPlace] = []
    slots = []
    for expert in inputs.experts:
        slot, places = b"", []
        for stored in expert:
            offsets = []
            for part in (stored.weight, stored.scales, stored.biases):
                offsets.append(len(slot))
                slot += part + b"\xff"
            places.append(ExpertMatrixPlace(stored.rows, stored.cols, stored.format, *offsets))
        slots.append(slot)
    return b"".join(slots), len(slots[0]), ExpertPlaces(*places)


def _grouped(routed: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Groups and pairs of routed slots [T, K] as params.h lays them out; -1 belongs to no group."""
    groups, pairs = [], []
    for slot in np.unique(routed[routed >= 0]):
        members = np.flatnonzero(routed.reshape(-1) == slot)
        groups += [slot, len(pairs), len(members)]
        pairs += members.tolist()
    return np.array([len(groups) // 3, *groups], np.int32), np.array(pairs, np.int32)


def run_experts(device: Device, inputs: ExpertInputs, chunks: Chunks) -> tuple[Single, Single]:
    """Gives the rows [T, K, F] between the two ops and the result [T, K, D]."""
    data, slot_nbytes, places = _pack_slots(inputs)
    slots, x = upload(device, data), activations(device, inputs.x)
    n_tokens, top_k = inputs.routed.shape
    inner = empty_activations(device, n_tokens * top_k, places.gate_proj.rows)
    out = empty_activations(device, n_tokens * top_k, places.down_proj.rows)

    def chunk(encoder: CommandBuffer, first: int, count: int) -> None:
        groups, pairs = _grouped(inputs.routed[first : first + count])
        batch = ExpertBatch(
            slots, slot_nbytes, host_array(device, groups), host_array(device, pairs), top_k
        )
        inner_rows = inner.rows(first * top_k, count * top_k)
        out_rows = out.rows(first * top_k, count * top_k)
        moe.expert_gate_up(encoder, batch, places, x.rows(first, count), inner_rows)
        moe.expert_down(encoder, batch, places, inner_rows, out_rows)

    run(device, chunks, chunk)
    return (
        read_rows(device, inner).reshape(n_tokens, top_k, -1),
        read_rows(device, out).reshape(n_tokens, top_k, -1),
    )


def run_combine_norm(
    device: Device,
    h: Single,
    expert_out: Single,
    weights: Single,
    shared: tuple[Single, Single] | None,
    norm_weight: Single,
    chunks: Chunks,
    dtype: Dtype = Dtype.FLOAT32,
) -> tuple[Single, Single]:
    """Gives h and its norm.

    expert_out: [T, K, D]; shared: the shared expert's output [T, D] and its gate's [T, 1].
    """
    top_k = weights.shape[1]
    hidden, normed = activations(device, h), empty_activations(device, *h.shape)
    experts = activations(device, expert_out.reshape(-1, h.shape[1]))
    weight_rows = activations(device, weights)
    shared_rows = [activations(device, array) for array in shared or ()]
    operand = RmsNorm(vector(device, norm_weight, dtype, 1), 1e-6)

    def chunk(encoder: CommandBuffer, first: int, count: int) -> None:
        outputs = moe.ExpertOutputs(
            experts.rows(first * top_k, count * top_k),
            weight_rows.rows(first, count).buffer,
            top_k,
            *(rows.rows(first, count) for rows in shared_rows),
        )
        moe.combine_norm(
            encoder, hidden.rows(first, count), outputs, operand, normed.rows(first, count)
        )

    run(device, chunks, chunk)
    return read_rows(device, hidden), read_rows(device, normed)


def run_router(
    device: Device, logits: Single, top_k: int, chunks: Chunks, *, normalise: bool
) -> tuple[npt.NDArray[np.int32], Single]:
    """Gives experts and weights [T, K]."""
    rows = activations(device, logits)
    experts = host_array(device, np.full((len(logits), top_k), -1, np.int32))
    weights = empty_activations(device, len(logits), top_k)

    def chunk(encoder: CommandBuffer, first: int, count: int) -> None:
        view = experts.view(4 * first * top_k, 4 * count * top_k)
        routed = RoutedExperts(view, weights.rows(first, count).buffer, top_k)
        router_top_k(encoder, rows.rows(first, count), routed, normalise=normalise)

    run(device, chunks, chunk)
    chosen = np.frombuffer(memoryview(experts), np.int32).reshape(len(logits), top_k).copy()
    return chosen, read_rows(device, weights)
