"""Buffers of the CUDA backend: what the host sees, what is uploaded, and reads through staging."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fake_cuda import FakeCuda
from norms import NORMED, PARAMS, STEP, WIDTH, X

from moeflux import _core
from moeflux.errors import DeviceError, OutOfMemoryError, ReadTimeoutError

OUT_OF_MEMORY = 2
INVALID_VALUE = 1


def test_new_buffers_are_zeroed(cuda: _core.Device) -> None:
    for host in (False, True):
        for nbytes in (1, 5000, 3_000_001):
            assert cuda.download(cuda.buffer(nbytes, host=host)) == bytes(nbytes)


def test_only_host_buffers_are_seen_by_the_host(cuda: _core.Device) -> None:
    np.frombuffer(cuda.buffer(16, host=True), np.int32)[:] = 7
    with pytest.raises(BufferError, match="host=True"):
        memoryview(cuda.buffer(16))


def test_upload_and_download_keep_the_bytes(cuda: _core.Device) -> None:
    data = np.random.default_rng(0).bytes(100_001)
    buffer = cuda.upload(data)
    assert cuda.download(buffer) == data
    assert cuda.download(buffer.view(77, 1000)) == data[77:1077]


def test_memory_tells_what_is_free(cuda: _core.Device) -> None:
    before = cuda.memory()
    buffer = cuda.buffer(1 << 20)
    during = cuda.memory()
    assert during["free"] == before["free"] - buffer.nbytes
    assert during["allocated"] == before["allocated"] + buffer.nbytes
    assert during["total"] == 8 << 30


def test_a_buffer_without_room_is_a_memory_error(fake: FakeCuda, cuda: _core.Device) -> None:
    for host in (False, True):
        with pytest.raises(OutOfMemoryError, match="no room for a buffer") as caught:
            cuda.buffer(1 << 40, host=host)
        assert caught.value.nbytes == 1 << 40
    fake.fail("cuMemAlloc_v2", OUT_OF_MEMORY)
    with pytest.raises(OutOfMemoryError):
        cuda.upload(b"abc")
    assert cuda.download(cuda.upload(b"abc")) == b"abc"


@pytest.mark.parametrize(
    "entry_point", ["cuMemsetD8Async", "cuEventCreate", "cuEventRecord", "cuEventQuery"]
)
def test_a_buffer_that_cannot_be_cleared_is_freed(
    fake: FakeCuda, cuda: _core.Device, entry_point: str
) -> None:
    fake.fail(entry_point, INVALID_VALUE)
    with pytest.raises(DeviceError):
        cuda.buffer(4096)
    assert fake.live("memory") == 0


def test_a_mapped_file_comes_to_the_device_when_it_is_used(
    fake: FakeCuda, cuda: _core.Device, tmp_path: Path
) -> None:
    path = tmp_path / "weights"
    ones = np.ones(WIDTH, np.float32)
    path.write_bytes(b"head" + ones.tobytes() + bytes(1 << 20))
    weight = cuda.wrap(_core.Mapping(path)).view(4, 4 * WIDTH)
    assert fake.live("memory") == 0
    x, out = cuda.upload(X), cuda.buffer(4 * WIDTH, host=True)
    for _ in range(2):
        commands = cuda.queue().command_buffer(STEP)
        commands.dispatch(cuda.pipeline("rms_norm", weight_dtype=0), [x, weight, out], PARAMS)
        commands.commit()
        commands.wait()
    np.testing.assert_allclose(np.frombuffer(out, np.float32), NORMED, rtol=1e-6)
    assert cuda.memory()["allocated"] == x.nbytes + weight.nbytes
    assert cuda.download(weight) == ones.tobytes()


def test_a_mapped_file_cannot_be_written_to(cuda: _core.Device, tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(bytes(100))
    mapped = cuda.wrap(_core.Mapping(tmp_path / "weights"))
    with pytest.raises(DeviceError, match="read-only"):
        cuda.queue().command_buffer(STEP).zero(mapped)
    with pytest.raises(DeviceError, match="cannot write to a mapped file"):
        cuda.read_pool(1).submit(_core.File(tmp_path / "weights"), 0, 100, mapped)


@pytest.mark.parametrize("direct", [False, True])
def test_reads_of_any_size_and_offset_reach_the_device(
    cuda: _core.Device, tmp_path: Path, *, direct: bool
) -> None:
    content = np.random.default_rng(1).bytes(5_000_003)
    path = tmp_path / "experts"
    path.write_bytes(content)
    slots, pool = cuda.buffer(6_000_000), cuda.read_pool(3)
    file = _core.File(path, direct=direct)
    ranges = [(file, 4097, 3_000_001, 5), (file, 0, 4096, 4_000_000), (file, 4_999_000, 1003, 7)]
    for file_range in ranges:
        pool.submit_ranges(_core.ReadRanges([file_range]), slots).wait()
        _, offset, nbytes, place = file_range
        assert cuda.download(slots.view(place, nbytes)) == content[offset : offset + nbytes]


def test_checksums_are_of_what_arrived_on_the_device(cuda: _core.Device, tmp_path: Path) -> None:
    content = np.random.default_rng(2).bytes(2_500_000)
    path = tmp_path / "experts"
    path.write_bytes(content)
    slots, pool, file = cuda.buffer(3_000_000), cuda.read_pool(2), _core.File(path)
    ranges = _core.ReadRanges([(file, 0, 1_500_000, 0), (file, 1_500_000, 1_000_000, 1_500_000)])
    right = _core.crc32c(content)
    pool.submit_ranges(ranges, slots, checksum=right).wait()
    with pytest.raises(OSError, match="wanted checksum"):
        pool.submit_ranges(ranges, slots, checksum=right ^ 1).wait()


def test_a_short_file_is_a_read_error(cuda: _core.Device, tmp_path: Path) -> None:
    path = tmp_path / "experts"
    path.write_bytes(bytes(1_500_000))
    pool = cuda.read_pool(1)
    ticket = pool.submit(_core.File(path), 0, 2_000_000, cuda.buffer(2_000_000))
    with pytest.raises(OSError, match="read 1500000 of 2000000 bytes"):
        ticket.wait()


@pytest.mark.parametrize(
    "entry_point", ["cuMemcpyHtoDAsync_v2", "cuMemHostAlloc", "cuStreamCreate", "cuEventRecord"]
)
def test_a_read_whose_bytes_do_not_get_to_the_device_fails_once(
    fake: FakeCuda, cuda: _core.Device, tmp_path: Path, entry_point: str
) -> None:
    path = tmp_path / "experts"
    path.write_bytes(b"x" * 3_000_000)
    slots, pool, file = cuda.buffer(3_000_000), cuda.read_pool(1), _core.File(path)
    fake.fail(entry_point, OUT_OF_MEMORY)
    ticket = pool.submit(file, 0, 3_000_000, slots)
    with pytest.raises(DeviceError):
        ticket.wait()
    assert ticket.done
    pool.submit(file, 0, 3_000_000, slots).wait()
    assert cuda.download(slots) == b"x" * 3_000_000


@pytest.mark.parametrize("entry_point", ["cuEventRecord", "cuEventQuery"])
def test_a_read_is_done_only_when_no_copy_of_it_is_under_way(
    fake: FakeCuda, cuda: _core.Device, tmp_path: Path, entry_point: str
) -> None:
    path = tmp_path / "experts"
    path.write_bytes(b"x" * 1000)
    slots, pool, file = cuda.buffer(1000), cuda.read_pool(1), _core.File(path)
    pool.submit(file, 0, 1000, slots).wait()  # so that the stream is there to hang
    fake.hang()
    fake.fail(entry_point, INVALID_VALUE)
    ticket = pool.submit(file, 0, 1000, slots)
    with pytest.raises(ReadTimeoutError):
        ticket.wait(0.3)
    fake.go_on()
    with pytest.raises(DeviceError, match="read bytes to the GPU"):
        ticket.wait(60)
    assert ticket.done


def test_a_device_that_cannot_tell_what_is_under_way_is_lost(
    fake: FakeCuda, cuda: _core.Device, tmp_path: Path
) -> None:
    path = tmp_path / "experts"
    path.write_bytes(b"x" * 1000)
    slots, pool, file = cuda.buffer(1000), cuda.read_pool(1), _core.File(path)
    for entry_point in ("cuEventRecord", "cuStreamQuery"):
        fake.fail(entry_point, INVALID_VALUE)
    for _ in range(2):
        with pytest.raises(DeviceError, match="read bytes to the GPU"):
            pool.submit(file, 0, 1000, slots).wait()
