"""Buffers, views and mapped files over memory that CPU and GPU share."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
from fake_metal import STEP, FakeMetal, Norm, committed

from moeflux import _core
from moeflux.errors import DeviceError, OutOfMemoryError

pytestmark = pytest.mark.metal_bench


def mapped(tmp_path: Path, content: bytes) -> _core.Mapping:
    path = tmp_path / "weights"
    path.write_bytes(content)
    return _core.Mapping(path)


def test_d3_buffer_of_no_bytes_is_refused_before_metal_is_asked(
    metal: _core.Device, fake: FakeMetal
) -> None:
    before = fake.live_objects()
    with pytest.raises(ValueError, match="at least 1 byte, got 0"):
        metal.buffer(0)
    with pytest.raises(ValueError, match="at least 1 byte, got 0"):
        metal.upload(b"")
    assert fake.live_objects() == before


@pytest.mark.parametrize("nbytes", [1, 100, 4096, (2 << 20) - 1, 2 << 20, 3_000_001])
def test_d4_buffers_read_as_zeros_though_the_system_hands_out_dirt(
    metal: _core.Device, nbytes: int
) -> None:
    assert metal.download(metal.buffer(nbytes)) == bytes(nbytes)


@pytest.mark.parametrize("nbytes", [2 << 20, 5_000_000])
def test_large_buffers_are_aligned_for_direct_reads(metal: _core.Device, nbytes: int) -> None:
    array = np.frombuffer(metal.buffer(nbytes, host=True), np.uint8)
    assert array.ctypes.data % (2 << 20) == 0


def test_device_buffer_refuses_host_access(metal: _core.Device) -> None:
    with pytest.raises(BufferError, match="host=True"):
        memoryview(metal.buffer(16))


def test_host_buffer_shares_its_bytes_with_kernels(metal: _core.Device) -> None:
    norm = Norm(metal)
    committed(metal, norm=norm).wait()
    norm.check()


def test_upload_and_download_copy(metal: _core.Device) -> None:
    assert metal.download(metal.upload(bytes(range(10))).view(3, 4)) == bytes([3, 4, 5, 6])


def test_b2_views_share_one_allocation_that_goes_with_the_last_of_them(
    metal: _core.Device, fake: FakeMetal
) -> None:
    before = fake.live_objects(), metal.memory()["resident"]
    buffer = metal.buffer(1000, host=True)
    view = buffer.view(8, 8)
    assert fake.live_objects() == before[0] + 1
    del buffer
    gc.collect()
    assert fake.live_objects() == before[0] + 1
    assert metal.memory()["resident"] == before[1] + 1000
    del view
    gc.collect()
    # The residency set itself lets go with the next commit.
    committed(metal).wait()
    gc.collect()
    assert metal.memory()["resident"] == before[1]


def test_b3_view_beyond_the_end_is_refused(metal: _core.Device) -> None:
    with pytest.raises(ValueError, match="beyond a buffer of 100 bytes"):
        metal.buffer(100).view(50, 51)


def test_b3_binding_a_view_binds_its_offset(metal: _core.Device) -> None:
    norm = Norm(metal)
    whole = metal.buffer(4 * 256, host=True)
    norm.buffers[2] = whole.view(512, 256)
    committed(metal, norm=norm).wait()
    out = np.frombuffer(whole, np.float32)
    np.testing.assert_allclose(out[128:192], norm.wanted, rtol=1e-5)
    assert not out[:128].any()
    assert not out[192:].any()


def test_b4_bytes_of_a_view_are_those_of_its_range(metal: _core.Device) -> None:
    buffer = metal.buffer(100, host=True)
    np.frombuffer(buffer, np.uint8)[:] = np.arange(100)
    assert bytes(buffer.view(10, 50).view(5, 3)) == bytes([15, 16, 17])


@pytest.mark.parametrize("nbytes", [1000, 4 << 20])
def test_d6_buffer_that_metal_refuses_is_out_of_memory(
    metal: _core.Device, fake: FakeMetal, nbytes: int
) -> None:
    fake["nil_buffers"] = 1
    before = fake.live_objects()
    with pytest.raises(OutOfMemoryError, match=f"no room for a buffer of {nbytes} bytes") as caught:
        metal.buffer(nbytes)
    assert caught.value.nbytes == nbytes
    assert isinstance(caught.value, MemoryError)
    assert fake.live_objects() == before
    assert metal.buffer(nbytes).nbytes == nbytes


def test_buffer_longer_than_the_device_allows_names_its_limit(
    metal: _core.Device, fake: FakeMetal
) -> None:
    fake["longest_buffer"] = 1 << 20
    with pytest.raises(OutOfMemoryError, match=f"the device's largest has {1 << 20}"):
        metal.buffer((1 << 20) + 1)


def test_buffer_whose_pages_overflow_is_out_of_memory(metal: _core.Device) -> None:
    with pytest.raises(OutOfMemoryError):
        metal.buffer(2**63 - 1)


def test_wrapped_file_is_a_buffer_without_a_copy(metal: _core.Device, tmp_path: Path) -> None:
    """Its length is no multiple of a page; Metal is given whole pages."""
    content = np.random.default_rng(0).bytes(10_001)
    before = metal.memory()["allocated"]
    buffer = metal.wrap(mapped(tmp_path, content))
    gc.collect()
    assert (buffer.nbytes, buffer.host) == (10_001, False)
    assert metal.memory()["allocated"] - before == 3 * 4096
    assert metal.download(buffer) == content
    (tmp_path / "weights").write_bytes(bytes(10_001))
    assert metal.download(buffer) == bytes(10_001)


def test_wrapped_file_stays_mapped_while_committed_work_reads_it(
    metal: _core.Device, fake: FakeMetal, tmp_path: Path
) -> None:
    fake["delay_us"] = 50_000
    content = np.random.default_rng(1).bytes(8192)
    out = metal.buffer(8192)
    commands = metal.queue().command_buffer(STEP)
    commands.copy(metal.wrap(mapped(tmp_path, content)), out)
    commands.commit()
    gc.collect()
    commands.wait()
    assert metal.download(out) == content


def test_wrapped_file_cannot_be_written_to(metal: _core.Device, tmp_path: Path) -> None:
    buffer = metal.wrap(mapped(tmp_path, bytes(100)))
    commands = metal.queue().command_buffer(STEP)
    with pytest.raises(DeviceError, match="read-only"):
        commands.zero(buffer)
    with pytest.raises(DeviceError, match="read-only"):
        commands.copy(metal.buffer(100), buffer)


def test_file_that_metal_refuses_to_map_is_an_error(
    metal: _core.Device, fake: FakeMetal, tmp_path: Path
) -> None:
    fake["nil_buffers"] = 1
    mapping = mapped(tmp_path, bytes(100))
    with pytest.raises(DeviceError, match="cannot map a file of 100 bytes"):
        metal.wrap(mapping)


def test_reads_go_into_device_buffers(metal: _core.Device, tmp_path: Path) -> None:
    """Slots of experts: host=False, yet the read pool fills them."""
    content = np.random.default_rng(2).bytes(3 << 20)
    (tmp_path / "experts").write_bytes(content)
    slot = metal.buffer(3 << 20)
    pool = metal.read_pool(2)
    pool.submit(_core.File(tmp_path / "experts"), 0, 3 << 20, slot).wait()
    assert metal.download(slot) == content


def test_buffers_of_another_device_are_refused(metal: _core.Device) -> None:
    foreign = _core.open_device("cpu", 1).buffer(64)
    commands = metal.queue().command_buffer(STEP)
    for use in (
        lambda: commands.zero(foreign),
        lambda: commands.copy(foreign, metal.buffer(64)),
        lambda: commands.dispatch(Norm(metal).pipeline, [foreign] * 3, bytes(8)),
    ):
        with pytest.raises(DeviceError, match="buffer of another device"):
            use()
