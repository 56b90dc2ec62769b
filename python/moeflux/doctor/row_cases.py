"""Cases of the kernels that work on rows: norms, the router, the sum of expert outputs."""

from __future__ import annotations

from collections.abc import Iterator

from moeflux._core import CommandBuffer, Device
from moeflux.doctor import reference
from moeflux.doctor.arrays import Array, DeviceArrays, Tokens
from moeflux.doctor.cases import Case
from moeflux.doctor.stored import StoredVector, random_rows, random_vector
from moeflux.ops import moe, norm
from moeflux.ops.operands import RmsNorm, RoutedExperts
from moeflux.ops.router import router_top_k
from moeflux.quant import Dtype

TOKENS = (Tokens(1), Tokens(5))


def rms_norm_cases() -> Iterator[Case]:
    for dtype in Dtype:
        for tokens, width in zip(TOKENS, (67, 2048), strict=True):
            yield _rms_norm_case(dtype, width, tokens)


def _rms_norm_case(dtype: Dtype, width: int, tokens: Tokens) -> Case:
    x, weight = random_rows(1, tokens.count, width), random_vector(2, width, dtype)

    def run(device: Device) -> list[Array]:
        arrays = DeviceArrays(device)
        rows, out = arrays.rows(x), arrays.unwritten(*x.shape)
        operand = RmsNorm(arrays.vector(weight), reference.EPSILON)
        arrays.run(tokens, lambda encoder: norm.rms_norm(encoder, rows, operand, out))
        return [arrays.read(out)]

    detail = f"{dtype.name.lower()}, width {width}, {tokens}"
    return Case(detail, run, [reference.rms_norm(x, weight.values)])


def gated_rms_norm_cases() -> Iterator[Case]:
    for dtype in Dtype:
        for tokens, head_dim in zip(TOKENS, (26, 128), strict=True):
            yield _gated_rms_norm_case(dtype, head_dim, tokens)


def _gated_rms_norm_case(dtype: Dtype, head_dim: int, tokens: Tokens) -> Case:
    x, z = (random_rows(seed, tokens.count, 6, head_dim) for seed in (3, 4))
    weight = random_vector(5, head_dim, dtype)

    def run(device: Device) -> list[Array]:
        arrays = DeviceArrays(device)
        rows, z_rows = arrays.rows(x), arrays.rows(z)
        operand, out = arrays.vector(weight), arrays.unwritten(tokens.count, rows.width)

        def encode(encoder: CommandBuffer) -> None:
            norm.gated_rms_norm(encoder, rows, z_rows, operand, reference.EPSILON, out)

        arrays.run(tokens, encode)
        return [arrays.read(out)]

    detail = f"{dtype.name.lower()}, heads of {head_dim}, {tokens}"
    return Case(detail, run, [reference.gated_rms_norm(x, z, weight.values)])


def router_top_k_cases() -> Iterator[Case]:
    for tokens, n_experts, k in ((Tokens(1), 256, 8), (Tokens(5), 61, 7)):
        for normalise in (True, False):
            yield _router_top_k_case(tokens, n_experts, k, normalise=normalise)


def _router_top_k_case(tokens: Tokens, n_experts: int, k: int, *, normalise: bool) -> Case:
    logits = random_rows(6, tokens.count, n_experts)

    def run(device: Device) -> list[Array]:
        arrays = DeviceArrays(device)
        rows, weights = arrays.rows(logits), arrays.unwritten(tokens.count, k)
        experts = arrays.integers([-1] * (tokens.count * k))
        routed = RoutedExperts(experts, weights.buffer, k)

        def encode(encoder: CommandBuffer) -> None:
            router_top_k(encoder, rows, routed, normalise=normalise)

        arrays.run(tokens, encode)
        return [arrays.read_integers(experts), arrays.read(weights)]

    how = "normalised" if normalise else "as they are"
    wanted = reference.top_k(logits, k, normalise=normalise)
    return Case(f"{k} of {n_experts} {how}, {tokens}", run, wanted)


def moe_combine_norm_cases() -> Iterator[Case]:
    for tokens, k, width in ((Tokens(1), 8, 2048), (Tokens(5), 3, 67)):
        for dtype in Dtype:
            yield _moe_combine_norm_case(tokens, k, random_vector(12, width, dtype))


def _moe_combine_norm_case(tokens: Tokens, k: int, norm_weight: StoredVector) -> Case:
    width = norm_weight.values.size
    h, shared = (random_rows(seed, tokens.count, width) for seed in (7, 8))
    routed = random_rows(9, tokens.count, k, width)
    weights, shared_gate = random_rows(10, tokens.count, k), random_rows(11, tokens.count, 1)

    def run(device: Device) -> list[Array]:
        arrays = DeviceArrays(device)
        hidden, out = arrays.rows(h), arrays.unwritten(*h.shape)
        outputs = moe.ExpertOutputs(
            arrays.rows(routed.reshape(-1, width)),
            arrays.floats(weights),
            k,
            arrays.rows(shared),
            arrays.rows(shared_gate),
        )
        operand = RmsNorm(arrays.vector(norm_weight), reference.EPSILON)

        def encode(encoder: CommandBuffer) -> None:
            moe.combine_norm(encoder, hidden, outputs, operand, out)

        arrays.run(tokens, encode)
        return [arrays.read(hidden), arrays.read(out)]

    wanted = reference.combine(h, routed, weights, shared, shared_gate)
    normed = reference.rms_norm(wanted, norm_weight.values)
    detail = f"{norm_weight.dtype.name.lower()}, {k} experts, width {width}, {tokens}"
    return Case(detail, run, [wanted, normed])
