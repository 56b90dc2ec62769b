"""Records in the host's memory: whose they are, when they are pinned, which are never reused."""

from __future__ import annotations

from typing import Any

import pytest

from moeflux.errors import ChecksumError, OutOfMemoryError, ReadCancelled, ReadError
from moeflux.experts import records
from moeflux.experts.eviction import LRU
from moeflux.experts.lease import Demand
from moeflux.experts.records import Claim, RecordPool

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


def make(n_records: int, device: Any = None) -> RecordPool:
    return RecordPool(device or FakeDevice(), n_records, RECORD_NBYTES, LRU())


def claim(pool: RecordPool, expert: int, demand: Demand = Demand.DECODE) -> Claim:
    claimed = pool.claim(0, expert, demand)
    assert claimed is not None
    return claimed


def fill(pool: RecordPool, *experts: int, demand: Demand = Demand.DECODE) -> None:
    for expert in experts:
        pool.end(claim(pool, expert, demand))


def test_an_expert_that_was_read_is_filled_and_keeps_its_record() -> None:
    pool = make(2)
    first = claim(pool, 7)
    assert not first.filled
    pool.end(first)
    again = claim(pool, 7)
    assert again.filled
    assert again.record == first.record


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


def test_an_expert_whose_read_has_not_returned_is_read_without_a_record() -> None:
    pool = make(2)
    late = claim(pool, 1)
    assert pool.claim(0, 1, Demand.DECODE) is None
    pool.end(late)
    assert claim(pool, 1).filled


@pytest.mark.parametrize("failure", [FAILED, WRONG, ReadCancelled("cancelled")])
def test_a_record_whose_read_failed_has_nobodys_bytes(failure: Exception) -> None:
    pool = make(2)
    pool.end(claim(pool, 1), failure)
    assert not pool.holds(0, 1)
    assert not claim(pool, 1).filled


def test_wrong_bytes_are_not_copied_twice() -> None:
    pool = make(2)
    fill(pool, 1)
    pool.end(claim(pool, 1), WRONG)
    assert not claim(pool, 1).filled


def test_a_copy_that_was_cancelled_leaves_the_record_as_it_was() -> None:
    pool = make(2)
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
    assert pool.nbytes == 0
    places = {claim(pool, expert).record for expert in range(5)}
    assert len(places) == 5
    assert device.made == [200, 200, 100]
    assert pool.nbytes == 500


def test_an_expert_without_memory_for_its_record_does_not_have_one() -> None:
    device = FakeDevice()
    pool = make(1, device)
    device.room = 0
    with pytest.raises(OutOfMemoryError):
        pool.claim(0, 1, Demand.DECODE)
    device.room = 100
    fill(pool, 2)
    assert pool.holds(0, 2)
