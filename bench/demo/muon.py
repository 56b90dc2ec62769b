"""Muon: momentum whose matrix updates are orthogonalised, batched over equal shapes.

Update for a matrix [rows, columns]: 0.2 sqrt(max(rows, columns)) U V^T with U S V^T the averaged
gradient, which has the root mean square of a typical Adam update; weight decay is decoupled.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def orthogonalise(matrices: Tensor, rounds: int = 5) -> Tensor:
    """Nearest (semi-)orthogonal matrices of [M, rows, columns] by a quintic Newton-Schulz step."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x: Tensor = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.transpose(-1, -2)
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(rounds):
        square = x @ x.transpose(-1, -2)
        x = a * x + (b * square + c * square @ square) @ x
    return x.transpose(-1, -2) if tall else x


class Muon(torch.optim.Optimizer):
    """For weight matrices and stacks of them; anything else belongs to another optimiser."""

    def __init__(
        self, parameters: Sequence[Tensor], lr: float, weight_decay: float, momentum: float = 0.95
    ) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Apply one update."""
        assert closure is None
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                by_shape[tuple(parameter.shape[-2:])].append(parameter)
            for (rows, columns), members in by_shape.items():
                averaged = [self.averaged(member, group["momentum"]) for member in members]
                update = orthogonalise(torch.cat(averaged)).float()
                parts = torch.split(update, [len(part) for part in averaged])
                size = 0.2 * max(rows, columns) ** 0.5
                for member, part in zip(members, parts, strict=True):
                    member.mul_(1 - group["lr"] * group["weight_decay"])
                    member.add_(part.view_as(member), alpha=-group["lr"] * size)

    def averaged(self, parameter: Tensor, momentum: float) -> Tensor:
        """Nesterov momentum of the gradient as [M, rows, columns]."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if "average" not in state:
            state["average"] = torch.zeros_like(parameter)
        average: Tensor = state["average"]
        average.lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(average, momentum).reshape(-1, *parameter.shape[-2:])
