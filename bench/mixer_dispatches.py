"""The dispatches of attention and of the gated delta net in a step, and what each must cost."""

from __future__ import annotations

from collections.abc import Iterator

import mixer_costs
from moeflux.blocks.attention import KEY_SPLITS
from moeflux.ops import attention, gated_delta_net, norm
from stand_in_operands import StandInOperands
from step_shape import NORM_DTYPE, Encode, StepShape, Work


def attention_works(step: StepShape) -> Iterator[Work]:
    """Whole for a prompt, in two halves for a token."""
    shapes, shape, n = step.shapes, step.shapes.attention, step.n_tokens
    width, kv_width = shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim

    def prepares(operands: StandInOperands) -> list[Encode]:
        rows = operands.rows
        inputs = attention.Projections(
            rows(n, shape.n_heads * shape.q_head_stride), rows(n, kv_width), rows(n, kv_width)
        )
        head = operands.vector(shape.head_dim, NORM_DTYPE)
        norms = attention.HeadNorms(head, head, 1e-6, operands.vector(shape.rope_dim // 2))
        q = rows(n, width)
        return [
            lambda encoder, cache=cache: attention.prepare(  # type: ignore[misc]
                encoder, shape, inputs, norms, cache, q
            )
            for cache in operands.caches(shapes.context, kv_width)
        ]

    def attentions(operands: StandInOperands) -> list[Encode]:
        q, out = operands.rows(n, width), operands.rows(n, width)
        q_proj = operands.rows(n, shape.n_heads * shape.q_head_stride)
        return [
            lambda encoder, cache=cache: attention.attention(  # type: ignore[misc]
                encoder, shape, q, q_proj, cache, out
            )
            for cache in operands.caches(shapes.context, kv_width)
        ]

    def decodes(operands: StandInOperands) -> list[Encode]:
        q, partials = operands.rows(n, width), operands.rows(n, KEY_SPLITS * shape.partial_width)
        return [
            lambda encoder, cache=cache: attention.attention_decode(  # type: ignore[misc]
                encoder, shape, q, cache, partials
            )
            for cache in operands.caches(shapes.context, kv_width)
        ]

    def merges(operands: StandInOperands) -> list[Encode]:
        partials, out = operands.rows(n, KEY_SPLITS * shape.partial_width), operands.rows(n, width)
        q_proj = operands.rows(n, shape.n_heads * shape.q_head_stride)
        return [
            lambda encoder: attention.attention_merge(encoder, shape, partials, q_proj, out)
        ] * 8

    count, detail = shapes.n_attention_layers, f"from position {step.position}"
    cost = mixer_costs.attention_prepare(shape=shape, n_tokens=n, norm_dtype=NORM_DTYPE)
    yield step.work("attention_prepare", "", count, cost, prepares)
    if step.prefill:
        cost = mixer_costs.attention(shape=shape, n_tokens=n, position=step.position)
        yield step.work("attention", detail, count, cost, attentions)
        return
    split = mixer_costs.Splits(n_tokens=n, position=step.position, n_splits=KEY_SPLITS)
    cost = mixer_costs.attention_decode(shape=shape, splits=split)
    yield step.work("attention_decode", detail, count, cost, decodes)
    cost = mixer_costs.attention_merge(shape=shape, splits=split)
    yield step.work("attention_merge", detail, count, cost, merges)


def delta_net_works(step: StepShape) -> Iterator[Work]:
    n, net, count = step.n_tokens, step.shapes.delta_net, step.shapes.n_delta_net_layers
    heads = net.n_value_heads

    def splits(operands: StandInOperands) -> list[Encode]:
        rows = operands.rows
        fused, ba = rows(n, net.channels + net.value_width), rows(n, 2 * heads)
        parts = (rows(n, w) for w in (net.channels, net.value_width, heads, heads))
        projected = gated_delta_net.Projected(*parts)
        return [lambda encoder: gated_delta_net.split(encoder, net, fused, ba, projected)] * 8

    def convolutions(operands: StandInOperands) -> list[Encode]:
        x, out = operands.rows(n, net.channels), operands.rows(n, net.channels)
        taps = operands.vector(net.channels * net.conv_kernel_size, NORM_DTYPE)
        state = operands.rows(net.conv_kernel_size - 1, net.channels).buffer
        return [lambda encoder: gated_delta_net.convolve(encoder, x, taps, state, out)] * 8

    def decays(operands: StandInOperands) -> list[Encode]:
        a, b, decay, beta = (operands.rows(n, heads) for _ in range(4))
        per_head = operands.vector(heads, NORM_DTYPE)
        weights = gated_delta_net.DecayWeights(per_head, per_head)
        inputs = gated_delta_net.Projected(a, a, b, a)
        return [lambda encoder: gated_delta_net.decay(encoder, inputs, weights, decay, beta)] * 8

    def recurrences(operands: StandInOperands) -> list[Encode]:
        qkv, out = operands.rows(n, net.channels), operands.rows(n, net.value_width)
        decay, beta = (operands.rows(n, heads) for _ in range(2))
        inputs = gated_delta_net.DeltaRuleInputs(qkv, decay, beta)
        nbytes = 4 * net.value_width * net.key_dim
        states = [operands.device.buffer(nbytes) for _ in range(operands.n_copies(2 * nbytes))]
        return [
            lambda encoder, state=state: gated_delta_net.recurrence(  # type: ignore[misc]
                encoder, net, inputs, state, out
            )
            for state in states
        ]

    def gated_norms(operands: StandInOperands) -> list[Encode]:
        x, z, out = (operands.rows(n, net.value_width) for _ in range(3))
        weight = operands.vector(net.value_dim, NORM_DTYPE)
        return [lambda encoder: norm.gated_rms_norm(encoder, x, z, weight, 1e-6, out)] * 8

    cost = mixer_costs.gated_delta_net_split(shape=net, n_tokens=n)
    yield step.work("gated_delta_net_split", "of fused projections", 0, cost, splits)
    cost = mixer_costs.gated_delta_net_conv(shape=net, n_tokens=n, weight_dtype=NORM_DTYPE)
    yield step.work("gated_delta_net_conv", "", count, cost, convolutions)
    cost = mixer_costs.gated_delta_net_decay(
        n_value_heads=heads, n_tokens=n, weight_dtype=NORM_DTYPE
    )
    yield step.work("gated_delta_net_decay", "", count, cost, decays)
    cost = mixer_costs.gated_delta_net(shape=net, n_tokens=n)
    yield step.work("gated_delta_net", "", count, cost, recurrences)
    cost = mixer_costs.gated_rms_norm(
        n_heads=heads, width=net.value_dim, n_tokens=n, weight_dtype=NORM_DTYPE
    )
    yield step.work("gated_rms_norm", "", count, cost, gated_norms)
