"""Page cache or direct: what is chosen, by which reads, and what is said of it."""

from __future__ import annotations

import errno
from collections.abc import Sequence

import pytest

from moeflux.errors import ReadError, ReadTimeoutError
from moeflux.experts.read_mode import (
    TRIAL_NBYTES,
    TRIAL_SECONDS,
    ReadMode,
    choose_read_mode,
)

NBYTES = 1000


class FakeTrial:
    """Reads that take `seconds[direct]` each, on a clock of their own."""

    def __init__(
        self,
        page_cache: float = 1e-3,
        direct: float = 1e-3,
        nbytes: int = NBYTES,
        probe_error: OSError | None = None,
        read_error: OSError | None = None,
    ) -> None:
        self.seconds = {False: page_cache, True: direct}
        self.nbytes = nbytes
        self.probe_error = probe_error
        self.read_error = read_error
        self.now = 0.0
        self.n_probes = 0
        self.reads: list[tuple[list[tuple[int, int]], bool]] = []

    def probe(self) -> None:
        self.n_probes += 1
        if self.probe_error is not None:
            raise self.probe_error

    def read(self, batch: Sequence[tuple[int, int]], *, direct: bool) -> int:
        if self.read_error is not None:
            raise self.read_error
        self.reads.append((list(batch), direct))
        self.now += self.seconds[direct]
        return self.nbytes

    def clock(self) -> float:
        return self.now


def batches(n: int) -> list[list[tuple[int, int]]]:
    return [[(index, 0), (index, 1)] for index in range(n)]


def choose(
    mode: ReadMode, trial: FakeTrial, n_batches: int = 9, page_cache_share: float = 1.0
) -> tuple[bool, str]:
    choice = choose_read_mode(mode, trial, batches(n_batches), page_cache_share, trial.clock)
    return choice.direct, choice.reason


def test_page_cache_is_taken_as_asked_for_and_nothing_is_read() -> None:
    trial = FakeTrial()
    assert choose(ReadMode.PAGE_CACHE, trial) == (False, "asked for")
    assert (trial.n_probes, trial.reads) == (0, [])


def test_direct_is_taken_as_asked_for_after_a_probe() -> None:
    trial = FakeTrial(page_cache=0.001, direct=9.0)
    assert choose(ReadMode.DIRECT, trial) == (True, "asked for")
    assert (trial.n_probes, trial.reads) == (1, [])


@pytest.mark.parametrize("mode", [ReadMode.DIRECT, ReadMode.AUTO])
@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EINVAL, "Invalid argument", "layer_00.bin"),
        ReadError("read 0 of 4096 bytes at offset 0 of layer_00.bin: Invalid argument"),
    ],
    ids=["open", "read"],
)
def test_page_cache_is_taken_where_the_probe_fails_and_the_reason_is_told(
    mode: ReadMode, error: OSError
) -> None:
    direct, reason = choose(mode, FakeTrial(probe_error=error))
    assert not direct
    assert reason.startswith("direct reads do not work: ")
    assert "layer_00.bin" in reason
    assert "Invalid argument" in reason


@pytest.mark.parametrize(
    ("page_cache", "direct", "expected"),
    [(2e-3, 1e-3, True), (1e-3, 2e-3, False), (1.05e-3, 1e-3, False), (1e-3, 1e-3, False)],
    ids=["direct is faster", "page cache is faster", "direct is hardly faster", "equal"],
)
def test_auto_takes_the_faster_and_the_page_cache_in_doubt(
    page_cache: float, direct: float, expected: bool
) -> None:
    assert choose(ReadMode.AUTO, FakeTrial(page_cache, direct))[0] is expected


@pytest.mark.parametrize(
    ("page_cache", "direct", "expected"),
    [(1e-3, 1e-3, True), (1e-3, 1.2e-3, True), (1e-3, 1.3e-3, False)],
    ids=["equal", "page cache is hardly faster", "page cache is faster"],
)
def test_auto_takes_direct_reads_in_doubt_where_the_page_cache_can_keep_little(
    page_cache: float, direct: float, expected: bool
) -> None:
    trial = FakeTrial(page_cache, direct)
    assert choose(ReadMode.AUTO, trial, page_cache_share=0.49)[0] is expected


def test_auto_tells_both_speeds() -> None:
    trial = FakeTrial(page_cache=1e-3, direct=2e-3, nbytes=3_000_000)
    reason = choose(ReadMode.AUTO, trial)[1]
    assert reason == "measured: page cache 3.0 GB/s, direct 1.5 GB/s"


def test_no_record_is_read_twice_and_the_order_changes() -> None:
    trial = FakeTrial()
    choose(ReadMode.AUTO, trial)
    records = [record for batch, _ in trial.reads for record in batch]
    assert len(records) == len(set(records)) == 18
    assert [direct for _, direct in trial.reads[1:]] == [False, True, True, False] * 2


def test_first_read_is_not_timed() -> None:
    """It also pays for the pages of new slots."""

    class NewMemory(FakeTrial):
        def read(self, batch: Sequence[tuple[int, int]], *, direct: bool) -> int:
            self.now += 0 if self.reads else 0.05
            return super().read(batch, direct=direct)

    assert choose(ReadMode.AUTO, NewMemory(page_cache=1e-3, direct=1e-3, nbytes=10**6)) == (
        False,
        "measured: page cache 1.0 GB/s, direct 1.0 GB/s",
    )


@pytest.mark.parametrize("slow", [{"page_cache": 0.15}, {"direct": 0.15}])
def test_trial_ends_when_its_time_is_spent(slow: dict[str, float]) -> None:
    trial = FakeTrial(**slow)
    choose(ReadMode.AUTO, trial, n_batches=1000)
    assert len(trial.reads) == 5
    assert trial.now >= TRIAL_SECONDS


def test_trial_ends_when_its_bytes_are_spent() -> None:
    trial = FakeTrial(page_cache=1e-6, direct=1e-6, nbytes=TRIAL_NBYTES // 10)
    choose(ReadMode.AUTO, trial, n_batches=1000)
    assert len(trial.reads) == 13


@pytest.mark.parametrize("n_batches", [0, 1, 2])
def test_too_few_experts_to_measure_are_read_through_the_page_cache(n_batches: int) -> None:
    direct, reason = choose(ReadMode.AUTO, FakeTrial(), n_batches)
    assert (direct, reason) == (False, "too few experts to measure")


def test_failed_trial_is_no_failed_load() -> None:
    """The expert may never be needed; if it is, its read fails with layer and expert."""
    error = ReadError("read 0 of 9 bytes at offset 0 of layer_00.bin: Input/output error")
    direct, reason = choose(ReadMode.AUTO, FakeTrial(read_error=error))
    assert not direct
    assert reason == f"the trial of both modes failed: {error}"


@pytest.mark.parametrize("error_of", ["probe_error", "read_error"])
def test_read_that_does_not_return_is_an_error(error_of: str) -> None:
    """It still writes to a slot, so that no expert may be read into it."""
    trial = FakeTrial(**{error_of: ReadTimeoutError("not finished after 60 s")})
    with pytest.raises(ReadTimeoutError):
        choose(ReadMode.AUTO, trial)
