"""Decode under a memory limit, from a cold page cache, optionally against llama.cpp with mmap.

usage (root, Linux): python bench/streaming.py MODEL [--limits 2560 2048 1536] [--tokens 32]
       [--peer-bench PATH_TO_llama-bench --peer-model MODEL.gguf]

Each run is a process in a memory control group of its own; the page cache counts against the limit.
The peer runs at the disk's own read-ahead and at 128 KiB, and its better figure is compared with.
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

GROUPS = Path("/sys/fs/cgroup")
DROP_CACHES = Path("/proc/sys/vm/drop_caches")
SECTOR_NBYTES = 512
SHARE_FOR_PROCESS = 0.94  # of the limit; the rest is for the page cache that reads pass through


@dataclass(frozen=True)
class Row:
    """One run."""

    engine: str
    limit_mib: int
    tokens_per_second: float
    peak_mib: float
    disk_read_mib: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model")
    parser.add_argument("--limits", type=int, nargs="+", default=[2560, 2048, 1536])
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--prefetch", default="auto")
    parser.add_argument("--disk", default="vda", help="name under /sys/block")
    parser.add_argument("--peer-bench")
    parser.add_argument("--peer-model")
    arguments = parser.parse_args()
    rows: list[Row] = []
    for limit in arguments.limits:
        rows.append(ours(arguments, limit))
        show(rows[-1])
        if arguments.peer_bench:
            for read_ahead in (128, None):
                rows.append(peer(arguments, limit, read_ahead))
                show(rows[-1])
    for limit in arguments.limits:
        own = max(row.tokens_per_second for row in rows if is_own(row) and row.limit_mib == limit)
        others = [
            row.tokens_per_second for row in rows if not is_own(row) and row.limit_mib == limit
        ]
        if others:
            print(f"{limit} MiB: {own / max(others):.2f} times the better figure of the peer")
    print(json.dumps([asdict(row) for row in rows]))


def is_own(row: Row) -> bool:
    return row.engine.startswith("moeflux")


def show(row: Row) -> None:
    print(
        f"{row.engine:32} {row.limit_mib:6} MiB {row.tokens_per_second:8.2f} tok/s   "
        f"peak {row.peak_mib:6.0f} MiB   disk read {row.disk_read_mib:7.0f} MiB",
        flush=True,
    )


def ours(arguments: argparse.Namespace, limit: int) -> Row:
    command = [sys.executable, str(Path(__file__).with_name("decode.py")), arguments.model]
    command += ["--tokens", str(arguments.tokens), "--prompt-tokens", "1"]
    command += ["--memory", f"{int(limit * SHARE_FOR_PROCESS)}MiB"]
    command += ["--prefetch", arguments.prefetch]
    output, peak, read = limited(command, limit, arguments.disk)
    speed = json.loads(output.splitlines()[-1])["decode_tokens_per_second_mean"]
    return Row(f"moeflux, prefetch {arguments.prefetch}", limit, speed, peak, read)


def peer(arguments: argparse.Namespace, limit: int, read_ahead_kib: int | None) -> Row:
    command = [arguments.peer_bench, "-m", arguments.peer_model, "-p", "0", "-r", "1"]
    command += ["-n", str(arguments.tokens), "--repack", "0", "-o", "json"]
    with read_ahead(arguments.disk, read_ahead_kib) as kib:
        output, peak, read = limited(command, limit, arguments.disk)
    speed = float(json.loads(output)[0]["avg_ts"])
    return Row(f"llama.cpp mmap, read-ahead {kib} KiB", limit, speed, peak, read)


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
        before = disk_read(disk)
        enter = ["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh", *command]
        done = subprocess.run(enter, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{command[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
        peak = int((group / peak_file).read_text()) / 2**20
        return done.stdout, peak, (disk_read(disk) - before) / 2**20
    finally:
        group.rmdir()


def disk_read(disk: str) -> int:
    """Bytes read from a disk since the machine started."""
    sectors = Path(f"/sys/block/{disk}/stat").read_text().split()[2]
    return int(sectors) * SECTOR_NBYTES


if __name__ == "__main__":
    main()
