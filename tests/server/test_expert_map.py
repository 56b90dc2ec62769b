"""The picture of layers x experts: presence and recent use, from a stream and from real models."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from scheduled import LoadWithSlots, requests, results

import moeflux
from moeflux.experts.lease import ExpertSlot, SlotState
from moeflux.experts.slot_contents import SlotContents
from moeflux.server.jobs.scheduler import Scheduler
from moeflux.server.page.expert_map import HALF_LIFE, HEAT_LEVELS, ExpertFrame, ExpertMap, RecentUse

ABSENT, RESIDENT, READING = 0, 1, 2


@dataclass
class Residency:
    contents: SlotContents


@dataclass
class Stream:
    """Three slots for two layers of two and four experts."""

    layer_sizes: tuple[int, ...] = (2, 4)
    residency: Residency = field(default_factory=lambda: Residency(SlotContents(3)))
    demands: Any = None

    @property
    def n_experts(self) -> int:
        return sum(self.layer_sizes)


@pytest.fixture
def stream() -> Any:
    return Stream()


def presences(frame: ExpertFrame) -> list[int]:
    return [cell >> 6 for cell in frame.cells]


def heats(frame: ExpertFrame) -> list[int]:
    return [cell & HEAT_LEVELS for cell in frame.cells]


# ---- recent use ----


def test_use_is_the_share_of_a_layers_demands() -> None:
    use = RecentUse([3, 1])
    for _ in range(10):
        use.add(0, [0, 2])
    assert use.shares().tolist() == [1, 0, 1, 0]


def test_older_uses_count_less_by_half_for_every_half_life() -> None:
    use = RecentUse([2], half_life=1)
    use.add(0, [0])
    use.add(0, [1])
    use.add(0, [1])
    assert use.shares() == pytest.approx([1 / 7, 6 / 7])


def test_shares_are_those_of_the_formula_however_many_demands_came() -> None:
    random = np.random.default_rng(1)
    use, half_life = RecentUse([8, 8], half_life=4), 4
    history: list[list[list[int]]] = [[], []]
    for _ in range(5000):  # weights grow beyond 2 ** 1000
        layer = int(random.integers(2))
        experts = random.choice(8, 2, replace=False).tolist()
        use.add(layer, experts)
        history[layer].append(experts)
    expected = np.zeros(16)
    for layer, demands in enumerate(history):
        weights = 2.0 ** (-np.arange(len(demands))[::-1] / half_life)
        for experts, weight in zip(demands, weights, strict=True):
            for expert in experts:
                expected[8 * layer + expert] += weight / weights.sum()
    assert use.shares() == pytest.approx(expected, rel=1e-9)


# ---- pictures ----


def test_cells_tell_where_each_expert_is(stream: Any) -> None:
    contents = stream.residency.contents
    contents.reading(ExpertSlot(1, 3, 0))
    contents.reading(ExpertSlot(0, 1, 2))
    contents.arrived(2)
    frame = ExpertMap(stream).take()
    assert presences(frame) == [ABSENT, RESIDENT, ABSENT, ABSENT, ABSENT, READING]
    assert (frame.n_resident, frame.n_reading) == (1, 1)


def test_heat_is_the_square_root_of_the_share_of_use_also_of_absent_experts(stream: Any) -> None:
    view = ExpertMap(stream)
    view.take()
    stream.demands.extend([(1, [0, 2])] * 500 + [(0, [1])])
    frame = view.take()
    assert heats(frame) == [0, 63, 63, 0, 63, 0]
    assert presences(frame) == [ABSENT] * 6
    stream.demands.extend([(1, [3])] * HALF_LIFE)
    half = round(HEAT_LEVELS * 0.5**0.5)
    assert heats(view.take()) == [0, 63, half, 0, half, half]


def test_the_version_changes_with_the_cells_only(stream: Any) -> None:
    view = ExpertMap(stream)
    first = view.take()
    assert view.take().version == first.version
    stream.residency.contents.reading(ExpertSlot(0, 0, 0))
    second = view.take()
    assert second.version != first.version
    assert view.take().version == second.version
    stream.demands.append((0, [1]))
    assert view.take().version not in (first.version, second.version)


def test_nothing_is_noted_before_the_first_look_and_a_bounded_number_after(stream: Any) -> None:
    view = ExpertMap(stream)
    assert stream.demands is None
    view.take()
    stream.demands.extend([(0, [0])] * 100_000)
    assert len(stream.demands) <= 2 * 4 * HALF_LIFE


def test_a_model_of_94_layers_of_512_experts_is_a_byte_for_each() -> None:
    stream: Any = Stream((512,) * 94, Residency(SlotContents(94 * 512)))
    for layer in range(94):
        for expert in range(512):
            stream.residency.contents.reading(ExpertSlot(layer, expert, 512 * layer + expert))
            stream.residency.contents.arrived(512 * layer + expert)
    frame = ExpertMap(stream).take()
    assert len(frame.cells) == frame.n_resident == 94 * 512


# ---- real models ----


def held_by(model: moeflux.Model) -> list[int]:
    """Presence of every expert, as the slot pool has it."""
    experts = model.runtime.experts
    pool, found = experts.residency.pool, []
    for layer, size in enumerate(experts.layer_sizes):
        for expert in range(size):
            slot = pool.find(layer, expert)
            is_there = slot is not None and pool.state(slot) is SlotState.READY
            found.append(RESIDENT if is_there else ABSENT)
    return found


@pytest.mark.parametrize("n_slots", [5, 12])
def test_after_an_answer_the_picture_is_what_the_pool_holds(
    load_with_slots: LoadWithSlots, n_slots: int
) -> None:
    with load_with_slots(n_slots) as model:
        view = ExpertMap(model.runtime.experts)
        before = view.take()
        with Scheduler(model) as scheduler:
            results([scheduler.submit(request) for request in requests(2)])
        frame = view.take()
        assert sum(presences(before)) == 0
        assert presences(frame) == held_by(model)
        assert 0 < frame.n_resident <= n_slots
        assert frame.n_reading == 0
        assert max(heats(frame)) > 0


def test_use_is_seen_also_where_every_expert_has_a_slot(served: moeflux.Model) -> None:
    view = ExpertMap(served.runtime.experts)
    view.take()
    session = served.session()
    session.prefill([3, 4, 5])
    for _ in range(40):
        session.decode(6)
    first = view.take()
    for _ in range(200):
        session.decode(6)
    second = view.take()
    assert presences(first) == presences(second) == held_by(served)
    n_layers, top_k = len(served.runtime.experts.layer_sizes), served.runtime.experts.top_k
    # With one token for so long, little but the experts that it routes to is used.
    assert sum(heat >= HEAT_LEVELS / 2 for heat in heats(second)) >= n_layers * top_k / 2
    assert first.version != second.version


def test_pictures_while_jobs_run_are_possible_ones(load_with_slots: LoadWithSlots) -> None:
    n_slots = 12
    with load_with_slots(n_slots) as model, Scheduler(model) as scheduler:
        view = ExpertMap(model.runtime.experts)
        frames = [view.take()]
        jobs = [scheduler.submit(request) for request in requests(4, max_tokens=12)]
        while scheduler.status().n_active + scheduler.status().n_queued:
            frames.append(view.take())
        results(jobs)
        frames.append(view.take())
    assert frames[-1].version > frames[0].version
    for frame in frames:
        assert frame.n_resident + frame.n_reading <= n_slots
        assert set(presences(frame)) <= {ABSENT, RESIDENT, READING}
