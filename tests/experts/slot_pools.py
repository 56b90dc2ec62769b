"""Short ways to put a slot pool into a state."""

from __future__ import annotations

from moeflux.experts.eviction import LRU
from moeflux.experts.slots import Demand, Lease, SlotPool


def make_pool(n_slots: int = 4, floor: int = 1, live_acquires: int = 1) -> SlotPool:
    return SlotPool(n_slots, floor, LRU(), live_acquires)


def load(pool: SlotPool, layer: int, *experts: int, demand: Demand = Demand.DECODE) -> Lease:
    """Demand experts and finish their reads."""
    lease = pool.acquire(layer, experts, demand)
    for entry in (*lease.missed, *lease.late):
        pool.finished(entry.slot)
    return lease


def visit(pool: SlotPool, layer: int, *experts: int, demand: Demand = Demand.DECODE) -> None:
    pool.release(load(pool, layer, *experts, demand=demand))


def guess(pool: SlotPool, layer: int, expert: int) -> int:
    slot = pool.reserve(layer, expert)
    assert slot is not None
    return slot


def in_memory(pool: SlotPool) -> set[tuple[int, int]]:
    keys = {(layer, expert) for layer in range(8) for expert in range(64)}
    return {key for key in keys if pool.find(*key) is not None}
