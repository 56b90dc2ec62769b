"""Which bytes of files the page cache of the system holds, and asking it to drop them."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import IO

import numpy as np

from moeflux.checkpoint import Checkpoint

COLD_SHARE = 0.01
"""Of the bytes, at most, that a cold page cache holds."""
WARM_SHARE = 0.99
"""Of the bytes, at least, that a warm page cache holds."""

_MAPPED_NBYTES = 2**30
"""Of a file at a time, which bounds the answer's size."""
_RESIDENT = 1
"""The bit of a page in the answer of mincore."""


@dataclass(frozen=True)
class FileRange:
    """`nbytes` bytes at `offset` of a file."""

    path: Path
    offset: int
    nbytes: int


def expert_ranges(checkpoint: Checkpoint) -> tuple[FileRange, ...]:
    """The bytes of all routed experts, in as few ranges as hold nothing else."""
    source = checkpoint.expert_source
    layers = (source.find(layer, source.shape(layer)) for layer in source.layers)
    parts = (
        FileRange(part.path, part.offset, part.nbytes)
        for layer in layers
        for expert in range(layer.n_experts)
        for part in layer.ranges(expert)
    )
    return tuple(_joined(parts))


def drop(ranges: Sequence[FileRange]) -> bool:
    """Ask the system to drop them; whether it takes such advice. It need not follow it.

    Raises OSError for a file that cannot be opened.
    """
    if not hasattr(os, "posix_fadvise"):
        return False
    for path, parts in groupby(ranges, attrgetter("path")):
        with path.open("rb") as file:
            os.fsync(file.fileno())  # what is not written yet cannot be dropped
            for part in map(_whole_pages, parts):
                advice = os.POSIX_FADV_DONTNEED
                os.posix_fadvise(file.fileno(), part.offset, part.nbytes, advice)
    return True


def resident_share(ranges: Sequence[FileRange]) -> float | None:
    """Share of the pages of these bytes that the page cache holds.

    None where the system does not tell, or there is no byte. Raises OSError for a file that cannot
    be opened.
    """
    paths = {part.path for part in ranges}
    if not all(map(_may_ask, paths)) or not _is_truthful():
        return None
    n_resident = n_pages = 0
    for path, parts in groupby(ranges, attrgetter("path")):
        with path.open("rb") as file:
            for part in map(_whole_pages, parts):
                n_resident += _n_resident(file, part)
                n_pages += part.nbytes // mmap.PAGESIZE
    return n_resident / n_pages if n_pages else None


def state_name(share: float | None) -> str:
    """What a share of resident bytes is called: cold, warm, partly warm, or unknown."""
    if share is None:
        return "unknown"
    if share <= COLD_SHARE:
        return "cold"
    return "warm" if share >= WARM_SHARE else "partly warm"


def _joined(parts: Iterable[FileRange]) -> Iterator[FileRange]:
    """Ranges that meet as one."""
    last: FileRange | None = None
    for part in sorted(parts, key=lambda part: (part.path, part.offset)):
        if last is not None and part.path == last.path and part.offset <= last.offset + last.nbytes:
            end = max(last.offset + last.nbytes, part.offset + part.nbytes)
            last = FileRange(last.path, last.offset, end - last.offset)
        else:
            if last is not None:
                yield last
            last = part
    if last is not None:
        yield last


def _whole_pages(part: FileRange) -> FileRange:
    first = part.offset // mmap.PAGESIZE * mmap.PAGESIZE
    end = -(-(part.offset + part.nbytes) // mmap.PAGESIZE) * mmap.PAGESIZE
    return FileRange(part.path, first, end - first)


def _may_ask(path: Path) -> bool:
    """Linux says of files that others own and this process may not write that all is resident."""
    if sys.platform == "darwin":
        return True
    return path.stat().st_uid == os.geteuid() or os.access(path, os.W_OK)


def _is_truthful() -> bool:
    """Whether pages that nobody has touched are told to be absent; some sandboxes do not."""
    n_pages = 4
    with tempfile.TemporaryFile() as file:
        file.truncate(n_pages * mmap.PAGESIZE)
        return _n_resident(file, FileRange(Path(), 0, n_pages * mmap.PAGESIZE)) == 0


def _n_resident(file: IO[bytes], part: FileRange) -> int:
    """Pages of a range of whole pages that are in the page cache. Touches none of them."""
    count = 0
    file_nbytes = os.fstat(file.fileno()).st_size
    first, end = part.offset, min(part.offset + part.nbytes, file_nbytes)
    step = _MAPPED_NBYTES // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
    while first < end:
        size = min(step, end - first)
        with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ, offset=first) as mapping:
            count += _count(mapping, size)
        first += size
    return count


def _count(mapping: mmap.mmap, nbytes: int) -> int:
    view = np.frombuffer(mapping, np.uint8)
    answer = np.zeros(-(-nbytes // mmap.PAGESIZE), np.uint8)
    library = ctypes.CDLL(None, use_errno=True)
    pointers = (ctypes.c_void_p(view.ctypes.data), ctypes.c_size_t(nbytes))
    failed = library.mincore(*pointers, ctypes.c_void_p(answer.ctypes.data))
    del view  # a mapping cannot be closed while an array sees it
    if failed:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(np.count_nonzero(answer & _RESIDENT))
