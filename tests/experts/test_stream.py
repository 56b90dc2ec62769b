"""The stream over fakes: what it gives at once, failed reads, and what is left behind.

Two layers of eight experts, decode routes to two.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from fake_reads import (
    FAILED,
    HUNG,
    RECORD_NBYTES,
    TIMEOUT,
    FakeDevice,
    FakeLayer,
    FakeRead,
    FakeReads,
    Streaming,
)

from moeflux.errors import DeviceError, ExpertReadError, ReadCancelled
from moeflux.experts.lease import SlotState
from moeflux.experts.reads import ReadSettings
from moeflux.experts.stream import ExpertStream, StreamSettings


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Streaming]:
    monkeypatch.setattr("moeflux.experts.stream.ExpertReads", FakeReads)

    def make(n_slots: int = 6, n_retries: int = 0, prefetch: str = "next-router") -> Streaming:
        reads = ReadSettings(timeout=TIMEOUT, n_retries=n_retries)
        settings = StreamSettings(n_slots, prefetch=prefetch, reads=reads)
        layers: Any = [FakeLayer(), FakeLayer()]
        device: Any = FakeDevice()
        stream = ExpertStream(device, layers, 2, settings)
        stream._idle.record_idle(1e6)
        stream._idle.record_reads(1 << 40, 1.0)
        fake: Any = stream._reads
        return Streaming(stream, fake)

    return make


def guess(streaming: Streaming, *experts: int) -> list[FakeRead]:
    """Guess experts of layer 1 while layer 0 demands its own."""
    streaming.stream.offer(1, experts)
    streaming.stream.fetch(0, [0, 1])
    return [streaming.reads.of(1, expert)[0] for expert in experts]


def test_failed_read_names_layer_and_expert_and_is_caused_by_its_own_error(
    make: Callable[..., Streaming],
) -> None:
    streaming = make()
    streaming.reads.outcomes[1, 5].append(FAILED)
    with pytest.raises(ExpertReadError, match="layer 1 expert 5: read 0 of 9 bytes") as caught:
        streaming.stream.fetch(1, [4, 5])
    error = caught.value
    assert (error.layer, error.expert, error.path, error.offset) == (1, 5, "layer.bin", 7)
    assert (error.wanted, error.got, error.errno) == (9, 0, 5)
    assert error.__cause__ is FAILED


def test_other_reads_are_seen_through_after_one_has_failed(make: Callable[..., Streaming]) -> None:
    streaming = make()
    streaming.reads.outcomes[0, 3].append(FAILED)
    with pytest.raises(ExpertReadError, match="expert 3"):
        streaming.stream.fetch(0, [3, 4])
    assert streaming.state(0, 3) is SlotState.FAILED
    assert streaming.state(0, 4) is SlotState.READY
    streaming.recover()
    assert streaming.state(0, 3) is None
    assert streaming.state(0, 4) is SlotState.READY
    streaming.assert_nothing_is_held()
    streaming.stream.fetch(0, [3, 4])
    assert len(streaming.reads.of(0, 3)) == 2
    assert len(streaming.reads.of(0, 4)) == 1


def test_failed_read_is_retried_as_often_as_allowed(make: Callable[..., Streaming]) -> None:
    streaming = make(n_retries=2)
    streaming.reads.outcomes[0, 3].extend([FAILED, FAILED])
    streaming.stream.fetch(0, [3])
    assert streaming.stream.counters.n_failed_reads == 2
    assert streaming.stream.counters.n_reads == 1
    streaming.reads.outcomes[0, 4].extend([FAILED] * 3)
    with pytest.raises(ExpertReadError, match="expert 4"):
        streaming.stream.fetch(0, [4])
    assert len(streaming.reads.of(0, 4)) == 3


def test_a_read_that_does_not_get_to_the_device_is_the_devices_error(
    make: Callable[..., Streaming],
) -> None:
    streaming = make(n_retries=1)
    streaming.reads.outcomes[0, 3].append(DeviceError("a copy to the GPU"))
    with pytest.raises(DeviceError, match="a copy to the GPU"):
        streaming.stream.fetch(0, [3, 4])
    assert streaming.state(0, 3) is SlotState.FAILED
    streaming.recover()
    streaming.assert_nothing_is_held()
    streaming.stream.fetch(0, [3, 4])
    assert len(streaming.reads.of(0, 3)) == 2


def test_guess_that_does_not_get_to_the_device_is_forgotten(
    make: Callable[..., Streaming],
) -> None:
    streaming = make(n_slots=8)
    streaming.reads.outcomes[1, 7].append(DeviceError("a copy to the GPU"))
    guess(streaming, 7)
    streaming.stream.settle()
    assert streaming.state(1, 7) is None
    assert streaming.stream.counters.n_failed_reads == 1


def test_guess_that_was_cancelled_is_read_again_once_demanded(
    make: Callable[..., Streaming],
) -> None:
    """Layer 0 comes again before layer 1, so that the guess is cancelled; then it is right."""
    streaming = make(n_slots=8)
    (guessed,) = guess(streaming, 7)
    streaming.stream.release_all()
    streaming.stream.fetch(0, [0, 1])
    assert isinstance(guessed.ticket.outcome, ReadCancelled)
    streaming.stream.fetch(1, [7, 6])
    assert len(streaming.reads.of(1, 7)) == 2
    assert streaming.state(1, 7) is SlotState.READY


def test_running_guess_that_is_cancelled_while_demanded_is_read_again(
    make: Callable[..., Streaming],
) -> None:
    """Cancelled is known only when its running range has ended, after the demand."""
    streaming = make(n_slots=8)
    (guessed,) = guess(streaming, 7)
    guessed.ticket.started = True
    guessed.ticket.outcome = ReadCancelled("its other ranges were dropped")
    streaming.stream.fetch(1, [7, 6])
    assert guessed.ticket.urgent
    assert len(streaming.reads.of(1, 7)) == 2
    assert streaming.state(1, 7) is SlotState.READY


def test_guess_that_failed_is_forgotten_and_read_on_demand(make: Callable[..., Streaming]) -> None:
    streaming = make(n_slots=8)
    streaming.reads.outcomes[1, 7].append(FAILED)
    (guessed,) = guess(streaming, 7)
    guessed.ticket.finish()
    streaming.stream.fetch(1, [7, 6])
    assert [read.urgent for read in streaming.reads.of(1, 7)] == [False, True]
    assert streaming.stream.counters.n_failed_reads == 1
    counters = streaming.stream.residency.prefetch.counters["next-router"]
    assert counters.failed_nbytes == RECORD_NBYTES


def test_guess_that_fails_once_demanded_counts_as_an_attempt(
    make: Callable[..., Streaming],
) -> None:
    streaming = make(n_slots=8, n_retries=1)
    streaming.reads.outcomes[1, 7].append(FAILED)
    guess(streaming, 7)
    streaming.stream.fetch(1, [7, 6])
    assert streaming.state(1, 7) is SlotState.READY
    assert len(streaming.reads.of(1, 7)) == 2


def test_read_that_hangs_keeps_its_slot_until_it_returns(make: Callable[..., Streaming]) -> None:
    streaming = make(prefetch="off", n_retries=3)
    streaming.reads.outcomes[0, 3].append(HUNG)
    with pytest.raises(ExpertReadError, match="expert 3") as caught:
        streaming.stream.fetch(0, [3, 4])
    assert caught.value.__cause__ is HUNG
    streaming.recover()
    assert streaming.state(0, 3) is SlotState.LOADING
    for expert in range(5, 8):
        streaming.stream.fetch(0, [expert, 4])
        streaming.stream.release_all()
    assert streaming.state(0, 3) is SlotState.LOADING
    assert len(streaming.reads.of(0, 3)) == 1
    streaming.reads.of(0, 3)[0].ticket.finish()
    streaming.stream.fetch(0, [3, 4])
    assert streaming.state(0, 3) is SlotState.READY
    assert len(streaming.reads.of(0, 3)) == 1


def test_time_counts_from_the_wait_and_not_from_the_read_before(
    make: Callable[..., Streaming], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reads that hang together are waited for together; a retry has a time of its own."""
    streaming = make(prefetch="off", n_retries=1)
    now = 5.0
    monkeypatch.setattr("moeflux.experts.stream.time.perf_counter", lambda: now)
    streaming.reads.outcomes[0, 3].append(FAILED)
    streaming.stream.fetch(0, [3, 4])
    first, retry = streaming.reads.of(0, 3)
    (other,) = streaming.reads.of(0, 4)
    since = {id(read): since for read, since in streaming.reads.waits}
    assert since[id(first)] == first.submitted
    assert since[id(retry)] == retry.submitted
    assert since[id(other)] == other.submitted
    now = 1e6
    streaming.reads.outcomes[0, 5].append(HUNG)
    with pytest.raises(ExpertReadError):
        streaming.stream.fetch(0, [5, 6])
    assert [since for _, since in streaming.reads.waits[-2:]] == [1e6, 1e6]


