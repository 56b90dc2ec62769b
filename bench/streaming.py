"""Decode under a memory limit, from a cold page cache, optionally against llama.cpp with mmap.

usage (root, Linux): python bench/streaming.py MODEL [MODEL ...] [--limits 2560 2048 1536]
       [--tokens 32] [--prefetch MODE ...] [--routes TRACE] [--repeat 1]
       [--peer-bench PATH_TO_llama-bench --peer-model MODEL.gguf]

Each run is a process in a memory control group of its own; the page cache counts against the limit.
The peer runs with 128 KiB of read-ahead and with the disk's own (0), and its better figure counts.
Before each run more memory than the limit is touched once: a guest's pages that the host has taken
back would be measured else, at 2 to 3 seconds per GB.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

GROUPS = Path("/sys/fs/cgroup")
DROP_CACHES = Path("/proc/sys/vm/drop_caches")
SECTOR_NBYTES = 512
SHARE_FOR_PROCESS = 0.94  # of the limit; the rest is for the page cache that reads pass through


@dataclass(frozen=True)
class Row:
    """One run. `late_speed` is over the second half of its tokens, where the pool is full."""

    engine: str
    limit_mib: int
    tokens_per_second: float
    late_speed: float
    peak_mib: float
    disk_read_mib: float
    details: dict[str, float | str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--limits", type=int, nargs="+", default=[2560, 2048, 1536])
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--prefetch", nargs="+", default=["auto"])
    parser.add_argument("--routes", help="a route trace that decode steps follow")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--disk", default="vda", help="name under /sys/block")
    parser.add_argument("--peer-bench")
    parser.add_argument("--peer-model")
    parser.add_argument("--peer-read-ahead", type=int, nargs="+", default=[128, 0], metavar="KIB")
    arguments = parser.parse_args()
    rows: list[Row] = []
    for limit in arguments.limits:
        for _ in range(arguments.repeat):
            for row in runs(arguments, limit):
                rows.append(row)
                show(row)
    for limit in arguments.limits:
        own = best(row for row in rows if is_own(row) and row.limit_mib == limit)
        other = best(row for row in rows if not is_own(row) and row.limit_mib == limit)
        if other:
            print(f"{limit} MiB: {own / other:.2f} times the better figure of the peer")
    print(json.dumps([asdict(row) for row in rows]))


def runs(arguments: argparse.Namespace, limit: int) -> Iterator[Row]:
    for model in arguments.models:
        for prefetch in arguments.prefetch:
            yield ours(arguments, model, prefetch, limit)
    if arguments.peer_bench:
        for kib in arguments.peer_read_ahead:
            yield peer(arguments, limit, kib or None)


def best(rows: Iterator[Row]) -> float:
    """The median of each engine's runs, and of these the largest; 0 for none."""
    speeds: dict[str, list[float]] = {}
    for row in rows:
        speeds.setdefault(row.engine, []).append(row.tokens_per_second)
    return max((median(found) for found in speeds.values()), default=0.0)


def is_own(row: Row) -> bool:
    return row.engine.startswith("moeflux")


def show(row: Row) -> None:
    busy = row.details.get("disk_busy_share")
    print(
        f"{row.engine:42} {row.limit_mib:5} MiB {row.tokens_per_second:7.2f} tok/s, "
        f"late {row.late_speed:7.2f}   peak {row.peak_mib:5.0f} MiB   "
        f"disk read {row.disk_read_mib:6.0f} MiB"
        + (f", busy {busy:.0%}" if isinstance(busy, float) else ""),
        flush=True,
    )


def ours(arguments: argparse.Namespace, model: str, prefetch: str, limit: int) -> Row:
    command = [sys.executable, str(Path(__file__).with_name("decode.py")), model]
    command += ["--tokens", str(arguments.tokens), "--prompt-tokens", "1"]
    command += ["--memory", f"{int(limit * SHARE_FOR_PROCESS)}MiB"]
    command += ["--prefetch", prefetch, "--disk", arguments.disk]
    command += ["--routes", arguments.routes] if arguments.routes else []
    output, peak, read = limited(command, limit, arguments.disk)
    details = json.loads(output.splitlines()[-1])
    return Row(
        f"moeflux, {Path(model).name}, prefetch {prefetch}",
        limit,
        details["decode_tokens_per_second_mean"],
        details["decode_tokens_per_second_late"],
        peak,
        read,
        details,
    )


def peer(arguments: argparse.Namespace, limit: int, read_ahead_kib: int | None) -> Row:
    command = [arguments.peer_bench, "-m", arguments.peer_model, "-p", "0", "-r", "1"]
    command += ["-n", str(arguments.tokens), "--repack", "0", "-o", "json"]
    with read_ahead(arguments.disk, read_ahead_kib) as kib:
        output, peak, read = limited(command, limit, arguments.disk)
    speed = float(json.loads(output)[0]["avg_ts"])
    return Row(f"llama.cpp mmap, read-ahead {kib} KiB", limit, speed, speed, peak, read, {})


@contextmanager
def read_ahead(disk: str, kib: int | None) -> Iterator[int]:
    """Set the disk's read-ahead for a while; None leaves it as it is."""
    setting = Path(f"/sys/block/{disk}/queue/read_ahead_kb")
    before = int(setting.read_text())
    if kib is not None:
        setting.write_text(str(kib))
    try:
        yield before if kib is None else kib
    finally:
        setting.write_text(str(before))


def limited(command: list[str], limit_mib: int, disk: str) -> tuple[str, float, float]:
    """Output, peak MiB and MiB read from the disk of a command in a group of `limit_mib`."""
    version_1 = (GROUPS / "memory").is_dir()
    group = (GROUPS / "memory" if version_1 else GROUPS) / "moeflux-bench"
    group.mkdir(exist_ok=True)
    files = ("memory.limit_in_bytes", "memory.max_usage_in_bytes")
    limit_file, peak_file = files if version_1 else ("memory.max", "memory.peak")
    try:
        (group / limit_file).write_text(str(limit_mib * 2**20))
        subprocess.run(["sync"], check=True)
        DROP_CACHES.write_text("3")
        touch_memory(int(1.3 * limit_mib))
        before = disk_read(disk)
        enter = ["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh", *command]
        done = subprocess.run(enter, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{command[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
        peak = int((group / peak_file).read_text()) / 2**20
        return done.stdout, peak, (disk_read(disk) - before) / 2**20
    finally:
        group.rmdir()


def touch_memory(mib: int) -> None:
    """Have so much free memory written to, and given back at once."""
    subprocess.run([sys.executable, "-c", f"bytearray({mib} << 20)"], check=True)


def disk_read(disk: str) -> int:
    """Bytes read from a disk since the machine started."""
    sectors = Path(f"/sys/block/{disk}/stat").read_text().split()[2]
    return int(sectors) * SECTOR_NBYTES


if __name__ == "__main__":
    main()
