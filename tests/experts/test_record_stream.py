"""A stream whose experts go through records: against the bytes of the files themselves."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from moeflux import _core
from moeflux.checkpoint import Checkpoint, LayerExperts
from moeflux.checkpoint.convert import convert
from moeflux.engine.dry_run import DryDevice
from moeflux.errors import DeviceError, ExpertReadError
from moeflux.experts.lease import Demand
from moeflux.experts.reads import ReadMode, ReadSettings, Verify
from moeflux.experts.stream import ExpertStream, StreamSettings
from moeflux.models import load_model
from tiny_checkpoint import TinyModel, write_mlx

TOP_K, N_EXPERTS = 2, 8


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("records")
    write_mlx(TinyModel(), root / "untouched")
    convert(root / "untouched", root / "packed")
    return {"untouched": root / "untouched", "packed": root / "packed"}


@pytest.fixture
def folder(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A packed checkpoint that may be altered."""
    return Path(shutil.copytree(folders["packed"], tmp_path / "packed"))


Make = Callable[..., ExpertStream]


@pytest.fixture
def make() -> Iterator[Make]:
    """Streams that are closed at the end."""
    made: list[ExpertStream] = []

    def make(
        folder: Path,
        n_slots: int,
        n_records: int,
        device: _core.Device | None = None,
        **reads: object,
    ) -> ExpertStream:
        settings = StreamSettings(
            n_slots,
            n_records,
            prefetch="off",
            reads=ReadSettings(mode=ReadMode.PAGE_CACHE, **reads),  # type: ignore[arg-type]
        )
        device = device or _core.open_device("cpu")
        made.append(ExpertStream(device, experts_of(folder), TOP_K, settings))
        return made[-1]

    yield make
    for stream in made:
        stream.release_all()
        stream.close()


class WatchedReads:
    """A device whose read pool notes how many ranges each submission has, by whether it copies."""

    def __init__(self) -> None:
        self.n_ranges: list[tuple[bool, int]] = []
        self._device = _core.open_device("cpu")

    def __getattr__(self, name: str) -> object:
        return getattr(self._device, name)

    def read_pool(self, n_workers: int) -> object:
        pool, n_ranges = self._device.read_pool(n_workers), self.n_ranges

        class Pool:
            def __getattr__(self, name: str) -> object:
                return getattr(pool, name)

            def submit_ranges(self, ranges: _core.ReadRanges, *rest: Any) -> object:
                n_ranges.append((bool(rest[-1]), len(ranges)))
                return pool.submit_ranges(ranges, *rest)

        return Pool()


def experts_of(folder: Path) -> list[LayerExperts]:
    loaded = load_model(Checkpoint.open(folder), DryDevice().as_device())
    return [layer for layer in loaded.experts if layer is not None]


def in_files(layer: LayerExperts, expert: int) -> bytes:
    """The record, put together from the files."""
    record = bytearray(layer.record_nbytes)
    for part in layer.ranges(expert):
        with part.path.open("rb") as file:
            file.seek(part.offset)
            read = file.read(part.nbytes)
        record[part.record_offset : part.record_offset + part.nbytes] = read
    return bytes(record)


def in_slot(stream: ExpertStream, slot: int, nbytes: int) -> bytes:
    device = _core.open_device("cpu")
    return device.download(stream.slots.view(slot * stream.slot_nbytes, nbytes))


def fetched(stream: ExpertStream, layer: int, experts: list[int]) -> list[bytes]:
    """The bytes in the slots of some experts, which are released."""
    slots = stream.fetch(layer, experts)
    nbytes = stream.record_nbytes[layer]
    found = [in_slot(stream, slots[expert], nbytes) for expert in experts]
    stream.release_all()
    return found


def corrupt(path: Path) -> None:
    with path.open("r+b") as file:
        first = file.read(64)
        file.seek(0)
        file.write(bytes(byte ^ 1 for byte in first))


def test_a_record_is_copied_at_once_however_many_ranges_its_read_had(
    make: Make, folders: dict[str, Path]
) -> None:
    watched, layer = WatchedReads(), experts_of(folders["untouched"])[0]
    device = cast(_core.Device, watched)
    stream = make(folders["untouched"], 2, 8, device=device, verify=Verify.OFF)
    watched.n_ranges.clear()
    for expert in (0, 1, 2, 0):
        assert fetched(stream, 0, [expert]) == [in_files(layer, expert)]
    assert watched.n_ranges == [(False, 9), (False, 9), (False, 9), (True, 1)]


