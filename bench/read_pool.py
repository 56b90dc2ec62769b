"""How fast the read pool fills buffers from a file, by worker count, block size and read mode.

Reads a file of its own (or --file) at random block-aligned offsets: page cache cold (pages dropped
before each run), warm, and direct. Prints tables in GB/s; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import moeflux
from moeflux import _core

if TYPE_CHECKING:
    from collections.abc import Iterator

MODES = ("cold", "warm", "direct")
MIB = 1 << 20


@dataclass(frozen=True)
class Measurement:
    mode: str
    n_workers: int
    block_nbytes: int
    gigabytes_per_second: float
    median_read_seconds: float


@contextmanager
def data_file(path: Path | None, nbytes: int, folder: Path | None) -> Iterator[Path]:
    """The given file, or a temporary one of incompressible bytes."""
    if path is not None:
        yield path
        return
    with tempfile.NamedTemporaryFile(dir=folder, prefix="moeflux_read_pool_") as file:
        block = os.urandom(16 * MIB)
        for _ in range(-(-nbytes // len(block))):
            file.write(block)
        file.truncate(nbytes)
        file.flush()
        os.fsync(file.fileno())
        yield Path(file.name)


def drop_page_cache(path: Path) -> None:
    """Forget the file's clean pages; only where the system can (not on macOS)."""
    if not hasattr(os, "posix_fadvise"):
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def warm_page_cache(path: Path) -> None:
    with path.open("rb") as file:
        while file.read(16 * MIB):
            pass


def touched_slots(device: _core.Device, n_slots: int, nbytes: int) -> list[_core.Buffer]:
    """Buffers whose pages are there already, so that no read pays for them."""
    slots = [device.buffer(nbytes) for _ in range(n_slots)]
    commands = device.queue().command_buffer(_core.Step(0, 1), "touch")
    for slot in slots:
        commands.zero(slot)
    commands.commit()
    commands.wait()
    return slots


def measure(
    device: _core.Device, path: Path, mode: str, n_workers: int, block_nbytes: int
) -> Measurement:
    """Reads every block of the file once, in random order, keeping all workers busy."""
    if mode == "warm":
        warm_page_cache(path)
    else:
        drop_page_cache(path)
    file = _core.File(path, direct=mode == "direct")
    offsets = list(range(0, file.nbytes - block_nbytes + 1, block_nbytes))
    random.Random(0).shuffle(offsets)
    pool = device.read_pool(n_workers)
    slots = touched_slots(device, 2 * n_workers, block_nbytes)
    start = time.perf_counter()
    tickets: list[_core.ReadTicket] = []
    for i, offset in enumerate(offsets):
        if i >= len(slots):
            tickets[i - len(slots)].wait()
        tickets.append(pool.submit(file, offset, block_nbytes, slots[i % len(slots)]))
    pool.drain()
    elapsed = time.perf_counter() - start
    for ticket in tickets:
        ticket.wait()
    pool.close()
    seconds = sorted(ticket.seconds for ticket in tickets)
    rate = len(offsets) * block_nbytes / elapsed / 1e9
    return Measurement(mode, n_workers, block_nbytes, round(rate, 3), seconds[len(seconds) // 2])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", type=Path, help="read this file instead of a temporary one")
    parser.add_argument("--folder", type=Path, help="where the temporary file is made")
    parser.add_argument("--megabytes", type=int, default=512, help="size of the temporary file")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--block-kib", type=int, nargs="+", default=[256, 1024, 2048, 8192])
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    return parser.parse_args()


def main() -> None:
    options = arguments()
    device = _core.open_device("cpu", n_threads=1)
    measurements: list[Measurement] = []
    with data_file(options.file, options.megabytes * MIB, options.folder) as path:
        for mode in options.modes:
            print(f"{mode}: GB/s by workers (down) and block size in KiB (across)")
            print("".join([f"{'':>8}", *(f"{kib:>10}" for kib in options.block_kib)]))
            for n_workers in options.workers:
                row = [
                    measure(device, path, mode, n_workers, kib * 1024) for kib in options.block_kib
                ]
                measurements += row
                print(
                    "".join(
                        [f"{n_workers:>8}", *(f"{one.gigabytes_per_second:>10.2f}" for one in row)]
                    )
                )
        nbytes = path.stat().st_size
    result = {
        "bench": "read_pool",
        "moeflux": moeflux.__version__,
        "device": device.description,
        "file_nbytes": nbytes,
        "measurements": [asdict(measurement) for measurement in measurements],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
