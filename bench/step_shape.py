"""A step of a model, and a dispatch of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kernel_costs import Cost
from model_shapes import ModelShapes
from moeflux._core import CommandBuffer
from moeflux.quant import Dtype
from stand_in_operands import StandInOperands

NORM_DTYPE = Dtype.BFLOAT16

Encode = Callable[[CommandBuffer], None]


@dataclass(frozen=True)
class Work:
    """A dispatch that a step of `n_tokens` makes `count` times."""

    kernel: str
    detail: str
    n_tokens: int
    prefill: bool
    count: int
    cost: Cost
    dispatches: Callable[[StandInOperands], list[Encode]]


@dataclass(frozen=True)
class StepShape:
    """One decoded token, or a chunk of a prompt that ends the context."""

    shapes: ModelShapes
    n_tokens: int
    prefill: bool

    @property
    def position(self) -> int:
        return self.shapes.context - self.n_tokens

    def work(
        self,
        kernel: str,
        detail: str,
        count: int,
        cost: Cost,
        make: Callable[[StandInOperands], list[Encode]],
    ) -> Work:
        return Work(kernel, detail, self.n_tokens, self.prefill, count, cost, make)
