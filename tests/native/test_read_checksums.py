"""Reads with a checksum: other bytes than those it belongs to are an error, never delivered."""

from collections.abc import Callable
from pathlib import Path

import pytest

from moeflux import _core
from moeflux.errors import ChecksumError, ReadCancelled, ReadError

RandomFile = Callable[[int], tuple[Path, bytes]]


@pytest.fixture
def pool(cpu: _core.Device) -> _core.ReadPool:
    return cpu.read_pool(4)


def test_bytes_of_the_checksum_are_delivered(
    cpu: _core.Device, pool: _core.ReadPool, random_file: RandomFile
) -> None:
    path, content = random_file(300_000)
    buffer = cpu.buffer(200_000, host=True)
    checksum = _core.crc32c(content[5:200_005])
    pool.submit_ranges(
        _core.ReadRanges([(_core.File(path), 5, 200_000, 0)]), buffer, checksum=checksum
    ).wait()
    assert bytes(buffer) == content[5:200_005]


def test_other_bytes_are_an_error_with_both_checksums(
    cpu: _core.Device, pool: _core.ReadPool, random_file: RandomFile
) -> None:
    path, content = random_file(5000)
    got = _core.crc32c(content[7:4007])
    wanted = got ^ 1
    ticket = pool.submit_ranges(
        _core.ReadRanges([(_core.File(path), 7, 4000, 0)]), cpu.buffer(4000), checksum=wanted
    )
    for _ in range(2):
        with pytest.raises(
            ChecksumError,
            match=f"4000 bytes at offset 7 of {path}: wanted checksum {wanted:08x}, got {got:08x}",
        ) as caught:
            ticket.wait()
    error = caught.value
    assert isinstance(error, ReadError)
    assert (error.path, error.offset, error.wanted, error.got) == (str(path), 7, 4000, 4000)
    assert (error.wanted_checksum, error.got_checksum, error.errno) == (wanted, got, 0)
    assert (ticket.done, ticket.cancelled) == (True, False)
    assert ticket.cancel()


def test_checksum_is_of_all_ranges_one_after_the_other(
    cpu: _core.Device, pool: _core.ReadPool, random_file: RandomFile
) -> None:
    path, content = random_file(100_000)
    file = _core.File(path)
    pieces = [(file, 50_000, 30_000, 40_000), (file, 10, 7, 3), (file, 0, 20_000, 10_000)]
    buffer = cpu.buffer(100_000)
    joined = content[50_000:80_000] + content[10:17] + content[:20_000]
    for _ in range(20):
        pool.submit_ranges(_core.ReadRanges(pieces), buffer, checksum=_core.crc32c(joined)).wait()
    with pytest.raises(ChecksumError):
        pool.submit_ranges(
            _core.ReadRanges(pieces[::-1]), buffer, checksum=_core.crc32c(joined)
        ).wait()


def test_short_read_is_told_as_such(
    cpu: _core.Device, pool: _core.ReadPool, random_file: RandomFile
) -> None:
    file = _core.File(random_file(5000)[0])
    ranges = _core.ReadRanges([(file, 4000, 1000, 0), (file, 4500, 1000, 1000)])
    ticket = pool.submit_ranges(ranges, cpu.buffer(2000), checksum=0)
    with pytest.raises(ReadError, match="end of file") as caught:
        ticket.wait()
    assert not isinstance(caught.value, ChecksumError)


def test_cancelled_read_is_told_as_such(cpu: _core.Device, random_file: RandomFile) -> None:
    """One worker and many large reads: the last one cannot have started."""
    path, _ = random_file(20_000_000)
    file = _core.File(path)
    pool = cpu.read_pool(1)
    buffer = cpu.buffer(20_000_000)
    ranges = _core.ReadRanges([(file, 0, 20_000_000, 0)])
    tickets = [pool.submit_ranges(ranges, buffer, checksum=0) for _ in range(6)]
    assert tickets[-1].cancel()
    with pytest.raises(ReadCancelled):
        tickets[-1].wait()
    with pytest.raises(ChecksumError):
        tickets[0].wait()


@pytest.mark.parametrize("checksum", [-1, 1 << 32])
def test_checksum_of_more_than_32_bits_is_refused(
    cpu: _core.Device, pool: _core.ReadPool, random_file: RandomFile, checksum: int
) -> None:
    ranges = _core.ReadRanges([(_core.File(random_file(10)[0]), 0, 10, 0)])
    with pytest.raises(TypeError):
        pool.submit_ranges(ranges, cpu.buffer(10), checksum=checksum)
