"""How fast the drive under a folder is read, past the page cache and through it."""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from secrets import SystemRandom

import psutil

from moeflux._core import Buffer, Device, File, ReadTicket
from moeflux.doctor.failures import EXPECTED, told
from moeflux.doctor.findings import Finding, Status
from moeflux.memory import available_memory, format_size

BLOCK_NBYTES = 2 * 2**20
"""Of one read, about an expert."""
LEAST_FILE_NBYTES = 4 * BLOCK_NBYTES
WRITTEN_NBYTES = 256 * 2**20
"""Of the file that is written where there is none to read."""
MEASURED_SECONDS = 0.4
"""Per number of workers."""
N_WORKERS = (1, 4, 8, 16)
PAGE_CACHE_WORKERS = 8
LEAST_NBYTES_PER_SECOND = 200e6
READ_TIMEOUT = 20.0

SLOW = (
    "Experts would wait for this drive: keep models on an NVMe drive inside the machine, not on "
    "a network or hard disk, or give moeflux memory for more of them."
)
REFUSED = "Give a folder that you may write to, or one with a model that you may read."
BROKEN = "Look for errors of the drive and its file system in the system's log."


@dataclass(frozen=True)
class Drive:
    """A file on it, and the device whose read pools read it."""

    device: Device
    file: Path

    def blocks(self, *, direct: bool) -> Iterator[bytes]:
        """The first and the last whole block. Raises ReadError, OSError."""
        file, pool = File(self.file, direct), self.device.read_pool(1)
        try:
            for index in (0, file.nbytes // BLOCK_NBYTES - 1):
                buffer = self.device.buffer(BLOCK_NBYTES)
                pool.submit(file, index * BLOCK_NBYTES, BLOCK_NBYTES, buffer).wait(READ_TIMEOUT)
                yield self.device.download(buffer)
        finally:
            pool.close()

    def nbytes_per_second(self, n_workers: int, *, direct: bool, once: bool = False) -> float:
        """Of blocks in random order, over and over or each `once`. Raises ReadError, OSError."""
        file, pool = File(self.file, direct), self.device.read_pool(n_workers)
        order = list(range(file.nbytes // BLOCK_NBYTES))
        SystemRandom().shuffle(order)
        free = [self.device.buffer(BLOCK_NBYTES) for _ in range(2 * n_workers)]
        under_way: deque[tuple[ReadTicket, Buffer]] = deque()
        n_submitted, started = 0, time.perf_counter()
        try:
            while time.perf_counter() - started < MEASURED_SECONDS:
                if once and n_submitted == len(order):
                    break
                offset = BLOCK_NBYTES * order[n_submitted % len(order)]
                buffer = free.pop()
                under_way.append((pool.submit(file, offset, BLOCK_NBYTES, buffer), buffer))
                n_submitted += 1
                if not free:
                    free.append(_finished(under_way))
            while under_way:
                _finished(under_way)
            return n_submitted * BLOCK_NBYTES / (time.perf_counter() - started)
        finally:
            pool.close()

    def drop_from_page_cache(self) -> bool:
        """Whether the system takes such advice."""
        if not hasattr(os, "posix_fadvise"):
            return False
        with self.file.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return True

    @property
    def file_system(self) -> str:
        """The kind, "unknown" where the system does not tell."""
        mounts = [
            part
            for part in psutil.disk_partitions(all=True)
            if self.file.resolve().is_relative_to(part.mountpoint)
        ]
        longest = max(mounts, key=lambda part: len(part.mountpoint), default=None)
        return longest.fstype if longest is not None and longest.fstype else "unknown"


def check_drive(device: Device, folder: Path, name: str) -> Iterator[Finding]:
    """Read the largest file in `folder`, or one that is written there for the purpose.

    `name` stands for the folder in what is said.
    """
    try:
        with _file_to_read(folder) as path:
            drive = Drive(device, path)
            said = f"{format_size(path.stat().st_size)} in {name}, file system {drive.file_system}"
            yield Finding("drive", "file", Status.OK, said)
            yield _same_bytes(drive)
            yield _direct(drive)
            yield _page_cache(drive)
    except PermissionError as failure:
        yield Finding("drive", "reads", Status.PROBLEM, told(failure), REFUSED)
    except EXPECTED as failure:
        yield Finding("drive", "reads", Status.PROBLEM, told(failure), BROKEN)


def _same_bytes(drive: Drive) -> Finding:
    with drive.file.open("rb") as file:
        first = file.read(BLOCK_NBYTES)
        file.seek((drive.file.stat().st_size // BLOCK_NBYTES - 1) * BLOCK_NBYTES)
        wanted = [first, file.read(BLOCK_NBYTES)]
    if list(drive.blocks(direct=False)) == wanted:
        return Finding("drive", "bytes", Status.OK, "read as the system reads them")
    return Finding("drive", "bytes", Status.PROBLEM, "other bytes than the system reads", BROKEN)


def _direct(drive: Drive) -> Finding:
    try:
        for _ in drive.blocks(direct=True):
            pass
    except OSError as failure:
        said = f"this file system has no reads past the page cache: {told(failure)}"
        return Finding("drive", "direct reads", Status.ABSENT, said)
    is_cold = drive.drop_from_page_cache()
    rates = {n: drive.nbytes_per_second(n, direct=True) for n in N_WORKERS}
    said = ", ".join(
        f"{n} worker{'s' if n > 1 else ''} {format_size(rate)}/s" for n, rate in rates.items()
    )
    if not is_cold:
        said += "; maybe from the page cache, which keeps files that were used just before"
    values = {"bytes_per_second_by_workers": {str(n): rate for n, rate in rates.items()}}
    if max(rates.values()) >= LEAST_NBYTES_PER_SECOND:
        return Finding("drive", "direct reads", Status.OK, said, values=values)
    return Finding("drive", "direct reads", Status.PROBLEM, said, SLOW, values)


def _page_cache(drive: Drive) -> Finding:
    rates: dict[str, float] = {}
    if drive.drop_from_page_cache():
        rates["cold"] = drive.nbytes_per_second(PAGE_CACHE_WORKERS, direct=False, once=True)
    drive.nbytes_per_second(PAGE_CACHE_WORKERS, direct=False, once=True)
    rates["warm"] = drive.nbytes_per_second(PAGE_CACHE_WORKERS, direct=False)
    speeds = ", ".join(f"{state} {format_size(rate)}/s" for state, rate in rates.items())
    said = f"{speeds} with {PAGE_CACHE_WORKERS} workers"
    values = {f"{state}_bytes_per_second": rate for state, rate in rates.items()}
    return Finding("drive", "page cache", Status.OK, said, values=values)


def _finished(under_way: deque[tuple[ReadTicket, Buffer]]) -> Buffer:
    """The buffer of the oldest read, once it has delivered."""
    ticket, buffer = under_way.popleft()
    ticket.wait(READ_TIMEOUT)
    return buffer


@contextmanager
def _file_to_read(folder: Path) -> Iterator[Path]:
    files = [path for depth in ("*", "*/*") for path in folder.glob(depth) if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size, default=None)
    if largest is not None and largest.stat().st_size >= LEAST_FILE_NBYTES:
        yield largest
        return
    free = psutil.disk_usage(str(folder)).free
    n_blocks = min(WRITTEN_NBYTES, free // 4, available_memory() // 4) // BLOCK_NBYTES
    if n_blocks < LEAST_FILE_NBYTES // BLOCK_NBYTES:
        raise OSError(f"too little space to measure: {format_size(free)}")
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".moeflux-doctor-") as file:
        if sys.platform == "darwin":
            # What is written through the page cache stays in it, also for reads past it.
            fcntl.fcntl(file, fcntl.F_NOCACHE, 1)
        for _ in range(n_blocks):
            # Random bytes, as drives may compress.
            file.write(os.urandom(BLOCK_NBYTES))
        file.flush()
        os.fsync(file.fileno())
        yield Path(file.name)
