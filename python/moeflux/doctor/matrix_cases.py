"""Cases of the kernels that read weight matrices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from moeflux._core import CommandBuffer, Device
from moeflux.doctor import reference
from moeflux.doctor.arrays import Array, DeviceArrays, Tokens
from moeflux.doctor.cases import FORMATS, Case, format_name
from moeflux.doctor.stored import StoredMatrix, random_matrix, random_rows
from moeflux.ops import embedding, matmul, moe
from moeflux.ops.operands import ExpertBatch, ExpertPlaces
from moeflux.quant import Dtype, MatrixFormat

TOKENS = (Tokens(1), Tokens(3), Tokens(35, prefill=True))

PAIRS = (
    (MatrixFormat(Dtype.BFLOAT16, 4, 64), MatrixFormat(Dtype.BFLOAT16, 4, 64)),
    (MatrixFormat(Dtype.FLOAT16, 3, 32), MatrixFormat(Dtype.BFLOAT16, 6, 64)),
    (MatrixFormat(Dtype.BFLOAT16), MatrixFormat(Dtype.BFLOAT16)),
)
"""Formats of two matrices of one dispatch."""


def embedding_cases() -> Iterator[Case]:
    for form in FORMATS:
        yield _embedding_case(random_matrix(1, 41, 3 * (form.group_size or 31), form))


def _embedding_case(table: StoredMatrix) -> Case:
    tokens = [40, 0, 17]

    def run(device: Device) -> list[Array]:
        arrays = DeviceArrays(device)
        operand = arrays.matrix(table, misalignment=2)
        out, ids = arrays.unwritten(len(tokens), table.cols), arrays.integers(tokens)
        arrays.run(Tokens(len(tokens)), lambda encoder: embedding.embed(encoder, operand, ids, out))
        return [arrays.read(out)]

    return Case(format_name(table.form), run, [table.values[tokens]])


def matmul_cases() -> Iterator[Case]:
    for form in FORMATS:
        for tokens in TOKENS:
            for rows, n_groups, misalignment in ((37, 5, 1), (64, 2, 0)):
                weight = random_matrix(rows, rows, n_groups * (form.group_size or 103), form)
                yield _matmul_case(weight, tokens, misalignment)


def _matmul_case(weight: StoredMatrix, tokens: Tokens, misalignment: int) -> Case:
    """Unaligned weights add to what is there."""
    accumulate = misalignment > 0
    x = random_rows(2, tokens.count, weight.cols)
    start = random_rows(3, tokens.count, weight.rows)

    def run(device: Device) -> list[Array]:
        arrays = DeviceArrays(device)
        operand, rows = arrays.matrix(weight, misalignment), arrays.rows(x)
        out = arrays.rows(start) if accumulate else arrays.unwritten(*start.shape)

        def encode(encoder: CommandBuffer) -> None:
            matmul.matmul(encoder, operand, rows, out, accumulate=accumulate)

        arrays.run(tokens, encode)
        return [arrays.read(out)]

    detail = f"{format_name(weight.form)}, [{weight.rows}, {weight.cols}], {tokens}"
    return Case(detail, run, [x @ weight.values.T + (start if accumulate else 0.0)])


def gate_up_cases() -> Iterator[Case]:
    for forms in PAIRS:
        weights = [random_matrix(4 + 3 * i, 37, 192, form) for i, form in enumerate(forms)]
        for tokens in TOKENS:
            yield _gate_up_case(weights, tokens)


def _gate_up_case(weights: Sequence[StoredMatrix], tokens: Tokens) -> Case:
    gate_proj, up_proj = weights
    x = random_rows(10, tokens.count, gate_proj.cols) / 8

    def run(device: Device) -> list[Array]:
        arrays = DeviceArrays(device)
        gate_operand, up_operand = map(arrays.matrix, weights)
        rows, out = arrays.rows(x), arrays.unwritten(tokens.count, gate_proj.rows)

        def encode(encoder: CommandBuffer) -> None:
            matmul.gate_up(encoder, gate_operand, up_operand, rows, out)

        arrays.run(tokens, encode)
        return [arrays.read(out)]

    detail = f"{format_name(gate_proj.form)} and {format_name(up_proj.form)}, {tokens}"
    return Case(detail, run, [reference.gate_up(gate_proj.values, up_proj.values, x)])


class _RoutedTokens:
    """Tokens of which each is routed to top_k of a few experts, D = 192, F = 64."""

    top_k = 3

    def __init__(self, forms: tuple[MatrixFormat, MatrixFormat], tokens: Tokens) -> None:
        gate_form, other = forms
        self.tokens = tokens
        self.experts = [
            (
                random_matrix(10 * expert, 64, 192, gate_form),
                random_matrix(10 * expert + 3, 64, 192, other),
                random_matrix(10 * expert + 6, 192, 64, other),
            )
            for expert in range(5)
        ]
        generator = np.random.default_rng(11)
        chosen = [
            generator.permutation(len(self.experts))[: self.top_k] for _ in range(tokens.count)
        ]
        self.routed: list[int] = np.concatenate(chosen).tolist()

    def __str__(self) -> str:
        gate_proj, up_proj, _ = self.experts[0]
        return f"{format_name(gate_proj.form)} and {format_name(up_proj.form)}, {self.tokens}"

    def batch(self, arrays: DeviceArrays) -> tuple[ExpertBatch, ExpertPlaces]:
        """Groups and pairs as shaders/params.h lays them out."""
        slots, slot_nbytes, places = arrays.slots(self.experts)
        groups: list[int] = []
        pairs: list[int] = []
        for expert in sorted(set(self.routed)):
            members = [pair for pair, routed in enumerate(self.routed) if routed == expert]
            groups += [expert, len(pairs), len(members)]
            pairs += members
        indices = arrays.integers([len(groups) // 3, *groups]), arrays.integers(pairs)
        return ExpertBatch(slots, slot_nbytes, *indices, self.top_k), places


def expert_gate_up_cases() -> Iterator[Case]:
    for forms in PAIRS:
        for tokens in TOKENS:
            yield _expert_gate_up_case(_RoutedTokens(forms, tokens))


def _expert_gate_up_case(routing: _RoutedTokens) -> Case:
    x = random_rows(12, routing.tokens.count, 192) / 8

    def run(device: Device) -> list[Array]:
        arrays = DeviceArrays(device)
        batch, places = routing.batch(arrays)
        rows, out = arrays.rows(x), arrays.unwritten(len(routing.routed), 64)

        def encode(encoder: CommandBuffer) -> None:
            moe.expert_gate_up(encoder, batch, places, rows, out)

        arrays.run(routing.tokens, encode)
        return [arrays.read(out)]

    wanted = []
    for pair, expert in enumerate(routing.routed):
        gate_proj, up_proj, _ = routing.experts[expert]
        token = x[pair // routing.top_k]
        wanted.append(reference.gate_up(gate_proj.values, up_proj.values, token))
    return Case(str(routing), run, [np.array(wanted)])


def expert_down_cases() -> Iterator[Case]:
    for forms in PAIRS:
        for tokens in TOKENS:
            yield _expert_down_case(_RoutedTokens(forms, tokens))


def _expert_down_case(routing: _RoutedTokens) -> Case:
    x = random_rows(13, len(routing.routed), 64)

    def run(device: Device) -> list[Array]:
        arrays = DeviceArrays(device)
        batch, places = routing.batch(arrays)
        rows, out = arrays.rows(x), arrays.unwritten(len(routing.routed), 192)

        def encode(encoder: CommandBuffer) -> None:
            moe.expert_down(encoder, batch, places, rows, out)

        arrays.run(routing.tokens, encode)
        return [arrays.read(out)]

    wanted = [
        routing.experts[expert][2].values @ row
        for row, expert in zip(x, routing.routed, strict=True)
    ]
    return Case(str(routing), run, [np.array(wanted)])
