"""Reads through a record in the host's memory, and copies of one that is filled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from moeflux import _core
from moeflux.errors import ChecksumError, DeviceError, ReadError

RandomFile = Callable[[int], tuple[Path, bytes]]
NBYTES = 5_000_003


@pytest.mark.parametrize("direct", [False, True])
def test_what_is_read_is_in_the_record_and_in_the_buffer(
    cpu: _core.Device, random_file: RandomFile, *, direct: bool
) -> None:
    path, content = random_file(NBYTES)
    file, pool = _core.File(path, direct=direct), cpu.read_pool(3)
    record, buffer = cpu.record_memory(NBYTES), cpu.buffer(NBYTES, host=True)
    ranges = _core.ReadRanges([(file, 4096, 3_000_000, 0), (file, 17, 1001, 4_000_001)])
    pool.submit_ranges(ranges, buffer, record=record).wait()
    for memory in (record, buffer):
        assert bytes(memory)[:3_000_000] == content[4096:3_004_096]
        assert bytes(memory)[4_000_001:4_001_002] == content[17:1018]


def test_a_filled_record_is_copied_and_nothing_is_read(
    cpu: _core.Device, random_file: RandomFile
) -> None:
    path, content = random_file(NBYTES)
    record, buffer = cpu.record_memory(NBYTES), cpu.buffer(NBYTES, host=True)
    kept = np.random.default_rng(5).bytes(NBYTES)
    np.frombuffer(memoryview(record), np.uint8)[:] = np.frombuffer(kept, np.uint8)
    ranges = _core.ReadRanges([(_core.File(path), 0, 4_000_000, 1_000_000)])
    pool = cpu.read_pool(2)
    pool.submit_ranges(ranges, buffer, record=record, filled=True).wait()
    assert bytes(buffer)[1_000_000:5_000_000] == kept[1_000_000:5_000_000]
    assert bytes(buffer)[:1_000_000] == bytes(1_000_000)
    assert bytes(record) == kept != content


def test_other_bytes_than_those_of_the_checksum_are_not_delivered_from_a_record(
    cpu: _core.Device, random_file: RandomFile
) -> None:
    path, content = random_file(1000)
    record, pool = cpu.record_memory(1000), cpu.read_pool(1)
    ranges = _core.ReadRanges([(_core.File(path), 0, 1000, 0)])
    checksum = _core.crc32c(content)
    pool.submit_ranges(ranges, cpu.buffer(1000), checksum=checksum, record=record).wait()
    np.frombuffer(memoryview(record), np.uint8)[500] ^= 1
    ticket = pool.submit_ranges(
        ranges, cpu.buffer(1000), checksum=checksum, record=record, filled=True
    )
    with pytest.raises(ChecksumError, match=str(path)):
        ticket.wait()


def test_a_short_file_is_a_read_error_through_a_record(
    cpu: _core.Device, random_file: RandomFile
) -> None:
    path, _ = random_file(3_000_000)
    ranges = _core.ReadRanges([(_core.File(path), 0, 4_000_000, 0)])
    record, pool = cpu.record_memory(4_000_000), cpu.read_pool(1)
    ticket = pool.submit_ranges(ranges, cpu.buffer(4_000_000), record=record)
    with pytest.raises(ReadError, match="read 3000000 of 4000000 bytes at offset 0"):
        ticket.wait()


def test_a_record_must_hold_the_ranges_and_be_seen_by_the_host(
    cpu: _core.Device, random_file: RandomFile
) -> None:
    path, _ = random_file(1000)
    ranges, pool = _core.ReadRanges([(_core.File(path), 0, 1000, 0)]), cpu.read_pool(1)
    with pytest.raises(ValueError, match="reaches beyond a buffer of 999 bytes"):
        pool.submit_ranges(ranges, cpu.buffer(1000), record=cpu.record_memory(999))
    with pytest.raises(DeviceError, match="memory of the host"):
        pool.submit_ranges(ranges, cpu.buffer(1000), record=cpu.buffer(1000))
