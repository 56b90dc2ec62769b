"""Expert streams over the fake driver: slots, records and the drive, and calls that fail."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_cuda import FakeCuda

from moeflux import _core
from moeflux.checkpoint import Checkpoint, LayerExperts
from moeflux.engine.budget import DeviceMemory
from moeflux.engine.dry_run import DryDevice
from moeflux.errors import DeviceError
from moeflux.experts.reads import ReadMode, ReadSettings
from moeflux.experts.stream import ExpertStream, StreamSettings
from moeflux.models import load_model
from tiny_checkpoint import CheckpointFolders

OUT_OF_MEMORY = 2
INVALID_VALUE = 1
TOP_K, N_EXPERTS = 2, 8


@pytest.fixture
def layers(tiny_folder: CheckpointFolders) -> list[LayerExperts]:
    checkpoint = Checkpoint.open(tiny_folder("qwen3_moe"))
    loaded = load_model(checkpoint, DryDevice().as_device())
    return [layer for layer in loaded.experts if layer is not None]


Make = Callable[..., ExpertStream]


@pytest.fixture
def make(cuda: _core.Device, layers: list[LayerExperts]) -> Iterator[Make]:
    made: list[ExpertStream] = []

    def make(n_slots: int, n_records: int, prefetch: str = "off") -> ExpertStream:
        reads = ReadSettings(mode=ReadMode.PAGE_CACHE, n_workers=3, n_parts=2)
        settings = StreamSettings(n_slots, n_records, prefetch=prefetch, reads=reads)
        made.append(ExpertStream(cuda, layers, TOP_K, settings))
        return made[-1]

    yield make
    for stream in made:
        stream.release_all()
        stream.close()


def in_files(layer: LayerExperts, expert: int) -> bytes:
    record = bytearray(layer.record_nbytes)
    for part in layer.ranges(expert):
        with Path(part.path).open("rb") as file:
            file.seek(part.offset)
            read = file.read(part.nbytes)
        record[part.record_offset : part.record_offset + part.nbytes] = read
    return bytes(record)


def check(
    cuda: _core.Device, stream: ExpertStream, layers: list[LayerExperts], draw: random.Random
) -> None:
    """Fetch random experts of a random layer; what is in their slots is what is in the files."""
    layer, experts = draw.randrange(len(layers)), draw.sample(range(N_EXPERTS), TOP_K)
    nbytes = layers[layer].record_nbytes
    for expert, slot in stream.fetch(layer, experts).items():
        view = stream.slots.view(slot * stream.slot_nbytes, nbytes)
        assert cuda.download(view) == in_files(layers[layer], expert)
    stream.release_all()


@pytest.mark.parametrize("n_records", [0, 3, 12, 32])
def test_slots_have_the_bytes_of_the_files(
    cuda: _core.Device, layers: list[LayerExperts], make: Make, n_records: int
) -> None:
    stream, draw = make(3, n_records, "previous-token"), random.Random(n_records)
    for step in range(120):
        if step % 4 == 0:
            stream.begin_token()
        check(cuda, stream, layers, draw)
    assert (stream.counters.n_copies > 0) == (n_records > 0)


def test_records_that_may_not_be_page_locked_are_as_good(
    fake: FakeCuda, cuda: _core.Device, layers: list[LayerExperts], make: Make
) -> None:
    stream, draw = make(3, 32), random.Random(1)
    fake.fail("cuMemHostAlloc", OUT_OF_MEMORY)  # the next is for records
    for _ in range(60):
        check(cuda, stream, layers, draw)
    n_lanes = fake.live("stream") - 2
    assert fake.live("host memory") == n_lanes
    assert stream.counters.n_copies > 0


@pytest.mark.parametrize("n_records", [0, 12])
@pytest.mark.parametrize(
    "entry_point", ["cuMemcpyHtoDAsync_v2", "cuEventRecord", "cuEventQuery", "cuStreamCreate"]
)
def test_a_copy_that_fails_is_an_error_and_never_a_wrong_byte(
    fake: FakeCuda,
    cuda: _core.Device,
    layers: list[LayerExperts],
    make: Make,
    entry_point: str,
    n_records: int,
) -> None:
    stream, draw, n_errors = make(3, n_records), random.Random(7), 0
    for step in range(120):
        if step % 3 == 0:
            fake.fail(entry_point, INVALID_VALUE, after=step % 7)
        try:
            check(cuda, stream, layers, draw)
        except DeviceError:
            n_errors += 1
            stream.invalidate()
            stream.release_all()
            assert stream.residency.drained
    assert n_errors > 0


def test_what_a_stream_takes_is_what_the_device_tells_of_staging(
    fake: FakeCuda, cuda: _core.Device, layers: list[LayerExperts], make: Make
) -> None:
    own = DeviceMemory.of(cuda)
    assert own is not None
    used_before = own.total_nbytes - cuda.memory()["free"]
    stream, draw = make(3, 32), random.Random(2)
    for _ in range(60):
        check(cuda, stream, layers, draw)
    assert stream.records is not None
    # The fake counts page-locked memory as its own, and rounds nothing up.
    used = own.total_nbytes - cuda.memory()["free"] - used_before
    known = stream.slots.nbytes + stream.records.memory.nbytes
    assert known < used <= known + 3 * own.staging_nbytes + (4 << 20)
    assert fake.live("stream") <= 2 + 3
