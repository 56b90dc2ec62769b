"""Memory sizes: as people write them, of the machine, of control groups, of this process."""

from __future__ import annotations

import re
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_UNLIMITED = 2**60
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(?:(%)|([KMGT]?)(i?)B?)\s*", re.IGNORECASE)


def parse_size(value: int | str, whole: int | None = None) -> int:
    """Bytes of 8000000, "8GB" (decimal), "8GiB" (binary) or "50%" of `whole`.

    `whole` is the memory of this machine unless it is given. Raises ValueError for anything else
    and for sizes below one byte.
    """
    if isinstance(value, int):
        nbytes = value
    else:
        match = _SIZE.fullmatch(value)
        if match is None:
            raise ValueError(f'a memory size looks like "8GB", "6.5GiB" or "50%", got {value!r}')
        number, percent, unit, binary = match.groups()
        if percent:
            nbytes = int(float(number) / 100 * (total_memory() if whole is None else whole))
        else:
            units = _BINARY_UNITS if binary and unit else _UNITS
            nbytes = int(float(number) * units[unit.upper()])
    if nbytes < 1:
        raise ValueError(f"a memory size must be at least one byte, got {value!r}")
    return nbytes


def format_size(nbytes: float) -> str:
    """A decimal size for people: 3.03 GB, 41.5 MB, 512 B."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(nbytes) >= factor:
            return f"{nbytes / factor:.3g} {unit}"
    return f"{nbytes:.0f} B"


@dataclass(frozen=True)
class ControlGroupLimit:
    """A limit above this process, and what its group could still take without swapping."""

    nbytes: int
    headroom: int


def total_memory() -> int:
    """Bytes of the machine, or of the control group of this process if that allows less."""
    limits = [limit.nbytes for limit in control_group_limits()]
    total: int = psutil.virtual_memory().total
    return min([total, *limits])


def available_memory() -> int:
    """Bytes that can still be had without swapping, within the limits of control groups."""
    headroom = [limit.headroom for limit in control_group_limits()]
    available: int = psutil.virtual_memory().available
    return max(0, min([available, *headroom]))


def resident_memory() -> int:
    """Bytes of memory that this process holds now."""
    resident: int = psutil.Process().memory_info().rss
    return resident


def peak_memory() -> int:
    """The largest resident size of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def control_group_limits(root: Path = Path("/")) -> list[ControlGroupLimit]:
    """Limits of the control groups (version 1 and 2) that hold this process.

    Empty where there are none.
    """
    membership = root / "proc/self/cgroup"
    if not membership.exists():
        return []
    limits: list[ControlGroupLimit] = []
    for line in membership.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount, files = root / "sys/fs/cgroup", ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            mount = root / "sys/fs/cgroup/memory"
            files = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        group = mount / path.lstrip("/")
        for folder in (group, *group.parents):
            if not folder.is_relative_to(mount):
                break
            limits += _limit(folder, *files)
    return limits


def _limit(folder: Path, limit_file: str, usage_file: str) -> list[ControlGroupLimit]:
    limit = _number(folder / limit_file)
    if limit is None or limit >= _UNLIMITED:
        return []
    usage = _number(folder / usage_file) or 0
    statistics = folder / "memory.stat"
    lines = statistics.read_text().splitlines() if statistics.exists() else []
    pairs = (line.split() for line in lines)
    droppable = sum(int(value) for name, value in pairs if name == "inactive_file")
    return [ControlGroupLimit(limit, limit - usage + droppable)]


def _number(path: Path) -> int | None:
    text = path.read_text().strip() if path.exists() else ""
    return int(text) if text.isdigit() else None
