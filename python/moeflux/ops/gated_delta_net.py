"""The gated delta net (Yang et al., Gated Delta Networks): convolution, decay, recurrence."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from moeflux._core import Buffer, Encoder
from moeflux.ops.checks import check_length, check_multiple, check_nbytes, check_width
from moeflux.ops.operands import Activations, DeltaNetShape, Vector

_SPLIT = struct.Struct("=IIII")
_CONV = struct.Struct("=II")
_DECAY = struct.Struct("=I")
_RECURRENCE = struct.Struct("=IIIIf")

# Added to the squared length of q and k, as in the paper's reference implementation.
_EPSILON = 1e-6


@dataclass(frozen=True)
class Projected:
    """qkv [T, channels]: all q, all k, all v; z [T, value_width]; b and a [T, n_value_heads]."""

    qkv: Activations
    z: Activations
    b: Activations
    a: Activations


@dataclass(frozen=True)
class DecayWeights:
    """a_log and dt_bias, [n_value_heads] each."""

    a_log: Vector
    dt_bias: Vector


@dataclass(frozen=True)
class DeltaRuleInputs:
    """qkv after the convolution [T, channels]; decay and beta [T, n_value_heads]."""

    qkv: Activations
    decay: Activations
    beta: Activations


def split(
    encoder: Encoder,
    shape: DeltaNetShape,
    qkvz: Activations,
    ba: Activations,
    projected: Projected,
) -> None:
    """Take fused projections apart.

    Per key head qkvz [T, channels + value_width] holds q, k, its v heads, its z heads, and
    ba [T, 2 * n_value_heads] its b, its a. Raises ValueError if the shapes do not fit.
    """
    _check_heads(shape)
    check_width("qkvz", qkvz, shape.channels + shape.value_width)
    check_width("ba", ba, 2 * shape.n_value_heads)
    check_width("qkv", projected.qkv, shape.channels)
    check_width("z", projected.z, shape.value_width)
    check_width("b", projected.b, shape.n_value_heads)
    check_width("a", projected.a, shape.n_value_heads)
    pipeline = encoder.device.pipeline("gated_delta_net_split")
    params = _SPLIT.pack(shape.n_key_heads, shape.n_value_heads, shape.key_dim, shape.value_dim)
    buffers = [
        qkvz.buffer,
        ba.buffer,
        projected.qkv.buffer,
        projected.z.buffer,
        projected.b.buffer,
        projected.a.buffer,
    ]
    encoder.dispatch(pipeline, buffers, params)


def convolve(
    encoder: Encoder, x: Activations, weight: Vector, state: Buffer, out: Activations
) -> None:
    """Convolve causally over tokens per channel, then SiLU; the state takes the last rows of x.

    x, out: [T, channels], distinct; weight: [channels * kernel_size];
    state: float32 [kernel_size - 1, channels], oldest first.
    Raises ValueError if the shapes do not fit.
    """
    check_multiple("length of weight", weight.length, "the channels", x.width)
    kernel_size = weight.length // x.width
    check_width("out", out, x.width)
    check_nbytes("convolution state", state, 4 * (kernel_size - 1) * x.width)
    pipeline = encoder.device.pipeline("gated_delta_net_conv", weight_dtype=int(weight.dtype))
    params = _CONV.pack(x.width, kernel_size)
    encoder.dispatch(pipeline, [x.buffer, weight.buffer, state, out.buffer], params)


def decay(
    encoder: Encoder,
    projected: Projected,
    weights: DecayWeights,
    decay: Activations,
    beta: Activations,
) -> None:
    """Compute decay = exp(-exp(a_log) * softplus(a + dt_bias)) and beta = sigmoid(b).

    All of a, b, decay, beta are [T, n_value_heads]. Raises ValueError if the shapes do not fit.
    """
    n_heads = projected.a.width
    check_width("b", projected.b, n_heads)
    check_length("a_log", weights.a_log, n_heads)
    check_length("dt_bias", weights.dt_bias, n_heads)
    check_width("decay", decay, n_heads)
    check_width("beta", beta, n_heads)
    pipeline = encoder.device.pipeline(
        "gated_delta_net_decay",
        a_log_dtype=int(weights.a_log.dtype),
        dt_bias_dtype=int(weights.dt_bias.dtype),
    )
    buffers = [
        projected.a.buffer,
        projected.b.buffer,
        weights.a_log.buffer,
        weights.dt_bias.buffer,
        decay.buffer,
        beta.buffer,
    ]
    encoder.dispatch(pipeline, buffers, _DECAY.pack(n_heads))


def recurrence(
    encoder: Encoder,
    shape: DeltaNetShape,
    inputs: DeltaRuleInputs,
    state: Buffer,
    out: Activations,
) -> None:
    """Apply the gated delta rule: S = decay S; S += beta (v - S k) k^T; out = S q, token by token.

    q and k are normalised to length 1 first, q is then divided by sqrt(key_dim).
    state: float32 [n_value_heads, value_dim, key_dim], updated; out: [T, value_width].
    Raises ValueError if the shapes do not fit.
    """
    _check_heads(shape)
    check_width("qkv", inputs.qkv, shape.channels)
    check_width("decay", inputs.decay, shape.n_value_heads)
    check_width("beta", inputs.beta, shape.n_value_heads)
    check_nbytes("recurrent state", state, 4 * shape.value_width * shape.key_dim)
    check_width("out", out, shape.value_width)
    pipeline = encoder.device.pipeline("gated_delta_net")
    params = _RECURRENCE.pack(
        shape.n_key_heads, shape.n_value_heads, shape.key_dim, shape.value_dim, _EPSILON
    )
    buffers = [inputs.qkv.buffer, inputs.decay.buffer, inputs.beta.buffer, state, out.buffer]
    encoder.dispatch(pipeline, buffers, params)


def _check_heads(shape: DeltaNetShape) -> None:
    check_multiple("n_value_heads", shape.n_value_heads, "n_key_heads", shape.n_key_heads)