def test_recovery_waits_no_longer_for_a_read_that_has_had_its_time(
    make: Callable[..., Streaming],
) -> None:
    streaming = make(prefetch="off")
    streaming.reads.outcomes[0, 3].append(HUNG)
    with pytest.raises(ExpertReadError):
        streaming.stream.fetch(0, [3, 4])
    streaming.recover()
    (hung,) = streaming.reads.of(0, 3)
    assert streaming.reads.waits[-1] == (hung, hung.submitted)


@pytest.mark.parametrize("refused", [3, 4])
def test_read_that_cannot_be_submitted_leaves_no_slot_behind(
    make: Callable[..., Streaming], refused: int
) -> None:
    streaming = make(prefetch="off")
    streaming.reads.refuse.add((0, refused))
    with pytest.raises(MemoryError):
        streaming.stream.fetch(0, [3, 4])
    streaming.recover()
    streaming.assert_nothing_is_held()
    streaming.reads.refuse.clear()
    assert set(streaming.stream.fetch(0, [3, 4])) == {3, 4}
    assert streaming.state(0, refused) is SlotState.READY


def test_guess_that_cannot_be_submitted_leaves_no_slot_behind(
    make: Callable[..., Streaming],
) -> None:
    streaming = make(n_slots=8)
    streaming.reads.refuse.add((1, 7))
    with pytest.raises(MemoryError):
        guess(streaming, 6, 7)
    streaming.recover()
    streaming.assert_nothing_is_held()
    streaming.reads.refuse.clear()
    streaming.stream.fetch(1, [6, 7])
    assert streaming.state(1, 7) is SlotState.READY


