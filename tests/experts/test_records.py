"""Records in the host's memory: whose they are, when they are pinned, which are never reused."""

from __future__ import annotations

from typing import Any

import pytest

from moeflux.errors import ChecksumError, OutOfMemoryError, ReadCancelled, ReadError
from moeflux.experts import records
from moeflux.experts.eviction import LRU
from moeflux.experts.lease import Demand
from moeflux.experts.records import AllRecords, Claim, RecordPool, Records, make_records

RECORD_NBYTES = 100
FAILED = ReadError("read 0 of 100 bytes")
WRONG = ChecksumError("wanted checksum", "layer.bin", 0, 100, 1, 2)


class FakeMemory:
    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes

    def view(self, offset: int, nbytes: int) -> tuple[int, int, int]:
        assert offset + nbytes <= self.nbytes
        return id(self), offset, nbytes


class FakeDevice:
    def __init__(self) -> None:
        self.made: list[int] = []
        self.room = 10**9

    def record_memory(self, nbytes: int) -> FakeMemory:
        if nbytes > self.room:
            raise OutOfMemoryError("no room", nbytes)
        self.made.append(nbytes)
        return FakeMemory(nbytes)


def make(n_records: int, device: Any = None, n_experts: int = 100) -> Records:
    return make_records(device or FakeDevice(), n_records, RECORD_NBYTES, n_experts, LRU())


with_room_for = pytest.mark.parametrize("n_experts", [2, 100], ids=["all", "some"])


def claim(pool: Records, expert: int, demand: Demand = Demand.DECODE) -> Claim:
    claimed = pool.claim(0, expert, demand)
    assert claimed is not None
    return claimed


def fill(pool: Records, *experts: int, demand: Demand = Demand.DECODE) -> None:
    for expert in experts:
        pool.end(claim(pool, expert, demand))


@with_room_for
def test_an_expert_that_was_read_is_filled_and_keeps_its_record(n_experts: int) -> None:
    pool = make(2, n_experts=n_experts)
    first = claim(pool, 7)
    assert not first.filled
    pool.end(first)
    again = claim(pool, 7)
    assert again.filled
    assert again.record == first.record


def test_with_room_for_all_experts_no_policy_is_asked() -> None:
    assert isinstance(make(3, n_experts=3), AllRecords)
    assert isinstance(make(2, n_experts=3), RecordPool)


def test_the_policy_says_whose_record_goes() -> None:
    pool = make(2)
    fill(pool, 1, 2, 1, 3)
    assert [pool.holds(0, expert) for expert in (1, 2, 3)] == [True, False, True]


def test_prefill_does_not_take_the_records_of_decode() -> None:
    pool = make(3)
    fill(pool, 1, 2)
    fill(pool, 5, 6, 7, demand=Demand.PREFILL)
    assert [pool.holds(0, expert) for expert in (1, 2, 5, 6, 7)] == [True, True, False, False, True]


def test_a_record_that_is_read_or_copied_goes_to_nobody_else() -> None:
    pool = make(2)
    fill(pool, 1)
    copied, read = claim(pool, 1), claim(pool, 2)
    assert pool.claim(0, 3, Demand.DECODE) is None
    pool.end(read)
    other = claim(pool, 3)
    assert other.record == read.record != copied.record


@with_room_for
def test_an_expert_whose_read_has_not_returned_is_read_without_a_record(n_experts: int) -> None:
    pool = make(2, n_experts=n_experts)
    late = claim(pool, 1)
    assert pool.claim(0, 1, Demand.DECODE) is None
    pool.end(late)
    assert claim(pool, 1).filled


@with_room_for
@pytest.mark.parametrize("failure", [FAILED, WRONG, ReadCancelled("cancelled")])
def test_a_record_whose_read_failed_has_nobodys_bytes(failure: Exception, n_experts: int) -> None:
    pool = make(2, n_experts=n_experts)
    pool.end(claim(pool, 1), failure)
    assert not pool.holds(0, 1)
    assert not claim(pool, 1).filled


@with_room_for
def test_wrong_bytes_are_not_copied_twice(n_experts: int) -> None:
    pool = make(2, n_experts=n_experts)
    fill(pool, 1)
    pool.end(claim(pool, 1), WRONG)
    assert not claim(pool, 1).filled


@with_room_for
def test_a_copy_that_was_cancelled_leaves_the_record_as_it_was(n_experts: int) -> None:
    pool = make(2, n_experts=n_experts)
    fill(pool, 1)
    pool.end(claim(pool, 1), ReadCancelled("cancelled"))
    assert claim(pool, 1).filled


def test_the_end_of_a_read_may_be_told_twice() -> None:
    pool = make(1)
    failed = claim(pool, 1)
    for _ in range(2):
        pool.end(failed, FAILED)
    fill(pool, 2)
    assert pool.holds(0, 2)


def test_memory_is_taken_in_blocks_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "BLOCK_NBYTES", 2 * RECORD_NBYTES + 1)
    device = FakeDevice()
    pool = make(5, device)
    assert pool.memory.nbytes == 0
    places = {claim(pool, expert).record for expert in range(5)}
    assert len(places) == 5
    assert device.made == [200, 200, 100]
    assert pool.memory.nbytes == 500


def test_an_expert_without_memory_for_its_record_does_not_have_one() -> None:
    device = FakeDevice()
    pool = make(1, device)
    device.room = 0
    with pytest.raises(OutOfMemoryError):
        pool.claim(0, 1, Demand.DECODE)
    device.room = 100
    fill(pool, 2)
    assert pool.holds(0, 2)