@pytest.mark.parametrize("kind", ["untouched", "packed"])
@pytest.mark.parametrize(("n_slots", "n_records"), [(2, 1), (2, 3), (3, 12), (4, 32)])
def test_slots_have_the_bytes_of_the_files(
    make: Make, folders: dict[str, Path], kind: str, n_slots: int, n_records: int
) -> None:
    layers = experts_of(folders[kind])
    stream = make(folders[kind], n_slots, n_records, n_parts=2)
    draw = random.Random(n_slots * n_records)
    for _ in range(150):
        layer, experts = draw.randrange(len(layers)), draw.sample(range(N_EXPERTS), TOP_K)
        expected = [in_files(layers[layer], expert) for expert in experts]
        assert fetched(stream, layer, experts) == expected
    assert (stream.counters.n_copies > 0) == (n_records > 1)


def test_copies_and_reads_add_up_to_what_was_missed(make: Make, folders: dict[str, Path]) -> None:
    stream = make(folders["packed"], 2, 32)
    for _ in range(3):
        for layer in range(4):
            for experts in ([0, 1], [2, 3]):
                fetched(stream, layer, experts)
    counters = stream.counters
    assert (counters.n_missed, counters.n_reads, counters.n_copies) == (48, 16, 32)
    assert counters.bytes_read == 16 * stream.record_nbytes[0]
    assert counters.bytes_copied == 32 * stream.record_nbytes[0]


def test_prefill_leaves_the_records_of_decode(make: Make, folders: dict[str, Path]) -> None:
    stream = make(folders["packed"], 2, 4)
    fetched(stream, 0, [0, 1])
    for expert in range(2, N_EXPERTS):
        stream.fetch(0, [expert], Demand.PREFILL)
        stream.release_all()
    n_reads = stream.counters.n_reads
    fetched(stream, 0, [0, 1])
    assert stream.counters.n_reads == n_reads


def test_a_failed_read_leaves_no_record_behind(make: Make, folder: Path) -> None:
    (layer, *_) = experts_of(folder)
    expected = in_files(layer, N_EXPERTS - 1)
    stream = make(folder, 2, 32, n_retries=0)
    (path,) = layer.paths
    content = path.read_bytes()
    os.truncate(path, len(content) - layer.record_nbytes // 2)
    with pytest.raises(ExpertReadError, match=f"layer 0 expert {N_EXPERTS - 1}: read") as caught:
        stream.fetch(0, [0, N_EXPERTS - 1])
    assert caught.value.got < caught.value.wanted
    stream.invalidate()
    stream.release_all()
    path.write_bytes(content)
    assert fetched(stream, 0, [N_EXPERTS - 1]) == [expected]
    assert stream.counters.n_copies == 0


def test_wrong_bytes_of_the_drive_are_no_record(make: Make, folder: Path) -> None:
    (layer, *_) = experts_of(folder)
    expected = in_files(layer, 0)
    stream = make(folder, 2, 32, n_retries=0, verify=Verify.ALWAYS)
    (path,) = layer.paths
    content = path.read_bytes()
    corrupt(path)
    with pytest.raises(ExpertReadError, match="wanted checksum"):
        stream.fetch(0, [0])
    stream.invalidate()
    stream.release_all()
    path.write_bytes(content)
    assert fetched(stream, 0, [0]) == [expected]


def test_a_record_whose_bytes_have_changed_is_read_again(make: Make, folder: Path) -> None:
    stream = make(folder, 2, 32, n_retries=1, verify=Verify.ALWAYS)
    (layer, *_) = experts_of(folder)
    fetched(stream, 0, [0, 1])
    fetched(stream, 0, [2, 3])
    assert stream.records is not None
    (block,) = stream.records.memory._blocks.values()
    np.frombuffer(memoryview(block), np.uint8)[:] ^= 1
    assert fetched(stream, 0, [0]) == [in_files(layer, 0)]
    assert (stream.counters.n_failed_reads, stream.counters.n_reads) == (1, 5)


def test_memory_that_cannot_be_had_is_an_error_and_nothing_is_held(
    make: Make, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = make(folders["packed"], 2, 32)
    with monkeypatch.context() as patched:
        patched.setattr("moeflux.experts.records.BLOCK_NBYTES", 0)
        assert stream.records is not None
        patched.setattr(stream.records.memory, "_record_nbytes", 1 << 55)
        with pytest.raises(DeviceError, match="no room for a buffer"):
            stream.fetch(0, [0, 1])
    stream.invalidate()
    stream.release_all()
    (layer, *_) = experts_of(folders["packed"])
    assert fetched(stream, 0, [0]) == [in_files(layer, 0)]
