"""Which experts a layer will route to, best guess first. Knows no slots and no bytes.

A predictor sees the routing of each layer once it is known, so a prediction for a layer is made
from this token's earlier layers and from earlier tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol


class Predictor(Protocol):
    """Guesses experts per layer. Nothing is predicted past the last layer."""

    @property
    def name(self) -> str:
        """What counters and scores are kept under."""

    @property
    def parts(self) -> tuple[Predictor, ...]:
        """Predictors that this one is made of and passes records on to."""

    def predict(self, layer: int) -> tuple[int, ...]:
        """Distinct experts, most likely first; none if nothing is known about the layer."""

    def record(self, layer: int, experts: Sequence[int]) -> None:
        """Learn what the layer routed to, best first."""

    def forget(self) -> None:
        """Start over, as with a new sequence or after a token was left half done."""


class PreviousToken:
    """The experts that the same layer routed to for the token before."""

    name = "previous-token"
    parts: tuple[Predictor, ...] = ()

    def __init__(self, n_layers: int) -> None:
        self._last: list[tuple[int, ...]] = [()] * n_layers

    def predict(self, layer: int) -> tuple[int, ...]:
        return self._last[layer] if 0 <= layer < len(self._last) else ()

    def record(self, layer: int, experts: Sequence[int]) -> None:
        self._last[layer] = tuple(dict.fromkeys(experts))

    def forget(self) -> None:
        self._last = [()] * len(self._last)


class NextRouter:
    """The next layer's router applied to this layer's state: what the caller computed and offered.

    An offer serves one token: it is gone once the layer's true routing is recorded.
    """

    name = "next-router"
    parts: tuple[Predictor, ...] = ()

    def __init__(self, n_layers: int) -> None:
        self._n_layers = n_layers
        self._offered: dict[int, tuple[int, ...]] = {}

    def offer(self, layer: int, ranked: Sequence[int]) -> None:
        """Experts of `layer`, highest router logit first. Ignored past the last layer."""
        if 0 <= layer < self._n_layers:
            self._offered[layer] = tuple(dict.fromkeys(ranked))

    def predict(self, layer: int) -> tuple[int, ...]:
        return self._offered.get(layer, ())

    def record(self, layer: int, _experts: Sequence[int]) -> None:
        self._offered.pop(layer, None)

    def forget(self) -> None:
        self._offered.clear()


@dataclass
class PredictionScore:
    """How well predictions matched the routing, both taken as sets.

    Recall over all routed experts flatters: most of them are in memory anyway. What prefetch can
    save is recall over would-be misses, those that are not there unless a guess read them.
    """

    n_routed: int = 0
    n_recalled: int = 0
    n_would_miss: int = 0
    n_would_miss_recalled: int = 0
    n_tried_by_rank: list[int] = field(default_factory=list)
    n_right_by_rank: list[int] = field(default_factory=list)

    def record(
        self, ranked: Sequence[int], routed: Collection[int], would_miss: Collection[int]
    ) -> None:
        """Compare one layer's prediction with its routing, of which `would_miss` is a part."""
        predicted, truth, missing = set(ranked), set(routed), set(would_miss)
        self.n_routed += len(truth)
        self.n_recalled += len(truth & predicted)
        self.n_would_miss += len(missing)
        self.n_would_miss_recalled += len(missing & predicted)
        absent = len(ranked) - len(self.n_tried_by_rank)
        self.n_tried_by_rank.extend([0] * absent)
        self.n_right_by_rank.extend([0] * absent)
        for rank, expert in enumerate(ranked):
            self.n_tried_by_rank[rank] += 1
            self.n_right_by_rank[rank] += expert in truth

    @property
    def recall(self) -> float:
        """Share of routed experts that were predicted; 0 before any."""
        return self.n_recalled / self.n_routed if self.n_routed else 0.0

    @property
    def miss_recall(self) -> float:
        """Share of would-be misses that were predicted; 0 before any."""
        return self.n_would_miss_recalled / self.n_would_miss if self.n_would_miss else 0.0

    @property
    def precision_by_rank(self) -> tuple[float, ...]:
        """Share of the guesses at each rank that were right, best rank first."""
        pairs = zip(self.n_right_by_rank, self.n_tried_by_rank, strict=True)
        return tuple(right / tried for right, tried in pairs)

    def chance(self, rank: int) -> float:
        """Precision at a rank, drawn towards 1/2 while there are few trials (Laplace's rule)."""
        if rank >= len(self.n_tried_by_rank):
            return 0.5
        return (self.n_right_by_rank[rank] + 1) / (self.n_tried_by_rank[rank] + 2)


class Combined:
    """Several predictors, weighed by the precision that each has shown at each rank.

    An expert's chance is 1 - product of (1 - precision) over the predictors that name it, as if
    they erred independently. Ties keep the order of the parts.
    """

    name = "combined"

    def __init__(self, parts: Sequence[Predictor]) -> None:
        self.parts = tuple(parts)
        self._scores = [PredictionScore() for _ in self.parts]

    def predict(self, layer: int) -> tuple[int, ...]:
        chance_of_none: dict[int, float] = {}
        for part, score in zip(self.parts, self._scores, strict=True):
            for rank, expert in enumerate(part.predict(layer)):
                before = chance_of_none.get(expert, 1.0)
                chance_of_none[expert] = before * (1.0 - score.chance(rank))
        return tuple(sorted(chance_of_none, key=chance_of_none.__getitem__))

    def record(self, layer: int, experts: Sequence[int]) -> None:
        for part, score in zip(self.parts, self._scores, strict=True):
            score.record(part.predict(layer), experts, ())
            part.record(layer, experts)

    def forget(self) -> None:
        for part in self.parts:
            part.forget()


def make_predictor(mode: str, next_router: NextRouter, n_layers: int) -> Predictor | None:
    """What prefetch asks in a mode; "auto" asks the next layer's router, as "next-router" does."""
    previous_token = PreviousToken(n_layers)
    match mode:
        case "off":
            return None
        case "previous-token":
            return previous_token
        case "next-router" | "auto":
            return next_router
    return Combined((next_router, previous_token))
