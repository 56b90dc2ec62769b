"""Buffers and mappings: host access, views, lifetimes."""

import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from moeflux import _core
from moeflux.errors import DeviceError, OutOfMemoryError

RandomFile = Callable[[int], tuple[Path, bytes]]


def test_buffer_is_zeroed(cpu: _core.Device) -> None:
    for nbytes in (1, 4096, 3_000_001):
        buffer = cpu.buffer(nbytes)
        assert buffer.nbytes == nbytes
        assert cpu.download(buffer) == bytes(nbytes)


def test_large_buffers_are_aligned_for_direct_reads(cpu: _core.Device) -> None:
    for nbytes in (2 << 20, 5_000_000):
        array = np.frombuffer(cpu.buffer(nbytes, host=True), np.uint8)
        assert array.ctypes.data % (2 << 20) == 0


def test_buffer_of_no_bytes_is_refused(cpu: _core.Device) -> None:
    for nbytes in (0, -1):
        with pytest.raises(ValueError, match=str(nbytes)):
            cpu.buffer(nbytes)


def test_buffer_without_room_is_a_memory_error(cpu: _core.Device) -> None:
    with pytest.raises(OutOfMemoryError, match=str(1 << 60)) as caught:
        cpu.buffer(1 << 60)
    assert caught.value.nbytes == 1 << 60
    assert isinstance(caught.value, MemoryError)


def test_host_buffer_shares_its_bytes_with_numpy(cpu: _core.Device) -> None:
    buffer = cpu.buffer(16, host=True)
    assert buffer.host
    np.frombuffer(buffer, np.int32)[:] = [1, 2, 3, 4]
    assert np.frombuffer(buffer, np.int32).tolist() == [1, 2, 3, 4]
    assert cpu.download(buffer) == np.array([1, 2, 3, 4], np.int32).tobytes()


def test_device_buffer_refuses_host_access_and_says_why(cpu: _core.Device) -> None:
    buffer = cpu.buffer(16)
    assert not buffer.host
    for access in (memoryview, lambda data: np.frombuffer(data, np.uint8)):
        with pytest.raises(BufferError, match="host=True"):
            access(buffer)


def test_array_keeps_the_bytes_of_its_buffer(cpu: _core.Device) -> None:
    array = np.frombuffer(cpu.buffer(4 << 20, host=True), np.int32)
    array[:] = 7
    gc.collect()
    others = [cpu.buffer(4 << 20, host=True) for _ in range(4)]
    assert (array == 7).all()
    assert len(others) == 4


def test_view_shares_the_bytes_of_its_buffer(cpu: _core.Device) -> None:
    buffer = cpu.buffer(100, host=True)
    np.frombuffer(buffer, np.uint8)[:] = np.arange(100)
    view = buffer.view(10, 50).view(5, 3)
    assert (view.nbytes, view.host) == (3, True)
    assert bytes(view) == bytes([15, 16, 17])


def test_view_of_a_device_buffer_refuses_host_access(cpu: _core.Device) -> None:
    with pytest.raises(BufferError):
        memoryview(cpu.buffer(16).view(0, 4))


@pytest.mark.parametrize(
    ("offset", "nbytes"), [(0, 101), (101, 0), (50, 51), (-1, 1), (0, -1), (1, 2**63 - 1)]
)
def test_view_beyond_the_end_is_refused(cpu: _core.Device, offset: int, nbytes: int) -> None:
    with pytest.raises(ValueError, match=r"beyond a buffer of 100 bytes|must not be negative"):
        cpu.buffer(100).view(offset, nbytes)


def test_upload_copies_contiguous_data(cpu: _core.Device) -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    buffer = cpu.upload(array)
    array[:] = 0
    assert not buffer.host
    assert cpu.download(buffer) == np.arange(12, dtype=np.float32).tobytes()
    assert cpu.download(cpu.upload(b"moeflux")) == b"moeflux"


def test_upload_of_data_with_gaps_is_refused(cpu: _core.Device) -> None:
    with pytest.raises((ValueError, BufferError), match="contiguous"):
        cpu.upload(np.arange(12)[::2])


def test_upload_of_nothing_is_refused(cpu: _core.Device) -> None:
    with pytest.raises(ValueError, match="at least 1 byte"):
        cpu.upload(b"")


def test_download_of_a_view(cpu: _core.Device) -> None:
    assert cpu.download(cpu.upload(bytes(range(10))).view(3, 4)) == bytes([3, 4, 5, 6])


def test_mapping_shows_the_file(random_file: RandomFile) -> None:
    path, content = random_file(10_001)
    mapping = _core.Mapping(path)
    assert mapping.nbytes == 10_001
    assert bytes(mapping) == content
    assert memoryview(_core.Mapping(str(path))).readonly


def test_array_keeps_its_mapping(random_file: RandomFile) -> None:
    path, content = random_file(10_001)
    array = np.frombuffer(_core.Mapping(path), np.uint8)
    gc.collect()
    assert array.tobytes() == content


def test_wrapped_mapping_is_a_device_buffer_without_a_copy(
    cpu: _core.Device, random_file: RandomFile
) -> None:
    path, content = random_file(10_001)
    buffer = cpu.wrap(_core.Mapping(path))
    gc.collect()
    assert (buffer.nbytes, buffer.host) == (10_001, False)
    assert cpu.download(buffer) == content
    path.write_bytes(bytes(10_001))
    assert cpu.download(buffer) == bytes(10_001)


def test_wrapped_mapping_cannot_be_written_to(cpu: _core.Device, random_file: RandomFile) -> None:
    buffer = cpu.wrap(_core.Mapping(random_file(100)[0]))
    commands = cpu.queue().command_buffer(_core.Step(0, 1))
    with pytest.raises(DeviceError, match="read-only"):
        commands.zero(buffer)
    with pytest.raises(DeviceError, match="read-only"):
        commands.copy(cpu.buffer(100), buffer)


def test_mapping_of_a_missing_file_names_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        _core.Mapping(tmp_path / "absent")
    assert caught.value.filename == str(tmp_path / "absent")


def test_mapping_of_a_folder_or_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        _core.Mapping(tmp_path)
    (tmp_path / "empty").touch()
    with pytest.raises(ValueError, match="empty"):
        _core.Mapping(tmp_path / "empty")


@pytest.mark.skipif(sys.platform != "linux", reason="the resident size comes from the kernel")
def test_populated_memory_becomes_resident_without_being_touched(cpu: _core.Device) -> None:
    nbytes = 64 << 20
    before = psutil.Process().memory_info().rss
    buffer = cpu.buffer(nbytes)
    buffer.populate()
    deadline = time.monotonic() + 60
    while psutil.Process().memory_info().rss - before < 0.9 * nbytes:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not any(cpu.download(buffer))


def test_population_ends_with_its_buffer_and_changes_no_byte(cpu: _core.Device) -> None:
    for _ in range(20):
        buffer = cpu.buffer(32 << 20, host=True)
        array = np.frombuffer(memoryview(buffer), np.uint8)
        buffer.populate()
        buffer.populate()
        array[-4096:] = 7
        assert (array[-4096:] == 7).all()
        del array, buffer
