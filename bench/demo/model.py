"""Qwen3.5-MoE (`qwen3_5_moe`) for training, with the tensor names of the published checkpoints.

Knows the formulas, not the data, the optimiser or the quantised file. Letters in shapes: B batch,
T tokens, C channels.
"""

from typing import Any

import torch
from config import ModelConfig
from gated_delta import gated_delta_rule
from torch import Tensor, nn
from torch.nn import functional

from experts import MixtureOfExperts, Router


class RMSNorm(nn.Module):
    """x / rms(x) * (1 + w)"""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return (wide * scale * (1.0 + self.weight)).to(x.dtype)


class GatedRMSNorm(nn.Module):
    """x / rms(x) * w * silu(gate)"""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        wide = x.float()
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return (wide * scale * self.weight * functional.silu(gate.float())).to(x.dtype)


def linear(inputs: int, outputs: int) -> nn.Linear:
    """A projection without bias."""
    return nn.Linear(inputs, outputs, bias=False)


class GatedDeltaNet(nn.Module):
    """Short convolution over q, k, v, then the gated delta rule, then a gated norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.key_width, self.value_width = config.linear_key_head_dim, config.linear_value_head_dim
        keys = config.linear_num_key_heads * self.key_width
        values = config.linear_num_value_heads * self.value_width
        self.widths = [keys, keys, values]
        channels, heads = sum(self.widths), config.linear_num_value_heads
        self.in_proj_qkv = linear(config.hidden_size, channels)
        self.in_proj_z = linear(config.hidden_size, values)
        self.in_proj_b = linear(config.hidden_size, heads)
        self.in_proj_a = linear(config.hidden_size, heads)
        taps = config.linear_conv_kernel_dim
        self.conv1d = nn.Conv1d(channels, channels, taps, groups=channels, bias=False)
        step = torch.exp(torch.empty(heads).uniform_(-6.9, -2.3))
        self.dt_bias = nn.Parameter(step + torch.log(-torch.expm1(-step)))  # softplus inverse
        self.A_log = nn.Parameter(torch.log(torch.empty(heads).uniform_(1.0, 16.0)))
        self.norm = GatedRMSNorm(self.value_width, config.rms_norm_eps)
        self.out_proj = linear(values, config.hidden_size)

    def convolve(self, x: Tensor) -> Tensor:
        """silu(sum_j w[c, j] x[t - taps + 1 + j, c]), as shifted products: [B, T, C] -> same."""
        taps, length = self.conv1d.weight.shape[-1], x.shape[1]
        padded = functional.pad(x, (0, 0, taps - 1, 0))
        total = torch.zeros((), dtype=torch.float32, device=x.device)
        for tap in range(taps):
            total = total + padded[:, tap : tap + length] * self.conv1d.weight[:, 0, tap]
        return functional.silu(total).to(x.dtype)

    def forward(self, x: Tensor, _rotation: tuple[Tensor, Tensor]) -> Tensor:
        query, key, value = torch.split(self.convolve(self.in_proj_qkv(x)), self.widths, -1)
        query, key = (torch.unflatten(part, -1, (-1, self.key_width)) for part in (query, key))
        strength = self.in_proj_b(x).float().sigmoid()
        rate = functional.softplus(self.in_proj_a(x).float() + self.dt_bias)
        value = torch.unflatten(value, -1, (-1, self.value_width))
        with torch.autocast(x.device.type, enabled=False):
            mixed = gated_delta_rule(query, key, value, -self.A_log.exp() * rate, strength)
        gate = torch.unflatten(self.in_proj_z(x), -1, (-1, self.value_width))
        projected: Tensor = self.out_proj(self.norm(mixed, gate).flatten(-2))
        return projected


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the first dimensions of each head by position, pairing i with i + width / 2."""
    cosine, sine = rotation  # [T, width / 2]
    half = cosine.shape[-1]
    parts = [half, half, x.shape[-1] - 2 * half]
    first, second, rest = torch.split(x.float(), parts, -1)
    turned = [first * cosine - second * sine, second * cosine + first * sine, rest]
    return torch.cat(turned, -1).to(x.dtype)


