"""Affine quantisation in groups of 64, exactly as the shipped file stores it.

w ~ code * scale + bias, codes unsigned, scale and bias rounded to bfloat16. The same functions
serve training with quantised weights and the export, so both see the same numbers.
"""

import torch
from torch import Tensor, nn

GROUP = 64
BF16_SUFFIXES = ("conv1d.weight", "dt_bias", "linear_attn.norm.weight")


def bits_of(name: str) -> int | None:
    """How many bits the file spends on a weight of this tensor; None if it is not quantised."""
    if name.endswith(("mlp.gate.weight", "mlp.shared_expert_gate.weight")):
        return 8
    if name.endswith(("norm.weight", "A_log", *BF16_SUFFIXES)):
        return None
    return 4


def encode_groups(groups: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """Codes [M, 64] and bfloat16 scales and biases [M, 1] of float32 groups [M, 64].

    The end of the range with the larger magnitude is met exactly and zero is a code, so the scale
    is negative where that end is positive.
    """
    largest, smallest = groups.amax(-1, keepdim=True), groups.amin(-1, keepdim=True)
    steps = 2**bits - 1
    edge_is_low = smallest.abs() > largest.abs()
    edge = torch.where(edge_is_low, smallest, largest)
    scale = ((largest - smallest) / steps).clamp_min(1e-7)
    scale = torch.where(edge_is_low, scale, -scale)
    zero_code = torch.round(edge / scale)
    scale = torch.where(zero_code == 0, scale, edge / torch.where(zero_code == 0, 1, zero_code))
    bias = torch.where(zero_code == 0, 0, edge)
    scales, biases = scale.bfloat16(), bias.bfloat16()
    codes = torch.round((groups - biases.float()) / scales.float()).clamp(0, steps)
    return codes, scales, biases


def decode_groups(codes: Tensor, scales: Tensor, biases: Tensor) -> Tensor:
    """code * scale + bias in float32."""
    return codes * scales.float() + biases.float()


def rounded(name: str, value: Tensor) -> Tensor:
    """What the file holds of a tensor that is not quantised; norms are stored as 1 + w."""
    if name.endswith(BF16_SUFFIXES):
        return value.bfloat16().float()
    if name.endswith("norm.weight"):
        return (1.0 + value).bfloat16().float() - 1.0
    return value


class StoredWeights:
    """Swaps a model's weights for the values the file would hold, and back.

    Gradients taken at the stored values are applied to the exact ones (straight-through).
    """

    def __init__(self, model: nn.Module) -> None:
        self.parameters = dict(model.named_parameters())
        self.exact = {name: value.detach().clone() for name, value in self.parameters.items()}
        self.by_bits: dict[int | None, list[str]] = {4: [], 8: [], None: []}
        for name in self.parameters:
            self.by_bits[bits_of(name)].append(name)

    @torch.no_grad()
    def enter(self) -> None:
        """Remember the exact weights and put the stored ones in their place."""
        names = list(self.parameters)
        torch._foreach_copy_([self.exact[n] for n in names], [self.parameters[n] for n in names])
        for bits, members in self.by_bits.items():
            if bits is None:
                for name in members:
                    self.parameters[name].copy_(rounded(name, self.exact[name]))
                continue
            groups = [self.exact[name].reshape(-1, GROUP) for name in members]
            stored = decode_groups(*encode_groups(torch.cat(groups), bits))
            parts = torch.split(stored, [len(group) for group in groups])
            targets = [self.parameters[name].reshape(-1, GROUP) for name in members]
            torch._foreach_copy_(targets, list(parts))

    @torch.no_grad()
    def leave(self) -> None:
        """Put the exact weights back."""
        names = list(self.parameters)
        torch._foreach_copy_([self.parameters[n] for n in names], [self.exact[n] for n in names])
