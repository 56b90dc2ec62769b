"""What comparing expert reads with their checksums costs, with the file in the page cache.

Reads records of a temporary file in random order through the read pool, with a checksum for no
read, every 16th and every read, in turns. Prints the best GB/s of each; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

import moeflux
from moeflux import _core
from moeflux.experts.reads import SAMPLE_INTERVAL, Verify
from read_pool import MIB, data_file, touched_slots, warm_page_cache

INTERVALS = {Verify.OFF: 0, Verify.SAMPLE: SAMPLE_INTERVAL, Verify.ALWAYS: 1}


def record_checksums(path: Path, record_nbytes: int) -> list[int]:
    checksums = []
    with path.open("rb") as file:
        while len(record := file.read(record_nbytes)) == record_nbytes:
            checksums.append(_core.crc32c(record))
    return checksums


class Pass:
    """All records of the file once, in random order, with all workers busy."""

    def __init__(
        self, device: _core.Device, path: Path, checksums: list[int], n_workers: int, nbytes: int
    ) -> None:
        self._file = _core.File(path)
        self._checksums = checksums
        self._nbytes = nbytes
        self._pool = device.read_pool(n_workers)
        self._slots = touched_slots(device, 2 * n_workers, nbytes)
        self._order = list(range(len(checksums)))
        random.Random(0).shuffle(self._order)

    def gigabytes_per_second(self, verify: Verify) -> float:
        interval, slots = INTERVALS[verify], self._slots
        tickets: list[_core.ReadTicket] = []
        started = time.perf_counter()
        for i, record in enumerate(self._order):
            if i >= len(slots):
                tickets[i - len(slots)].wait()
            verified = interval and (i + 1) % interval == 0
            tickets.append(
                self._pool.submit_ranges(
                    _core.ReadRanges([(self._file, record * self._nbytes, self._nbytes, 0)]),
                    slots[i % len(slots)],
                    checksum=self._checksums[record] if verified else None,
                )
            )
        for ticket in tickets:
            ticket.wait()
        return len(self._order) * self._nbytes / (time.perf_counter() - started) / 1e9


def checksum_gigabytes_per_second(nbytes: int) -> float:
    """One thread, bytes in the processor's caches as far as they fit."""
    data = random.Random(0).randbytes(nbytes)
    n_repeats = max(1, 256 * MIB // nbytes)
    started = time.perf_counter()
    for _ in range(n_repeats):
        _core.crc32c(data)
    return n_repeats * nbytes / (time.perf_counter() - started) / 1e9


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where the temporary file is made")
    parser.add_argument("--megabytes", type=int, default=512, help="size of the temporary file")
    parser.add_argument("--record-kib", type=int, default=6592, help="bytes of one expert")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--passes", type=int, default=9)
    return parser.parse_args()


def main() -> None:
    options = arguments()
    device = _core.open_device("cpu", n_threads=1)
    nbytes = options.record_kib * 1024
    result: dict[str, object] = {
        "bench": "read_verification",
        "moeflux": moeflux.__version__,
        "device": device.description,
        "page_cache": "warm",
        "record_nbytes": nbytes,
        "crc32c_gigabytes_per_second": round(checksum_gigabytes_per_second(nbytes), 2),
    }
    with data_file(None, options.megabytes * MIB, options.folder) as path:
        checksums = record_checksums(path, nbytes)
        warm_page_cache(path)
        for n_workers in options.workers:
            reads = Pass(device, path, checksums, n_workers, nbytes)
            rates: dict[Verify, list[float]] = {verify: [] for verify in Verify}
            for _ in range(options.passes):
                for verify in Verify:
                    rates[verify].append(reads.gigabytes_per_second(verify))
            best = {verify.value: round(max(rates[verify]), 2) for verify in Verify}
            result[f"workers_{n_workers}_gigabytes_per_second"] = best
            print(f"{n_workers} workers:", *(f"{name} {rate} GB/s" for name, rate in best.items()))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
