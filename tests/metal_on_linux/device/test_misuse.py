"""The fake refuses what Metal's validation layer aborts over: the other tests would notice it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest
from fake_metal import FakeMetal

pytestmark = pytest.mark.metal_bench

MISUSES = {
    "commit_twice": "commit of a command buffer that is committed",
    "commit_with_open_encoder": "commit of a command buffer with an open encoder",
    "wait_before_commit": "wait for a command buffer that is not committed",
    "two_open_encoders": "an encoder for a command buffer with an open encoder",
    "encoder_after_commit": "an encoder for a command buffer that is committed",
    "end_encoding_twice": "endEncoding of an encoder that has ended",
    "command_after_end_encoding": "a command for an encoder that has ended",
    "dispatch_without_pipeline_state": "a dispatch without a pipeline state",
    "dispatch_of_nothing": "a dispatch of no threadgroups",
    "dispatch_of_too_many_threads": "a dispatch of more threads than maxTotalThreadsPerThreadgroup",
    "dispatch_without_a_buffer": "nothing is bound to",
    "bind_beyond_the_end": "a buffer bound at an offset beyond its end",
    "bind_nothing": "no buffer to bind",
    "bind_beyond_the_last_index": "a buffer bound beyond index 30",
    "too_many_bytes": "setBytes takes 1 to 4096 bytes",
    "unaligned_copy": "a copy not in multiples of 4 bytes",
    "copy_beyond_the_end": "a copy beyond the end of a buffer",
    "overlapping_copy": "a copy between ranges that overlap",
    "fill_of_nothing": "a fill of 0 bytes",
    "buffer_of_nothing": "newBufferWithLength: of 0 bytes",
    "buffer_beyond_the_longest": "newBufferWithLength: beyond maxBufferLength",
    "unaligned_memory": "newBufferWithBytesNoCopy: not page aligned",
    "length_not_in_pages": "newBufferWithBytesNoCopy: length not in pages",
    "stop_without_capture": "stopCapture without a capture",
    "stop_with_work_in_flight": "stopCapture with work in flight",
    "allocation_added_twice": "an allocation is in its residency set already",
    "strange_allocation_removed": "an allocation to remove is not in the residency set",
    "too_many_samples": "a sample buffer beyond 32 KiB",
}


@pytest.mark.parametrize("name", MISUSES)
def test_misuse_is_refused(fake: FakeMetal, name: str) -> None:
    fake["misuses"] = fake["misuses"]
    assert MISUSES[name] in fake.misuse(name)


@pytest.mark.parametrize("name", ["unknown", "none"])
def test_only_misuse_is_refused(fake: FakeMetal, name: str) -> None:
    """`none` commits and awaits a command buffer with a dispatch, a copy and a fill."""
    expected = {"unknown": "no misuse of that name", "none": ""}
    assert fake.misuse(name) == expected[name]


def test_open_encoder_that_is_dropped_aborts(
    in_own_process: Callable[[str], subprocess.CompletedProcess[str]],
) -> None:
    script = "from fake_metal import FakeMetal; FakeMetal().misuse('drop_open_encoder')"
    done = in_own_process(script)
    assert done.returncode < 0
    assert "Metal validation: an encoder is released without endEncoding" in done.stderr


def test_misuse_leaks_nothing(fake: FakeMetal) -> None:
    fake["misuses"] = fake["misuses"]
    before = fake.live_objects()
    for name in MISUSES:
        fake.misuse(name)
    assert fake.live_objects() == before
