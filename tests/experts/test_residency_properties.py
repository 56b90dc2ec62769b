"""Decode through slots and guesses under random schedules of a disk, against bytes in memory."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from moeflux.experts.eviction import POLICY_NAMES, make_policy
from moeflux.experts.lease import Demand, ExpertSlot, Lease
from moeflux.experts.predict import Combined, NextRouter, PreviousToken
from moeflux.experts.residency import ExpertResidency
from moeflux.experts.slots import SlotPool

TOP_K = 2
N_LAYERS = 3
NBYTES = 10
EXPERTS = st.lists(st.integers(0, 7), min_size=TOP_K, max_size=TOP_K, unique=True)
Key = tuple[int, int]


class Decode(RuleBasedStateMachine):
    """Tokens layer by layer. `memory` says whose bytes a slot holds: nobody's while it is read."""

    @initialize(
        n_slots=st.integers(TOP_K, 10),
        policy=st.sampled_from(POLICY_NAMES),
        live_acquires=st.integers(0, 3),
    )
    def start(self, n_slots: int, policy: str, live_acquires: int) -> None:
        self.router = NextRouter(N_LAYERS)
        self.pool = SlotPool(
            n_slots, TOP_K, make_policy(policy, n_slots, TOP_K, N_LAYERS), live_acquires
        )
        predictor = Combined((self.router, PreviousToken(N_LAYERS)))
        self.residency = ExpertResidency(self.pool, [NBYTES] * N_LAYERS, predictor)
        self.memory: list[Key | None] = [None] * n_slots
        self.reading: dict[int, ExpertSlot] = {}
        self.cancelling: set[int] = set()
        self.lease: Lease | None = None
        self.layer = 0

    def submit(self, reads: tuple[ExpertSlot, ...]) -> None:
        for entry in reads:
            assert entry.slot not in self.reading, "two reads write to one slot"
            pinned = {} if self.lease is None else self.lease.slots
            assert entry.slot not in pinned.values(), "a read writes to what the device reads"
            self.memory[entry.slot] = None
            self.reading[entry.slot] = entry

    def cancel(self, reads: tuple[ExpertSlot, ...]) -> None:
        for entry in reads:
            assert self.reading[entry.slot] == entry
            self.cancelling.add(entry.slot)

    def end(self, slot: int, outcome: str) -> None:
        entry = self.reading.pop(slot)
        self.cancelling.discard(slot)
        if outcome == "finished":
            self.memory[slot] = entry[:2]
        getattr(self.residency, outcome)(slot)

    def await_read(self, entry: ExpertSlot, outcomes: list[str]) -> None:
        """Wait as the stream does: what was cancelled or failed is read again."""
        for outcome in [*outcomes, "finished"]:
            self.end(entry.slot, outcome)
            if outcome == "finished":
                return
            again = self.residency.retry(entry.slot)
            assert again == entry
            self.reading[entry.slot] = again

    def check_bytes(self) -> None:
        if self.lease is not None:
            for expert, slot in self.lease.slots.items():
                assert self.memory[slot] == (self.lease.layer, expert)

    def release(self) -> None:
        """The device has read the slots until now, so they still hold the right bytes."""
        self.check_bytes()
        if self.lease is not None:
            self.residency.release(self.lease)
        self.lease = None

    @rule(
        routed=EXPERTS,
        limit=st.sampled_from([0, NBYTES, 3 * NBYTES, 1000]),
        trouble=st.lists(st.sampled_from(["failed", "cancelled"]), max_size=2),
    )
    def layer_step(self, routed: list[int], limit: int, trouble: list[str]) -> None:
        self.release()
        plan = self.residency.demand(self.layer, routed)
        assert set(plan.lease.slots) == set(routed)
        self.submit(plan.read)
        self.cancel(plan.cancel)
        self.speculate(self.layer + 1, limit)
        for entry in (*plan.read, *plan.promote):
            self.await_read(entry, trouble)
        self.lease = plan.lease
        self.check_bytes()
        self.layer = (self.layer + 1) % N_LAYERS

    @rule(limit=st.sampled_from([0, NBYTES, 1000]))
    def guess_before_the_layer(self, limit: int) -> None:
        self.release()
        self.speculate(self.layer, limit)

    @rule(ranked=st.lists(st.integers(0, 7), max_size=5))
    def offer(self, ranked: list[int]) -> None:
        self.router.offer(self.layer, ranked)

    def speculate(self, layer: int, limit: int) -> None:
        before = self.residency.prefetch.reading_nbytes
        plan = self.residency.speculate(layer, limit)
        self.submit(plan.read)
        self.cancel(plan.cancel)
        assert self.residency.prefetch.reading_nbytes <= max(limit, before)

    @precondition(lambda self: self.reading)
    @rule(data=st.data(), outcome=st.sampled_from(["finished", "failed", "cancelled"]))
    def guess_ends(self, data: st.DataObject, outcome: str) -> None:
        slot = data.draw(st.sampled_from(sorted(self.reading)))
        cancelled_unasked = outcome == "cancelled" and slot not in self.cancelling
        self.end(slot, "failed" if cancelled_unasked else outcome)

    @rule(experts=st.sets(st.integers(0, 7), min_size=1), overlap=st.booleans())
    def prefill_layer(self, experts: set[int], overlap: bool) -> None:
        self.release()
        for entry in self.residency.drain():
            self.end(entry.slot, "cancelled")
        width = max(1, self.pool.n_slots // 2 if overlap else self.pool.n_slots)
        seen: set[int] = set()
        for wave in self.residency.waves(self.layer, experts, width):
            if not overlap or 2 * width > self.pool.n_slots:
                self.release()
            plan = self.residency.demand(self.layer, wave, Demand.PREFILL)
            self.submit(plan.read)
            for entry in plan.read:
                self.end(entry.slot, "finished")
            self.release()
            self.lease = plan.lease
            self.check_bytes()
            seen |= set(wave)
        assert seen == experts

    @rule()
    def error_in_the_middle_of_a_token(self) -> None:
        reads = self.residency.invalidate()
        assert {entry.slot for entry in reads} == set(self.reading)
        for entry in reads:
            self.end(entry.slot, "cancelled")
        self.pool.release_all()
        self.lease = None
        self.layer = 0
        assert self.residency.drained

    @invariant()
    def every_issued_byte_is_accounted_for(self) -> None:
        for counters in self.residency.prefetch.counters.values():
            ended = (
                counters.useful_nbytes
                + counters.late_nbytes
                + counters.wasted_nbytes
                + counters.cancelled_nbytes
                + counters.failed_nbytes
            )
            assert counters.issued_nbytes - ended >= 0
            if self.residency.prefetch.layer is None and not self.reading:
                assert counters.issued_nbytes == ended

    @invariant()
    def what_is_ready_holds_its_own_bytes(self) -> None:
        for layer in range(N_LAYERS):
            for expert in range(8):
                slot = self.pool.find(layer, expert)
                if slot is not None and slot not in self.reading:
                    assert self.memory[slot] == (layer, expert)

    def teardown(self) -> None:
        if hasattr(self, "residency"):
            for entry in self.residency.close():
                self.end(entry.slot, "cancelled")
            self.pool.release_all()
            self.pool.close()


Decode.TestCase.settings = settings(
    max_examples=100, stateful_step_count=30, deadline=None, database=None, derandomize=True
)
TestDecode = Decode.TestCase
