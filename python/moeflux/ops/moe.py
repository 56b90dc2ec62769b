"""Routed experts that lie in slots, and the sum of their outputs."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from moeflux._core import Buffer, Encoder
from moeflux.ops.checks import check_length, check_multiple, check_nbytes_at_least, check_width
from moeflux.ops.operands import (
    Activations,
    ExpertBatch,
    ExpertMatrixPlace,
    ExpertPlaces,
    RmsNorm,
)

_EXPERT_GATE_UP = struct.Struct("=QIIIIIIIIII")
_EXPERT_DOWN = struct.Struct("=QIIIIII")
_COMBINE_NORM = struct.Struct("=IIf")


@dataclass(frozen=True)
class ExpertOutputs:
    """routed [T * K, D], weights float32 [T, K]; shared [T, D] and shared_gate [T, 1] or neither.

    Raises ValueError for one of the last two alone.
    """

    routed: Activations
    weights: Buffer
    top_k: int
    shared: Activations | None = None
    shared_gate: Activations | None = None

    def __post_init__(self) -> None:
        if (self.shared is None) != (self.shared_gate is None):
            given = "shared" if self.shared_gate is None else "shared_gate"
            raise ValueError(f"shared and shared_gate are needed together, got {given} alone")


def expert_gate_up(
    encoder: Encoder, batch: ExpertBatch, places: ExpertPlaces, x: Activations, out: Activations
) -> None:
    """Compute out[pair] = silu(gate_proj x[t]) * (up_proj x[t]) for the pairs of the batch.

    Pair t * K + k is token t's k-th expert, which lies in the slot of the pair's group.
    x: [T, D]; out: [T * K, F]; rows of pairs that are not in the batch stay as they are.
    Raises ValueError if the shapes do not fit or a matrix does not lie inside a slot.
    """
    gate_proj, up_proj = places.gate_proj, places.up_proj
    wanted = (gate_proj.rows, gate_proj.cols)
    if (up_proj.rows, up_proj.cols) != wanted:
        raise ValueError(
            f"up_proj needs the shape of gate_proj {list(wanted)}, "
            f"got [{up_proj.rows}, {up_proj.cols}]"
        )
    _check_batch(batch)
    _check_place("gate_proj", gate_proj, batch.slot_nbytes)
    _check_place("up_proj", up_proj, batch.slot_nbytes)
    check_width("x", x, gate_proj.cols)
    check_width("out", out, gate_proj.rows)
    pipeline = encoder.device.pipeline(
        "expert_gate_up", gate_format=gate_proj.format.code, up_format=up_proj.format.code
    )
    params = _EXPERT_GATE_UP.pack(
        batch.slot_nbytes,
        gate_proj.rows,
        gate_proj.cols,
        batch.top_k,
        *(gate_proj.weight, gate_proj.scales, gate_proj.biases),
        *(up_proj.weight, up_proj.scales, up_proj.biases),
        0,
    )
    buffers = [batch.slots, x.buffer, batch.groups, batch.pairs, out.buffer]
    encoder.dispatch(pipeline, buffers, params)


def expert_down(
    encoder: Encoder, batch: ExpertBatch, places: ExpertPlaces, x: Activations, out: Activations
) -> None:
    """Compute out[pair] = down_proj x[pair] for the pairs of the batch, as expert_gate_up does.

    x: [T * K, F]; out: [T * K, D]; rows of pairs that are not in the batch stay as they are.
    Raises ValueError if the shapes do not fit or the matrix does not lie inside a slot.
    """
    down_proj = places.down_proj
    _check_batch(batch)
    _check_place("down_proj", down_proj, batch.slot_nbytes)
    check_width("x", x, down_proj.cols)
    check_width("out", out, down_proj.rows)
    pipeline = encoder.device.pipeline("expert_down", format=down_proj.format.code)
    params = _EXPERT_DOWN.pack(
        batch.slot_nbytes,
        down_proj.rows,
        down_proj.cols,
        batch.top_k,
        *(down_proj.weight, down_proj.scales, down_proj.biases),
    )
    buffers = [batch.slots, x.buffer, batch.groups, batch.pairs, out.buffer]
    encoder.dispatch(pipeline, buffers, params)


def combine_norm(
    encoder: Encoder, h: Activations, outputs: ExpertOutputs, norm: RmsNorm, out: Activations
) -> None:
    """Add sum_k weights[t, k] routed[t * K + k] + sigmoid(shared_gate[t]) shared[t] to h[t].

    k ascends. Then out = rms_norm(h), for what comes next. h, out: [T, D]. Raises ValueError if the
    widths differ.
    """
    check_width("routed", outputs.routed, h.width)
    check_nbytes_at_least("routing weights", outputs.weights, 4 * outputs.top_k)
    check_length("norm weight", norm.weight, h.width)
    check_width("out", out, h.width)
    shared_buffers = [h.buffer, h.buffer]
    if outputs.shared is not None and outputs.shared_gate is not None:
        check_width("shared", outputs.shared, h.width)
        check_width("shared_gate", outputs.shared_gate, 1)
        shared_buffers = [outputs.shared.buffer, outputs.shared_gate.buffer]
    pipeline = encoder.device.pipeline(
        "moe_combine_norm",
        shared_expert=int(outputs.shared is not None),
        norm_dtype=int(norm.weight.dtype),
    )
    params = _COMBINE_NORM.pack(h.width, outputs.top_k, norm.epsilon)
    buffers = [h.buffer, outputs.routed.buffer, outputs.weights, *shared_buffers]
    encoder.dispatch(pipeline, [*buffers, norm.weight.buffer, out.buffer], params)


def _check_batch(batch: ExpertBatch) -> None:
    check_multiple("size of slots", batch.slots.nbytes, "slot_nbytes", batch.slot_nbytes)
    if batch.top_k < 1:
        raise ValueError(f"top_k needs at least 1, got {batch.top_k}")
    check_nbytes_at_least("groups", batch.groups, 4)


def _check_place(name: str, place: ExpertMatrixPlace, slot_nbytes: int) -> None:
    form = place.format
    parts = [("weight", place.weight, form.weight_nbytes(place.rows, place.cols))]
    if form.quantised:
        scales_nbytes = form.scales_nbytes(place.rows, place.cols)
        parts += [("scales", place.scales, scales_nbytes), ("biases", place.biases, scales_nbytes)]
    for part, offset, nbytes in parts:
        if offset < 0 or offset + nbytes > slot_nbytes:
            raise ValueError(
                f"{name} {part} needs {nbytes} bytes inside a slot of {slot_nbytes}, "
                f"got offset {offset}"
            )
