"""Layers x experts as a picture shows them: where each expert is, and how much it is used.

Reads what the thread that owns the model leaves for onlookers, and makes it wait for nothing.
Layers are those with experts, counted from 0.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moeflux.experts.slot_contents import EXPERT_SHIFT, LAYER_SHIFT, Presence
from moeflux.experts.stream import ExpertStream

HALF_LIFE = 32
"""Demands of a layer after which a use counts half."""
HEAT_LEVELS = 63
"""Of the lower six bits of a cell; the upper two are the presence."""
_KEPT_DEMANDS = 4 * HALF_LIFE
"""Per layer, of those that came since the last look: older ones hardly count."""
_LARGEST_WEIGHT = 1e100


class RecentUse:
    """For every expert the share of its layer's demands that it was part of, recent ones weightier.

    share = sum over its uses of fade ** age / sum over all demands of fade ** age, where an age is
    the number of the layer's demands since and fade = 2 ** (-1 / half_life).
    """

    def __init__(self, layer_sizes: Sequence[int], half_life: float = HALF_LIFE) -> None:
        self._growth = 2.0 ** (1.0 / half_life)
        # New uses weigh more instead of old ones less: a demand touches its own experts only.
        self._uses = [np.zeros(size) for size in layer_sizes]
        self._weights = [1.0] * len(layer_sizes)
        self._totals = [0.0] * len(layer_sizes)

    def add(self, layer: int, experts: Sequence[int]) -> None:
        """One demand of a layer."""
        self._weights[layer] *= self._growth
        weight = self._weights[layer]
        self._uses[layer][list(experts)] += weight
        self._totals[layer] += weight
        if weight > _LARGEST_WEIGHT:
            self._uses[layer] /= weight
            self._totals[layer] /= weight
            self._weights[layer] = 1.0

    def shares(self) -> npt.NDArray[np.float64]:
        """0 to 1 for every expert, layer after layer; 0 before any demand."""
        rows = zip(self._uses, self._totals, strict=True)
        return np.concatenate([uses / total if total else uses for uses, total in rows])


@dataclass(frozen=True)
class ExpertFrame:
    """One picture. `cells` has a byte per expert, layer after layer: presence << 6 | heat.

    heat is the square root of the share of recent use, so that small ones show: 0 to HEAT_LEVELS.
    """

    version: int
    """Another number where the cells are others."""
    cells: bytes
    n_resident: int
    n_reading: int


class ExpertMap:
    """Takes pictures of one stream, for several onlookers at once."""

    def __init__(self, experts: ExpertStream) -> None:
        self._experts = experts
        self._starts = np.cumsum([0, *experts.layer_sizes])
        self._use = RecentUse(experts.layer_sizes)
        self._lock = threading.Lock()
        self._demands: deque[tuple[int, Sequence[int]]] = deque(
            maxlen=_KEPT_DEMANDS * max(1, len(experts.layer_sizes))
        )
        self._contents = b""
        self._frame = ExpertFrame(0, bytes(experts.n_experts), 0, 0)

    def take(self) -> ExpertFrame:
        """The picture of this moment. The first call begins to note what is used."""
        with self._lock:
            self._experts.demands = self._demands
            contents = self._experts.residency.contents.copy().tobytes()
            if self._count_uses() or contents != self._contents:
                self._frame, self._contents = self._picture(contents), contents
            return self._frame

    def _count_uses(self) -> int:
        """Count the demands that have come by now; how many."""
        n_demands = len(self._demands)
        for _ in range(n_demands):
            self._use.add(*self._demands.popleft())
        return n_demands

    def _picture(self, contents: bytes) -> ExpertFrame:
        words = np.frombuffer(contents, np.int64)
        words = words[words != Presence.ABSENT]
        presence = words & ((1 << EXPERT_SHIFT) - 1)
        layers = words >> LAYER_SHIFT
        experts = (words & ((1 << LAYER_SHIFT) - 1)) >> EXPERT_SHIFT
        heat = np.rint(np.sqrt(self._use.shares()) * HEAT_LEVELS).astype(np.uint8)
        heat[self._starts[layers] + experts] |= (presence << 6).astype(np.uint8)
        cells = heat.tobytes()
        n_reading = int((presence == Presence.READING).sum())
        version = self._frame.version + (cells != self._frame.cells)
        return ExpertFrame(version, cells, len(words) - n_reading, n_reading)
