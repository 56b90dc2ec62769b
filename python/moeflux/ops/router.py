"""The choice of each token's experts (Shazeer et al. 2017; softmax before top_k as in Qwen)."""

from __future__ import annotations

import struct

from moeflux._core import Encoder
from moeflux.ops.checks import check_nbytes_at_least
from moeflux.ops.operands import Activations, RoutedExperts

_ROUTER_TOP_K = struct.Struct("=II")


def router_top_k(
    encoder: Encoder, logits: Activations, routed: RoutedExperts, *, normalise: bool
) -> None:
    """The top_k largest of softmax(logits) over all E experts, best first; of equals the lower one.

    logits: [T, E]. With `normalise` the weights are divided by their sum. Raises ValueError if
    there are fewer than top_k experts or the buffers hold not even one token.
    """
    if not 1 <= routed.top_k <= logits.width:
        raise ValueError(f"top_k needs 1 to {logits.width} experts, got {routed.top_k}")
    check_nbytes_at_least("routed experts", routed.experts, 4 * routed.top_k)
    check_nbytes_at_least("routing weights", routed.weights, 4 * routed.top_k)
    pipeline = encoder.device.pipeline("router_top_k", normalise=int(normalise))
    params = _ROUTER_TOP_K.pack(logits.width, routed.top_k)
    encoder.dispatch(pipeline, [logits.buffer, routed.experts, routed.weights], params)
