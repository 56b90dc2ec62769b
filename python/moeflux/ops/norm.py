"""RMS norms (Zhang and Sennrich, Root Mean Square Layer Normalization)."""

from __future__ import annotations

import struct

from moeflux._core import Encoder
from moeflux.ops.checks import check_length, check_multiple, check_width
from moeflux.ops.operands import Activations, RmsNorm, Vector

_RMS_NORM = struct.Struct("=If")
_GATED_RMS_NORM = struct.Struct("=IIf")


def rms_norm(encoder: Encoder, x: Activations, norm: RmsNorm, out: Activations) -> None:
    """Compute out = x / sqrt(mean(x^2) + epsilon) * weight per row.

    x, out: [T, width]. Raises ValueError if the widths differ.
    """
    weight = norm.weight
    check_length("weight", weight, x.width)
    check_width("out", out, x.width)
    pipeline = encoder.device.pipeline("rms_norm", weight_dtype=int(weight.dtype))
    params = _RMS_NORM.pack(x.width, norm.epsilon)
    encoder.dispatch(pipeline, [x.buffer, weight.buffer, out.buffer], params)


def gated_rms_norm(
    encoder: Encoder,
    x: Activations,
    z: Activations,
    weight: Vector,
    epsilon: float,
    out: Activations,
) -> None:
    """Compute out = rms_norm(x) * silu(z) per head of weight.length values.

    x, z, out: [T, n_heads * length]; weight: [length], the same for every head.
    Raises ValueError if the widths differ or are not a multiple of the length.
    """
    check_multiple("width of x", x.width, "the weight's length", weight.length)
    check_width("z", z, x.width)
    check_width("out", out, x.width)
    pipeline = encoder.device.pipeline("gated_rms_norm", weight_dtype=int(weight.dtype))
    params = _GATED_RMS_NORM.pack(x.width // weight.length, weight.length, epsilon)
    encoder.dispatch(pipeline, [x.buffer, z.buffer, weight.buffer, out.buffer], params)