class Attention(nn.Module):
    """Grouped-query attention with normalised, partly rotated heads and a sigmoid output gate."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        hidden, heads = config.hidden_size, config.num_attention_heads
        self.q_proj = linear(hidden, 2 * heads * self.head_dim)
        self.k_proj = linear(hidden, config.num_key_value_heads * self.head_dim)
        self.v_proj = linear(hidden, config.num_key_value_heads * self.head_dim)
        self.o_proj = linear(heads * self.head_dim, hidden)
        self.q_norm = RMSNorm(self.head_dim, config.rms_norm_eps)
        self.k_norm = RMSNorm(self.head_dim, config.rms_norm_eps)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        query, gate = self.q_proj(x).unflatten(-1, (-1, 2 * self.head_dim)).chunk(2, -1)
        key = self.k_norm(self.k_proj(x).unflatten(-1, (-1, self.head_dim))).transpose(1, 2)
        value = self.v_proj(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        query = self.q_norm(query).transpose(1, 2)  # [B, heads, T, head_dim]
        mixed = functional.scaled_dot_product_attention(
            rotate(query, rotation), rotate(key, rotation), value, is_causal=True, enable_gqa=True
        )
        gated = mixed.transpose(1, 2) * torch.sigmoid(gate)
        projected: Tensor = self.o_proj(gated.flatten(-2))
        return projected


class Layer(nn.Module):
    """x + mixer(norm x), then x + experts(norm x)."""

    def __init__(self, config: ModelConfig, full_attention: bool, dropout: float) -> None:
        super().__init__()
        if full_attention:
            self.self_attn = Attention(config)
        else:
            self.linear_attn = GatedDeltaNet(config)
        self.full_attention = full_attention
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MixtureOfExperts(config)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        mixer = self.self_attn if self.full_attention else self.linear_attn
        x = x + self.dropout(mixer(self.input_layernorm(x), rotation))
        mixed, balance, size = self.mlp(self.post_attention_layernorm(x))
        return x + self.dropout(mixed), balance, size


class Decoder(nn.Module):
    """Embedding, layers and final norm."""

    def __init__(self, config: ModelConfig, dropout: float) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            Layer(config, config.is_full_attention(index), dropout)
            for index in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.dropout = nn.Dropout(dropout)


class LanguageModel(nn.Module):
    """Tokens to the hidden states before `lm_head`, plus the router terms averaged over layers."""

    def __init__(self, config: ModelConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config, dropout)
        self.lm_head = linear(config.hidden_size, config.vocab_size)
        self.apply(initialise)

    def routers(self) -> list[Router]:
        """The routers of all layers, first layer first."""
        return [module for module in self.modules() if isinstance(module, Router)]

    def rotation(self, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """cos and sin of position * theta^(-2i / width): two [T, width / 2]."""
        width = self.config.rotary_width
        powers = torch.arange(0, width, 2, device=device).float() / width
        frequencies = 1.0 / self.config.rope_theta**powers
        angles = torch.arange(length, device=device).float()[:, None] * frequencies
        return angles.cos(), angles.sin()

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rotation = self.rotation(tokens.shape[1], tokens.device)
        x = self.model.dropout(self.model.embed_tokens(tokens))
        balances, sizes = [], []
        for layer in self.model.layers:
            x, balance, size = layer(x, rotation)
            balances.append(balance)
            sizes.append(size)
        return self.model.norm(x), torch.stack(balances).mean(), torch.stack(sizes).mean()

    def logits(self, tokens: Tensor) -> Tensor:
        """[B, T] -> [B, T, vocabulary]"""
        scores: Tensor = self.lm_head(self(tokens)[0])
        return scores


def initialise(module: nn.Module) -> None:
    """Normal weights; what is added to the residual stream starts smaller."""
    named: dict[str, Any] = dict(module.named_parameters(recurse=False))
    for name, parameter in named.items():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(parameter, std=0.05)
        elif isinstance(module, nn.Conv1d):
            nn.init.uniform_(parameter, -0.5, 0.5)
        elif parameter.ndim >= 2:
            nn.init.normal_(parameter, std=0.5 * parameter.shape[-1] ** -0.5)
            if name == "down_proj":
                parameter.data *= 0.5
