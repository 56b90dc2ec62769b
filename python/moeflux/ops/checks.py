"""Checks of operands before they reach a kernel.

Each raises ValueError: which operand, what was wanted, what was got.
"""

from __future__ import annotations

from moeflux._core import Buffer
from moeflux.ops.operands import Activations, Vector
from moeflux.quant import Dtype


def check_width(name: str, activations: Activations, wanted: int) -> None:
    if activations.width != wanted:
        raise ValueError(f"{name} needs rows of width {wanted}, got {activations.width}")


def check_length(name: str, vector: Vector, wanted: int, dtype: Dtype | None = None) -> None:
    if vector.length != wanted:
        raise ValueError(f"{name} needs {wanted} elements, got {vector.length}")
    if dtype is not None and vector.dtype != dtype:
        raise ValueError(f"{name} needs dtype {dtype.name}, got {vector.dtype.name}")


def check_nbytes(name: str, buffer: Buffer, wanted: int) -> None:
    if buffer.nbytes != wanted:
        raise ValueError(f"{name} needs {wanted} bytes, got {buffer.nbytes}")


def check_nbytes_at_least(name: str, buffer: Buffer, wanted: int) -> None:
    if buffer.nbytes < wanted:
        raise ValueError(f"{name} needs at least {wanted} bytes, got {buffer.nbytes}")


def check_multiple(name: str, got: int, divisor_name: str, divisor: int) -> None:
    if divisor < 1 or got % divisor:
        raise ValueError(f"{name} needs a multiple of {divisor_name}, got {got} for {divisor}")
