"""Files, read pools and tickets. Faults of the disk are in tests/cpp/read_pool_test.cpp."""

import gc
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from moeflux import _core
from moeflux.errors import DeviceError, MoefluxError, ReadCancelled, ReadError, ReadTimeoutError

RandomFile = Callable[[int], tuple[Path, bytes]]


@pytest.fixture
def pool(cpu: _core.Device) -> _core.ReadPool:
    return cpu.read_pool()


@pytest.mark.parametrize("direct", [False, True])
def test_file_knows_path_and_size(random_file: RandomFile, *, direct: bool) -> None:
    path, _ = random_file(1234)
    file = _core.File(path, direct=direct)
    assert (file.path, file.nbytes) == (str(path), 1234)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        _core.File(tmp_path / "absent")
    assert caught.value.filename == str(tmp_path / "absent")


def test_folder_and_pipe_are_refused(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        _core.File(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="pipe"):
        _core.File(tmp_path / "pipe")


@pytest.fixture
def ordinary_user() -> Iterator[None]:
    """Root may read everything: becomes another user for a while."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield
    os.seteuid(user)


@pytest.mark.usefixtures("ordinary_user")
def test_unreadable_file_is_a_permission_error() -> None:
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).chmod(0)
        with pytest.raises(PermissionError) as caught:
            _core.File(file.name)
        assert caught.value.filename == file.name


def test_path_of_undecodable_bytes_survives(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    Path(path).write_bytes(b"x")
    assert _core.File(path).path == path


@pytest.mark.parametrize("direct", [False, True])
def test_read_fills_the_start_of_the_buffer(
    cpu: _core.Device, pool: _core.ReadPool, random_file: RandomFile, *, direct: bool
) -> None:
    path, content = random_file(3_000_000)
    buffer = cpu.buffer(2 << 20, host=True)
    ticket = pool.submit(_core.File(path, direct=direct), 4097, 1_000_003, buffer)
    ticket.wait()
    assert (ticket.done, ticket.cancelled, ticket.nbytes) == (True, False, 1_000_003)
    assert ticket.seconds > 0
    assert bytes(buffer)[:1_000_003] == content[4097 : 4097 + 1_000_003]
    assert not any(bytes(buffer)[1_000_003:])


def test_read_into_a_device_buffer(
    cpu: _core.Device, pool: _core.ReadPool, random_file: RandomFile
) -> None:
    path, content = random_file(5000)
    buffer = cpu.buffer(5000)
    pool.submit(_core.File(path), 0, 5000, buffer).wait()
    assert cpu.download(buffer) == content


def test_ranges_of_several_files_share_one_ticket(
    cpu: _core.Device, pool: _core.ReadPool, random_file: RandomFile
) -> None:
    first_path, first = random_file(50_000)
    second_path, second = random_file(60_000)
    first_file, second_file = _core.File(first_path), _core.File(second_path)
    buffer = cpu.buffer(100_000, host=True)
    ranges = [
        (first_file, 10, 20_000, 0),
        (second_file, 5, 30_000, 20_000),
        (first_file, 40_000, 7, 60_000),
    ]
    ticket = pool.submit_ranges(_core.ReadRanges(ranges), buffer, urgent=False)
    ticket.wait(timeout=60)
    assert ticket.nbytes == 50_007
    assert bytes(buffer)[:50_000] == first[10:20_010] + second[5:30_005]
    assert bytes(buffer)[60_000:60_007] == first[40_000:40_007]


def test_short_read_is_a_read_error_with_its_numbers(
    cpu: _core.Device, pool: _core.ReadPool, random_file: RandomFile
) -> None:
    path, _ = random_file(1000)
    ticket = pool.submit(_core.File(path), 900, 500, cpu.buffer(500))
    with pytest.raises(
        ReadError, match=rf"read 100 of 500 bytes at offset 900 of {path}: end of file"
    ) as caught:
        ticket.wait()
    error = caught.value
    assert (error.path, error.offset, error.wanted, error.got, error.errno) == (
        str(path),
        900,
        500,
        100,
        0,
    )
    assert isinstance(error, MoefluxError)
    assert isinstance(error, OSError)
    assert ticket.done


def test_file_shortened_after_opening_is_a_read_error(
    cpu: _core.Device, pool: _core.ReadPool, random_file: RandomFile
) -> None:
    path, _ = random_file(1000)
    file = _core.File(path)
    os.truncate(path, 10)
    with pytest.raises(ReadError) as caught:
        pool.submit(file, 0, 1000, cpu.buffer(1000)).wait()
    assert caught.value.got == 10


def test_unlinked_file_is_still_read(
    cpu: _core.Device, pool: _core.ReadPool, random_file: RandomFile
) -> None:
    path, content = random_file(1000)
    file = _core.File(path)
    path.unlink()
    buffer = cpu.buffer(1000, host=True)
    pool.submit(file, 0, 1000, buffer).wait()
    assert bytes(buffer) == content


def test_ticket_keeps_file_buffer_and_pool_state(
    cpu: _core.Device, random_file: RandomFile
) -> None:
    path, content = random_file(4_000_000)
    buffer = cpu.buffer(4_000_000, host=True)
    array = np.frombuffer(buffer, np.uint8)
    pool = cpu.read_pool()
    ticket = pool.submit(_core.File(path), 0, 4_000_000, buffer)
    del buffer
    gc.collect()
    ticket.wait()
    del pool
    gc.collect()
    assert ticket.done
    assert not ticket.cancel()
    assert array.tobytes() == content


def test_buffer_that_is_too_small_is_refused(cpu: _core.Device, random_file: RandomFile) -> None:
    file = _core.File(random_file(1000)[0])
    pool = cpu.read_pool()
    with pytest.raises(ValueError, match="101 bytes at offset 0 reaches beyond a buffer of 100"):
        pool.submit(file, 0, 101, cpu.buffer(100))
    with pytest.raises(ValueError, match="beyond a buffer of 100"):
        pool.submit_ranges(_core.ReadRanges([(file, 0, 60, 0), (file, 0, 60, 41)]), cpu.buffer(100))


@pytest.mark.parametrize(("offset", "nbytes"), [(-1, 10), (0, 0), (0, -5)])
def test_nonsensical_ranges_are_refused(
    cpu: _core.Device, pool: _core.ReadPool, random_file: RandomFile, offset: int, nbytes: int
) -> None:
    file = _core.File(random_file(1000)[0])
    with pytest.raises(ValueError, match=r"must not be negative|at least 1 byte"):
        pool.submit(file, offset, nbytes, cpu.buffer(100))


def test_ranges_are_one_at_least() -> None:
    with pytest.raises(ValueError, match="at least one range"):
        _core.ReadRanges([])


def test_ranges_know_their_number_and_bytes(random_file: RandomFile) -> None:
    file = _core.File(random_file(1000)[0])
    ranges = _core.ReadRanges([(file, 0, 60, 0), (file, 7, 40, 100)])
    assert (len(ranges), ranges.nbytes) == (2, 100)


def test_ranges_are_read_as_often_as_asked_for(
    cpu: _core.Device, pool: _core.ReadPool, random_file: RandomFile
) -> None:
    path, content = random_file(5000)
    ranges = _core.ReadRanges([(_core.File(path), 1000, 3000, 0)])
    buffers = [cpu.buffer(3000, host=True) for _ in range(20)]
    tickets = [pool.submit_ranges(ranges, buffer) for buffer in buffers]
    for ticket in tickets:
        ticket.wait()
    assert {bytes(buffer) for buffer in buffers} == {content[1000:4000]}


def test_pool_has_as_many_workers_as_asked_for(cpu: _core.Device) -> None:
    assert cpu.read_pool().n_workers == 8
    assert cpu.read_pool(3).n_workers == 3
    with pytest.raises(ValueError, match="at least 1 worker"):
        cpu.read_pool(0)


def test_drain_waits_for_everything(cpu: _core.Device, random_file: RandomFile) -> None:
    path, _ = random_file(1_000_000)
    file = _core.File(path)
    pool = cpu.read_pool(2)
    tickets = [
        pool.submit(file, 0, 1_000_000, cpu.buffer(1_000_000), urgent=i % 2 == 0) for i in range(40)
    ]
    pool.drain()
    assert all(ticket.done for ticket in tickets)


def test_cancelled_tickets_say_so(cpu: _core.Device, random_file: RandomFile) -> None:
    """One worker and many large reads: the last ones cannot have started."""
    path, content = random_file(20_000_000)
    file = _core.File(path)
    pool = cpu.read_pool(1)
    buffers = [cpu.buffer(20_000_000, host=True) for _ in range(10)]
    tickets = [pool.submit(file, 0, 20_000_000, buffer) for buffer in buffers]
    assert tickets[-1].cancel()
    assert (tickets[-1].cancelled, tickets[-1].done) == (True, True)
    with pytest.raises(ReadCancelled, match=str(path)):
        tickets[-1].wait()
    tickets[-2].promote()
    tickets[0].wait()
    assert bytes(buffers[0]) == content
    pool.drain()
    assert not np.frombuffer(buffers[-1], np.uint8).any()


def test_timeout_is_a_read_error_and_the_read_goes_on(
    cpu: _core.Device, random_file: RandomFile
) -> None:
    path, content = random_file(20_000_000)
    file = _core.File(path)
    pool = cpu.read_pool(1)
    buffer = cpu.buffer(20_000_000, host=True)
    tickets = [pool.submit(file, 0, 20_000_000, cpu.buffer(20_000_000)) for _ in range(10)]
    last = pool.submit(file, 0, 20_000_000, buffer, urgent=False)
    with pytest.raises(ReadTimeoutError, match=str(path)) as caught:
        last.wait(timeout=0.0)
    assert isinstance(caught.value, TimeoutError)
    assert (caught.value.path, caught.value.wanted) == (str(path), 20_000_000)
    with pytest.raises(DeviceError, match="not done"):
        _ = last.seconds
    last.wait(timeout=60)
    assert bytes(buffer) == content
    assert all(ticket.done for ticket in tickets)


def test_close_cancels_what_is_queued_and_is_idempotent(
    cpu: _core.Device, random_file: RandomFile
) -> None:
    path, _ = random_file(20_000_000)
    file = _core.File(path)
    pool = cpu.read_pool(1)
    tickets = [pool.submit(file, 0, 20_000_000, cpu.buffer(20_000_000)) for _ in range(10)]
    pool.close()
    pool.close()
    assert all(ticket.done for ticket in tickets)
    assert tickets[-1].cancelled
    with pytest.raises(DeviceError, match="closed"):
        pool.submit(file, 0, 1, cpu.buffer(1))


def test_reads_refuse_a_mapped_destination(
    cpu: _core.Device, pool: _core.ReadPool, random_file: RandomFile
) -> None:
    path, _ = random_file(100)
    with pytest.raises(DeviceError, match="write to"):
        pool.submit(_core.File(path), 0, 1, cpu.wrap(_core.Mapping(path)))
