"""Makes a model route as a recorded trace says, whatever its own router thinks.

A trace of a model with fewer layers and experts is scaled up: layer l takes the routes of the
trace's layer l * n // m, and an expert of the trace stands for a block of the model's experts. Of
its block a routed expert takes one half or the other, by whether it ranks among the better half.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

import moeflux
from moeflux.experts.trace import load


class ForcedRoutes:
    """Routes of one token after the other, for the decode steps of one session."""

    def __init__(self, model: moeflux.Model, session: moeflux.Session, trace: Path) -> None:
        self._tokens = [token for token in load(trace).tokens if not token.prefill]
        header, config = load(trace).header, model.config
        self._n_experts, self._top_k = config.num_experts, config.num_experts_per_tok
        self._block, remainder = divmod(self._n_experts, header.n_experts)
        if remainder or self._top_k % header.top_k:
            raise SystemExit(
                f"{self._n_experts} experts, {self._top_k} a token, are no multiple of the trace's "
                f"{header.n_experts} and {header.top_k}"
            )
        step = session._decode  # noqa: SLF001
        sparse = [layer for layer in step._layers if layer.sparse is not None]  # noqa: SLF001
        self._source = [index * header.n_layers // len(sparse) for index in range(len(sparse))]
        self._routed = [np.zeros((1, self._top_k), np.int32) for _ in sparse]
        self._guessed = [np.zeros((1, self._top_k), np.int32) for _ in sparse]
        for index, layer in enumerate(sparse):
            assert layer.sparse is not None
            following = layer.sparse.next_layer
            if following is not None:
                following = replace(following, guessed=self._guessed[index])
            forced = replace(layer.sparse, routed=self._routed[index], next_layer=following)
            step._layers[step._layers.index(layer)] = replace(layer, sparse=forced)  # noqa: SLF001

    def __len__(self) -> int:
        return len(self._tokens)

    def force(self, index: int) -> None:
        """The next decode step routes as token `index` of the trace."""
        token = self._tokens[index % len(self._tokens)]
        before = self._tokens[(index - 1) % len(self._tokens)]
        for layer, source in enumerate(self._source):
            self._routed[layer][0] = self._scaled(token.experts[source])
            if layer + 1 < len(self._source):
                following = self._source[layer + 1]
                # Nobody predicts the first layer of a trace, which may serve two layers here.
                guess = token.predicted[following] or before.experts[following]
                self._guessed[layer][0] = self._scaled(guess)

    def _scaled(self, ranked: Sequence[int]) -> list[int]:
        per_expert, half = self._top_k // len(ranked), self._block // 2
        scaled: list[int] = []
        for rank, expert in enumerate(ranked):
            first = expert * self._block + (half if rank >= len(ranked) // 2 else 0)
            scaled += range(first, first + per_expert)
        return scaled
