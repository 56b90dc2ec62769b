"""Prompts that an oracle decides clearly.

A router that is about to choose another expert, or an argmax between two equal logits, turns a
difference in the last bit into another result; so does the norm of a state that is almost zero. No
tolerance covers that, so prompts that come close to it are not used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from goldens.expected import Expected
from oracle.dequantised import greedy, logits

SMALLEST_ROUTER_MARGIN = 5e-4
"""Between the router logits of the last expert chosen and the first one not chosen."""

SMALLEST_TOKEN_MARGIN = 5e-3
"""Between the two largest logits where a greedy token is chosen."""

LARGEST_ROUNDING_ERROR = 5e-5
"""Of the oracle's own logits: float32 against float64 arithmetic."""

N_PROMPTS = 20


def decisive(model: PreTrainedModel, length: int, n_greedy: int) -> Expected:
    """What the oracle computes for the first prompt that it decides clearly and rounds well.

    Raises ValueError if there is none among many.
    """
    for rounding, expected in decided(model, length, n_greedy, range(length)):
        if rounding <= LARGEST_ROUNDING_ERROR:
            return expected
    raise ValueError("for every prompt, rounding comes close to changing an expert or a token")


def decided(
    model: PreTrainedModel, length: int, n_greedy: int, positions: Sequence[int]
) -> Iterator[tuple[float, Expected]]:
    """What the oracle computes for each prompt that it decides clearly, with its rounding error.

    `positions`: the prompt tokens whose logits are kept.
    """
    kept = list(positions)
    for seed in range(N_PROMPTS):
        prompt = np.random.default_rng(seed).integers(2, model.config.vocab_size, length).tolist()
        tokens = prompt + greedy(model, prompt, n_greedy)
        with router_margins(model) as margins:
            rows = logits(model, tokens)
        largest = np.sort(rows[length - 1 : -1], axis=-1)[:, -2:]
        clear = min(margins) >= SMALLEST_ROUTER_MARGIN
        if clear and np.diff(largest).min() >= SMALLEST_TOKEN_MARGIN:
            rounding = np.abs(rows - float64_logits(model, tokens))[kept].max()
            yield rounding, Expected(prompt, kept, rows[kept].astype(np.float32), tokens[length:])


@contextmanager
def router_margins(model: PreTrainedModel) -> Iterator[list[float]]:
    """Collects, for every router that runs inside, the smallest margin over its tokens."""
    margins: list[float] = []
    top_k = model.config.num_experts_per_tok

    def observe(router: torch.nn.Module, inputs: tuple[torch.Tensor], _: object) -> None:
        scores = inputs[0] @ router.get_parameter("weight").T
        ordered = scores.sort(dim=-1, descending=True).values
        margins.append(float((ordered[..., top_k - 1] - ordered[..., top_k]).min()))

    routers = [module for name, module in model.named_modules() if name.endswith("mlp.gate")]
    hooks = [router.register_forward_hook(observe) for router in routers]
    try:
        yield margins
    finally:
        for hook in hooks:
            hook.remove()


def float64_logits(model: PreTrainedModel, token_ids: Sequence[int]) -> npt.NDArray[np.floating]:
    """Logits [T, V] of the same weights in float64 arithmetic."""
    model.to(torch.float64)
    try:
        return logits(model, token_ids)
    finally:
        model.to(torch.float32)
