"""Records which experts each token of a session routes to, as the rows of a route trace."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from moeflux.experts.stream import ExpertStream
from moeflux.experts.trace import TokenRoutes, TraceHeader
from moeflux.models.loaded import ModelConfig


class RouteRecorder:
    """Gathers the routes of a step layer by layer and passes its tokens on when it has ended.

    A step that an error cuts short is dropped. A step at position 0 begins a new sequence.
    """

    def __init__(self, write: Callable[[TokenRoutes], None], *, first_sequence: int = 0) -> None:
        self._write = write
        self._sequence = first_sequence
        self._begun = False
        self._position = 0
        self._prefill = False
        self._experts: list[list[tuple[int, ...]]] = []
        self._predicted: list[tuple[int, ...]] = []

    def begin(self, position: int, *, prefill: bool) -> None:
        """A prefill chunk or a decode step begins with the token at `position`."""
        if position == 0 and self._begun:
            self._sequence += 1
        self._position, self._prefill = position, prefill
        self._experts, self._predicted = [], [()]

    def route(self, experts: Sequence[Sequence[int]], next_layer: Sequence[int] = ()) -> None:
        """The next layer with experts: those of each token, best first.

        `next_layer`: what the router after it would choose from this layer's state.
        """
        self._experts.append([tuple(row) for row in experts])
        self._predicted.append(tuple(next_layer))

    def end(self) -> None:
        """The step has succeeded."""
        self._begun = True
        predicted = tuple(self._predicted[:-1])
        for index, experts in enumerate(zip(*self._experts, strict=True)):
            self._write(
                TokenRoutes(
                    self._sequence,
                    self._position + index,
                    self._position,
                    self._prefill,
                    experts,
                    predicted,
                )
            )


def trace_header(config: ModelConfig, experts: ExpertStream) -> TraceHeader:
    """Of a trace of this model, with what the next layer's router predicts."""
    return TraceHeader(
        model_type=config.model_type,
        n_layers=len(experts.layer_indices),
        n_experts=config.num_experts,
        top_k=config.num_experts_per_tok,
        record_nbytes=experts.record_nbytes,
        n_predicted=config.num_experts_per_tok,
    )
