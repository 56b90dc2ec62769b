"""Records in the host's memory on the CUDA backend: page-locked or not, read through and copied."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fake_cuda import FakeCuda

from moeflux import _core
from moeflux.errors import DeviceError, ReadTimeoutError

OUT_OF_MEMORY = 2
NOT_SUPPORTED = 801
NBYTES = 5_000_003


@pytest.fixture
def content() -> bytes:
    return np.random.default_rng(3).bytes(NBYTES)


@pytest.fixture
def file(tmp_path: Path, content: bytes) -> _core.File:
    (tmp_path / "experts").write_bytes(content)
    return _core.File(tmp_path / "experts")


@pytest.mark.parametrize("refused", [None, OUT_OF_MEMORY, NOT_SUPPORTED])
def test_records_are_page_locked_unless_the_driver_refuses(
    fake: FakeCuda, cuda: _core.Device, file: _core.File, content: bytes, refused: int | None
) -> None:
    if refused is not None:
        fake.fail("cuMemHostAlloc", refused)
    record = cuda.record_memory(NBYTES)
    assert fake.live("host memory") == (1 if refused is None else 0)
    pool, ranges = cuda.read_pool(2), _core.ReadRanges([(file, 0, NBYTES, 0)])
    for filled in (False, True):
        slot = cuda.buffer(NBYTES)
        pool.submit_ranges(ranges, slot, record=record, filled=filled).wait()
        assert cuda.download(slot) == bytes(record) == cuda.download(record) == content


def test_kernels_get_no_memory_that_is_not_page_locked(fake: FakeCuda, cuda: _core.Device) -> None:
    fake.fail("cuMemHostAlloc", OUT_OF_MEMORY)
    record = cuda.record_memory(4096)
    commands = cuda.queue().command_buffer(_core.Step(0, 1))
    with pytest.raises(DeviceError, match="4096 bytes that are not page-locked"):
        commands.copy(record, cuda.buffer(4096))


@pytest.mark.parametrize("entry_point", ["cuMemcpyHtoDAsync_v2", "cuEventRecord", "cuEventQuery"])
@pytest.mark.parametrize("filled", [False, True])
def test_a_record_that_does_not_get_to_the_device_is_an_error(
    fake: FakeCuda,
    cuda: _core.Device,
    file: _core.File,
    content: bytes,
    entry_point: str,
    *,
    filled: bool,
) -> None:
    record, slot, pool = cuda.record_memory(NBYTES), cuda.buffer(NBYTES), cuda.read_pool(1)
    ranges = _core.ReadRanges([(file, 0, NBYTES, 0)])
    pool.submit_ranges(ranges, slot, record=record).wait()
    fake.fail(entry_point, OUT_OF_MEMORY)
    ticket = pool.submit_ranges(ranges, slot, record=record, filled=filled)
    with pytest.raises(DeviceError, match="read bytes to the GPU"):
        ticket.wait()
    assert ticket.done
    pool.submit_ranges(ranges, slot, record=record, filled=True).wait()
    assert cuda.download(slot) == content


def test_a_record_is_in_use_until_its_copy_has_ended(
    fake: FakeCuda, cuda: _core.Device, file: _core.File, content: bytes
) -> None:
    record, slot, pool = cuda.record_memory(NBYTES), cuda.buffer(NBYTES), cuda.read_pool(1)
    ranges = _core.ReadRanges([(file, 0, NBYTES, 0)])
    pool.submit_ranges(ranges, slot, record=record).wait()
    fake.hang()
    ticket = pool.submit_ranges(ranges, slot, record=record, filled=True)
    with pytest.raises(ReadTimeoutError):
        ticket.wait(0.2)
    assert not ticket.done
    fake.go_on()
    ticket.wait(60)
    assert cuda.download(slot) == content
