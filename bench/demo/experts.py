"""The mixture-of-experts half of a layer: router, routed experts, shared expert.

Letters in shapes: N tokens, E experts, K experts per token, I expert width.
"""

from dataclasses import dataclass

import torch
from config import ModelConfig
from torch import Tensor, nn
from torch.nn import functional


@dataclass
class Routing:
    """What a router decided for N tokens, and the two terms that keep it healthy.

    weights [N, E], zero where not chosen; experts [N, K]; balance = E sum_e f_e p_e with f the
    share of choices and p the mean probability (1 if even); size = mean logsumexp(logits)^2.
    """

    weights: Tensor
    experts: Tensor
    balance: Tensor
    size: Tensor


class Router(nn.Module):
    """softmax over all experts, the K largest, divided by their sum."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.num_experts, config.hidden_size))
        self.chosen = config.num_experts_per_tok

    def forward(self, x: Tensor) -> Routing:
        with torch.autocast(x.device.type, enabled=False):
            logits = functional.linear(x.float(), self.weight)  # [N, E]
        probabilities = logits.softmax(-1)
        top, experts = probabilities.topk(self.chosen, -1)
        top = top / top.sum(-1, keepdim=True)
        weights = torch.zeros_like(logits).scatter(-1, experts, top)
        share = (weights > 0).float().mean(0) / self.chosen
        balance = len(self.weight) * (share * probabilities.mean(0)).sum()
        return Routing(weights, experts, balance, logits.logsumexp(-1).square().mean())


class Experts(nn.Module):
    """All routed experts at once; those not chosen get weight zero.

    At a width of 64 the dense products cost less than sorting tokens by expert would.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        count, width = config.num_experts, config.moe_intermediate_size
        self.gate_up_proj = nn.Parameter(torch.empty(count, 2 * width, config.hidden_size))
        self.down_proj = nn.Parameter(torch.empty(count, config.hidden_size, width))

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        count, double, _ = self.gate_up_proj.shape
        both = functional.linear(x, self.gate_up_proj.flatten(0, 1))
        gate, up = both.view(-1, count, double).chunk(2, -1)  # [N, E, I]
        inner = functional.silu(gate) * up * weights[..., None].to(up.dtype)
        return functional.linear(inner.flatten(-2), self.down_proj.movedim(0, 1).flatten(1))


class SharedExpert(nn.Module):
    """down(silu(gate x) * up x)"""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden, width = config.hidden_size, config.shared_expert_intermediate_size
        self.gate_proj = nn.Linear(hidden, width, bias=False)
        self.up_proj = nn.Linear(hidden, width, bias=False)
        self.down_proj = nn.Linear(width, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        projected: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return projected


class MixtureOfExperts(nn.Module):
    """Routed experts plus one shared expert behind a sigmoid gate."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = Router(config)
        self.experts = Experts(config)
        self.shared_expert = SharedExpert(config)
        self.shared_expert_gate = nn.Linear(config.hidden_size, 1, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        flat = x.flatten(0, 1)
        routing: Routing = self.gate(flat)
        shared = torch.sigmoid(self.shared_expert_gate(flat)) * self.shared_expert(flat)
        mixed = self.experts(flat, routing.weights) + shared
        return mixed.view_as(x), routing.balance, routing.size
