"""The gated delta rule over a whole sequence, computed chunk by chunk.

Per head, with state S [key, value], decay g <= 0 (log), write strength b and unit-length keys:
    S_t = exp(g_t) S_{t-1};  S_t += k_t b_t (v_t - S_t^T k_t)^T;  o_t = S_t^T q_t
Inside a chunk the writes solve a unit lower triangular system, so that only one small matrix
product per chunk is sequential. Shapes: B batch, H heads, N chunks, C chunk length, D head width.
"""

from typing import Any

import torch
from torch import Tensor

CHUNK = 64


def invert_unit_lower(matrix: Tensor) -> Tensor:
    """Inverse of unit lower triangular matrices [..., C, C], C a power of two.

    With D the inverse of the diagonal blocks of size s and L the blocks below them that complete
    blocks of size 2s, the inverse of the larger blocks is D - D L D (L D L is zero).
    """
    size = matrix.shape[-1]
    row = torch.arange(size, device=matrix.device)[:, None]
    column = torch.arange(size, device=matrix.device)[None, :]
    inverse = (row == column).to(matrix.dtype).expand_as(matrix)
    step = 1
    while step < size:
        below = (row // step == column // step + 1) & (row // (2 * step) == column // (2 * step))
        block = matrix * below
        product = block if step == 1 else inverse @ block @ inverse
        inverse = inverse - product
        step *= 2
    return inverse


class UnitLowerInverse(torch.autograd.Function):
    """`invert_unit_lower` with the short gradient dL = -T^T dT T^T, T the inverse."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:
        inverse = invert_unit_lower(matrix)
        ctx.save_for_backward(inverse)
        return inverse

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (inverse,) = ctx.saved_tensors
        transposed = inverse.transpose(-1, -2)
        product: Tensor = transposed @ gradients[0] @ transposed
        return -product.tril(-1)


def unit_length(x: Tensor) -> Tensor:
    """x / |x| over the last axis."""
    wide = x.float()
    unit: Tensor = wide * torch.rsqrt((wide * wide).sum(-1, keepdim=True) + 1e-6)
    return unit


def chunked(x: Tensor) -> Tensor:
    """[B, T, H, ...] -> [B, H, N, C, ...]"""
    batch, length, heads = x.shape[:3]
    split: Tensor = x.reshape(batch, length // CHUNK, CHUNK, heads, *x.shape[3:])
    return split.movedim(3, 1)


def gated_delta_rule(
    query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, strength: Tensor
) -> Tensor:
    """Outputs [B, T, H, D] of the recurrence that starts from a zero state.

    query, key [B, T, G, D] with H a multiple of G (head h reads key head h // (H / G)),
    value [B, T, H, D], log_decay and strength [B, T, H]. T is padded to a whole chunk.
    """
    batch, length, heads, width = value.shape
    dtype = value.dtype
    padding = -length % CHUNK
    if padding:
        query, key, value = (
            torch.nn.functional.pad(x, (0, 0, 0, 0, 0, padding)) for x in (query, key, value)
        )
        log_decay, strength = (
            torch.nn.functional.pad(x, (0, 0, 0, padding)) for x in (log_decay, strength)
        )
    repeats = heads // key.shape[2]
    query = chunked(unit_length(query) * key.shape[-1] ** -0.5).to(dtype)
    key = chunked(unit_length(key)).to(dtype)
    key_products = (key @ key.transpose(-1, -2)).repeat_interleave(repeats, 1)  # [B, H, N, C, C]
    read_products = (query @ key.transpose(-1, -2)).repeat_interleave(repeats, 1)
    query, key = (x.repeat_interleave(repeats, 1) for x in (query, key))  # [B, H, N, C, D]
    value, strength = chunked(value), chunked(strength.float())[..., None]
    total = chunked(log_decay.float()).cumsum(-1)  # [B, H, N, C]
    last = total[..., -1:]

    allowed = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=value.device).tril()
    between = (total[..., :, None] - total[..., None, :]).masked_fill(~allowed, -torch.inf).exp()
    system = (key_products * between * strength).tril(-1)
    system = system + torch.eye(CHUNK, device=value.device)
    inverse: Tensor = UnitLowerInverse.apply(system).to(dtype)  # type: ignore[no-untyped-call]
    written = inverse @ (value * strength).to(dtype)  # new values, before the old state is read
    erased = inverse @ (key * (strength * total[..., None].exp())).to(dtype)
    attention = (read_products * between).to(dtype)
    outgoing = (key * (last - total).exp()[..., None]).to(dtype).transpose(-1, -2)

    carried = last[..., None].exp() * torch.eye(width, device=value.device)
    carried = carried - (outgoing @ erased).float()  # [B, H, N, D, D]
    added = (outgoing @ written).float()
    states = scan(carried.flatten(0, 1), added.flatten(0, 1)).to(dtype).view_as(carried)

    read = (query * total[..., None].exp()).to(dtype) @ states
    output: Tensor = read + attention @ (written - erased @ states)
    output = output.movedim(1, 3).reshape(batch, length + padding, heads, width)
    return output[:, :length]


def scan(carried: Tensor, added: Tensor) -> Tensor:
    """States before each chunk: S_{n+1} = carried_n S_n + added_n, S_0 = 0; all [M, N, D, D]."""
    state = torch.zeros_like(added[:, 0])
    states = [state]
    for factor, term in zip(carried.unbind(1)[:-1], added.unbind(1)[:-1], strict=True):
        state = torch.baddbmm(term, factor, state)
        states.append(state)
    return torch.stack(states, 1)