def test_retry_that_cannot_be_submitted_leaves_no_slot_behind(
    make: Callable[..., Streaming], monkeypatch: pytest.MonkeyPatch
) -> None:
    streaming = make(prefetch="off", n_retries=1)
    streaming.reads.outcomes[0, 3].append(FAILED)
    wait = streaming.reads.wait

    def refuse_then_wait(read: FakeRead, since: float) -> None:
        streaming.reads.refuse.add((0, 3))
        wait(read, since)

    monkeypatch.setattr(streaming.reads, "wait", refuse_then_wait)
    with pytest.raises(MemoryError):
        streaming.stream.fetch(0, [3, 4])
    streaming.recover()
    streaming.assert_nothing_is_held()


def test_interrupt_while_waiting_leaves_nothing_behind(
    make: Callable[..., Streaming], monkeypatch: pytest.MonkeyPatch
) -> None:
    streaming = make(prefetch="off")
    wait = streaming.reads.wait
    interrupts = deque([KeyboardInterrupt()])

    def interrupted_wait(read: FakeRead, since: float) -> None:
        if interrupts:
            raise interrupts.pop()
        wait(read, since)

    monkeypatch.setattr(streaming.reads, "wait", interrupted_wait)
    with pytest.raises(KeyboardInterrupt):
        streaming.stream.fetch(0, [3, 4])
    streaming.recover()
    streaming.assert_nothing_is_held()
    streaming.stream.fetch(0, [3, 4])
    assert streaming.state(0, 3) is SlotState.READY


def test_release_after_a_failure_frees_the_slots_for_others(
    make: Callable[..., Streaming],
) -> None:
    streaming = make(n_slots=2, prefetch="off")
    for expert in range(2, 8, 2):
        streaming.reads.outcomes[0, expert].append(FAILED)
        with pytest.raises(ExpertReadError):
            streaming.stream.fetch(0, [expert, expert + 1])
        streaming.recover()
        streaming.assert_nothing_is_held()
    streaming.stream.fetch(1, [0, 1])


@pytest.mark.parametrize("hangs", [False, True])
def test_close_ends_every_read_before_the_slots_go(
    make: Callable[..., Streaming], hangs: bool
) -> None:
    streaming = make(n_slots=8)
    if hangs:
        streaming.reads.outcomes[1, 7].append(HUNG)
    guess(streaming, 6, 7)
    streaming.stream.close()
    assert streaming.reads.closed
    assert all(read.ticket.done for read in streaming.reads.submitted)
    streaming.assert_nothing_is_held()
    streaming.stream.close()


def test_a_prefill_chunk_starts_without_guesses_under_way(make: Callable[..., Streaming]) -> None:
    """Its waves may need their slots."""
    streaming = make(n_slots=8)
    guesses = guess(streaming, 6, 7)
    streaming.stream.begin_chunk()
    assert all(read.ticket.done for read in guesses)
    streaming.assert_nothing_is_held()


def test_settling_counts_the_guesses_that_still_run(make: Callable[..., Streaming]) -> None:
    """Their layer went another way, so that nobody else waits for their reads."""
    streaming = make(n_slots=8)
    for read in guess(streaming, 6, 7):
        read.ticket.started = True
    streaming.stream.fetch(1, [0, 1])
    streaming.stream.release_all()
    counters = streaming.stream.residency.prefetch.counters["next-router"]
    assert (counters.issued_nbytes, counters.wasted_nbytes) == (2 * RECORD_NBYTES, 0)
    streaming.stream.settle()
    assert counters.wasted_nbytes == 2 * RECORD_NBYTES
    streaming.assert_nothing_is_held()


def test_experts_in_memory_are_given_before_the_others_are_read(
    make: Callable[..., Streaming],
) -> None:
    streaming = make(prefetch="off")
    streaming.stream.fetch(0, [1, 2])
    streaming.stream.release_all()
    fetch = streaming.stream.begin_fetch(0, [2, 3])
    assert set(fetch.ready) == {2}
    assert fetch.pending
    assert streaming.state(0, 3) is SlotState.LOADING
    assert set(fetch.wait()) == {3}
    assert streaming.state(0, 3) is SlotState.READY


def test_with_room_for_all_experts_those_read_before_need_no_pin(
    make: Callable[..., Streaming],
) -> None:
    streaming = make(n_slots=16)
    first = streaming.stream.fetch(0, [1, 2])
    streaming.stream.release_all()
    fetch = streaming.stream.begin_fetch(0, [2, 1])
    assert not fetch.pending
    assert fetch.ready == first
    assert streaming.stream.residency.pool.leases == ()
    streaming.stream.release_oldest()
    assert streaming.stream.counters.n_ready == 2
