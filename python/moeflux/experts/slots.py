"""The pool of expert slots shared by all layers: who owns a slot, who may take it. Knows no bytes.

A slot is FREE, LOADING (a read writes into it), READY, or FAILED (pinned, but its read did not
deliver; whoever pinned it retries or releases). Only an unpinned READY slot is ever evicted.

A guess may take less than a demand. An expert is *live*, and never evicted for a guess, while it
is pinned, LOADING, or held for a guess whose layer is still to come, and if it was demanded within
the last `live_acquires` acquires of decode. A guess must also leave `floor` slots takeable: FREE,
or READY and neither pinned nor held. No demand can take the slot of a guess while its read runs,
so without that rule greedy guesses starve the routed experts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from moeflux.experts.eviction import EvictionPolicy, ExpertKey
from moeflux.experts.lease import (
    Demand,
    ExpertSlot,
    Lease,
    SlotsExhaustedError,
    SlotState,
    SlotStateError,
)
from moeflux.experts.standing import EvictionOrder, Standing

__all__ = ["Demand", "ExpertSlot", "Lease", "SlotPool", "SlotState"]


_NOBODY: ExpertKey = (-1, -1)


@dataclass(slots=True)
class _Slot:
    state: SlotState = SlotState.FREE
    key: ExpertKey = _NOBODY
    n_pins: int = 0
    standing: Standing = Standing.UNUSED
    used: bool = False
    """Decode has demanded it since it was loaded."""
    last_use: int = 0
    """Number of the acquire that demanded it last."""


class SlotPool:
    """`n_slots` slots, of which guesses always leave `floor` to demand."""

    def __init__(
        self, n_slots: int, floor: int, policy: EvictionPolicy, live_acquires: int = 1
    ) -> None:
        if not 1 <= floor <= n_slots:
            raise ValueError(f"floor must be between 1 and n_slots = {n_slots}, got {floor}")
        self.n_slots = n_slots
        self.floor = floor
        self._live_acquires = live_acquires
        self._order = EvictionOrder(policy)
        self._slots = [_Slot() for _ in range(n_slots)]
        self._by_key: dict[ExpertKey, int] = {}
        self._free = list(range(n_slots - 1, -1, -1))
        self._loading: dict[int, None] = {}
        self._leases: dict[int, Lease] = {}
        self._n_acquires = 0
        self._closed = False

    @property
    def takeable(self) -> int:
        """Slots that a demand can have without evicting what is held for a guess."""
        return len(self._free) + self._order.n_takeable

    @property
    def loading(self) -> tuple[ExpertSlot, ...]:
        """Reads under way, oldest first."""
        return tuple(self.owner(slot) for slot in self._loading)

    @property
    def leases(self) -> tuple[Lease, ...]:
        """Leases that have not been released, oldest first."""
        return tuple(self._leases.values())

    def find(self, layer: int, expert: int) -> int | None:
        """The slot that the expert owns, whatever its state."""
        return self._by_key.get((layer, expert))

    def state(self, slot: int) -> SlotState:
        return self._slots[slot].state

    def n_pins(self, slot: int) -> int:
        return self._slots[slot].n_pins

    def is_held(self, slot: int) -> bool:
        return self._slots[slot].standing is Standing.HELD

    def owner(self, slot: int) -> ExpertSlot:
        """Raises SlotStateError for a FREE slot."""
        record = self._slots[slot]
        if record.state is SlotState.FREE:
            raise SlotStateError(f"slot {slot} is free and has no owner")
        return ExpertSlot(*record.key, slot)

    def acquire(self, layer: int, experts: Iterable[int], demand: Demand = Demand.DECODE) -> Lease:
        """Pin experts of a layer, taken as a set, until the lease is released.

        Raises SlotsExhaustedError, and changes nothing, if they cannot have a slot each.
        """
        if self._closed:
            raise SlotStateError("the slot pool is closed")
        keys = [(layer, expert) for expert in dict.fromkeys(experts)]
        absent = [key for key in keys if key not in self._by_key]
        present = [self._by_key[key] for key in keys if key in self._by_key]
        n_kept = sum(self._is_evictable(slot) for slot in present)
        got = self.takeable + self._order.n_held - n_kept
        if len(absent) > got:
            where = f"{self.n_slots} slots, {self._users()}"
            raise SlotsExhaustedError(layer, len(absent), got, where)

        # Found experts are pinned before any slot is taken, lest one is evicted for another.
        ready: list[ExpertSlot] = []
        late: list[ExpertSlot] = []
        missed: list[ExpertSlot] = []
        for slot in present:
            self._pin(slot)
            entry, state = self.owner(slot), self._slots[slot].state
            if state is SlotState.READY:
                ready.append(entry)
            elif state is SlotState.LOADING:
                late.append(entry)
            else:
                missed.append(self.retry(slot))
        for key in absent:
            slot = self._take(key)
            self._pin(slot)
            missed.append(ExpertSlot(*key, slot))
        if demand is Demand.DECODE:
            self._use(keys)
        lease = Lease(layer, tuple(ready), tuple(late), tuple(missed))
        self._leases[id(lease)] = lease
        return lease

    def release(self, lease: Lease) -> None:
        """Unpin a lease. Raises SlotStateError if it has been released before."""
        if self._leases.get(id(lease)) is not lease:
            raise SlotStateError(f"the lease of layer {lease.layer} has been released already")
        del self._leases[id(lease)]
        for _, _, slot in (*lease.ready, *lease.late, *lease.missed):
            record = self._slots[slot]
            record.n_pins -= 1
            if record.n_pins == 0 and record.state is SlotState.FAILED:
                self._vacate(slot)
            else:
                self._shelve(slot)

    def release_all(self) -> None:
        """Release every lease: after an error, and once the device has finished."""
        for lease in self.leases:
            self.release(lease)

    def reserve(self, layer: int, expert: int) -> int | None:
        """A slot to read a guessed expert into, held until the expert is demanded or let go.

        None if it would take the floor or evict what is live. Raises SlotStateError if the expert
        owns a slot already.
        """
        owned = self._by_key.get((layer, expert))
        if owned is not None:
            raise SlotStateError(f"layer {layer} expert {expert} owns slot {owned} already")
        if self._closed or self._spare() < 1:
            return None
        if not self._free and self._is_live(self._order.first_used()):
            return None
        slot = self._take((layer, expert))
        self._slots[slot].standing = Standing.HELD
        return slot

    def hold(self, layer: int, expert: int) -> bool:
        """Keep an expert that is guessed and in memory until it is demanded or let go.

        False, and no change, unless its slot is takeable and does not belong to the floor.
        """
        slot = self._by_key.get((layer, expert))
        if slot is None or self._spare() < 1 or self.is_held(slot) or not self._is_evictable(slot):
            return False
        self._change_standing(slot, Standing.HELD)
        return True

    def let_go(self, layer: int, expert: int) -> None:
        """The guess is spent: the expert gives way like any other. Ignored if it is not held."""
        slot = self._by_key.get((layer, expert))
        if slot is not None and self.is_held(slot):
            used = self._slots[slot].used
            self._change_standing(slot, Standing.USED if used else Standing.UNUSED)

    def finished(self, slot: int) -> None:
        """The read of a LOADING slot delivered all of its bytes."""
        self._end_read(slot)
        self._slots[slot].state = SlotState.READY
        self._shelve(slot)

    def lost(self, slot: int) -> None:
        """The read of a LOADING slot failed or was cancelled, and writes no more."""
        self._end_read(slot)
        if self._slots[slot].n_pins > 0:
            self._slots[slot].state = SlotState.FAILED
        else:
            self._vacate(slot)

    def spoil(self, slot: int) -> None:
        """The bytes of a pinned READY slot turned out wrong: it is FAILED, as after `lost`."""
        if self._slots[slot].state is not SlotState.READY or self._slots[slot].n_pins == 0:
            raise SlotStateError(f"slot {slot} has no pinned bytes to be spoilt")
        self._slots[slot].state = SlotState.FAILED

    def retry(self, slot: int) -> ExpertSlot:
        """A FAILED slot is LOADING again; the result is to be read."""
        if self._slots[slot].state is not SlotState.FAILED:
            raise SlotStateError(f"slot {slot} is to be retried but is {self.state(slot).value}")
        self._slots[slot].state = SlotState.LOADING
        self._loading[slot] = None
        return self.owner(slot)

    def clear(self) -> None:
        """Forget all experts. Raises SlotStateError while a slot is pinned or a read under way."""
        if self._leases or self._loading:
            raise SlotStateError(f"slots are in use: {self._users()}")
        for slot in tuple(self._by_key.values()):
            self._unshelve(slot)
            self._vacate(slot)

    def close(self) -> None:
        """Clear and refuse new experts; from here on nobody uses the memory of the slots.

        Raises SlotStateError while a slot is pinned or a read under way. Idempotent.
        """
        self.clear()
        self._closed = True

    def _users(self) -> str:
        return f"{len(self._leases)} leases, {len(self._loading)} reads under way"

    def _spare(self) -> int:
        """Slots that guesses may still take."""
        return self.takeable - self.floor

    def _is_evictable(self, slot: int) -> bool:
        record = self._slots[slot]
        return record.state is SlotState.READY and record.n_pins == 0

    def _is_live(self, key: ExpertKey | None) -> bool:
        """Whether an expert of standing USED has been demanded too recently to go for a guess."""
        if key is None:
            return False
        last_use = self._slots[self._by_key[key]].last_use
        return self._n_acquires - last_use < self._live_acquires

    def _take(self, key: ExpertKey) -> int:
        """A slot for the expert, LOADING; the expert that goes first is evicted if none is FREE."""
        slot = self._free.pop() if self._free else self._by_key.pop(self._order.evict())
        self._slots[slot] = _Slot(SlotState.LOADING, key)
        self._by_key[key] = slot
        self._loading[slot] = None
        return slot

    def _vacate(self, slot: int) -> None:
        del self._by_key[self._slots[slot].key]
        self._slots[slot] = _Slot()
        self._free.append(slot)

    def _pin(self, slot: int) -> None:
        record = self._slots[slot]
        self._unshelve(slot)
        record.n_pins += 1
        record.standing = Standing.USED if record.used else Standing.UNUSED

    def _use(self, keys: list[ExpertKey]) -> None:
        self._n_acquires += 1
        for key in keys:
            record = self._slots[self._by_key[key]]
            record.used, record.last_use, record.standing = True, self._n_acquires, Standing.USED
            self._order.touch(key, self._n_acquires)

    def _shelve(self, slot: int) -> None:
        """Let an unpinned READY slot be evicted."""
        if self._is_evictable(slot):
            self._order.add(self._slots[slot].key, self._slots[slot].standing)

    def _unshelve(self, slot: int) -> None:
        if self._is_evictable(slot):
            self._order.remove(self._slots[slot].key, self._slots[slot].standing)

    def _change_standing(self, slot: int, standing: Standing) -> None:
        self._unshelve(slot)
        self._slots[slot].standing = standing
        self._shelve(slot)

    def _end_read(self, slot: int) -> None:
        if self._slots[slot].state is not SlotState.LOADING:
            raise SlotStateError(f"a read of slot {slot} ended but it is {self.state(slot).value}")
        del self._loading[slot]
