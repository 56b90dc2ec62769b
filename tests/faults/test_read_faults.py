"""Every read of weights fails once, in every way: the right tokens, or one typed error.

Each case generates a few tokens with a fault at one call of pread(), for every call there is, and
then once more without. That the fault took place is counted under the program, by read_shim.c.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_driver import FaultDriver, Reply, compile_shim
from faulty_process import Fault

from moeflux.checkpoint.convert import convert
from tiny_checkpoint import TinyModel, write_mlx

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the shim needs LD_PRELOAD")

MODEL = TinyModel(n_layers=2, n_experts=4, full_attention_interval=2)
FEW_SLOTS = 2
RECORD_NBYTES = 16 * 1024
EVER = 1 << 32
FAILURES = {
    "EIO": (Fault.ERROR, errno.EIO),
    "EAGAIN": (Fault.ERROR, errno.EAGAIN),
    "ENOMEM": (Fault.ERROR, errno.ENOMEM),
    "end of file": (Fault.END_OF_FILE, 0),
}
HARMLESS = {
    "EINTR": (Fault.ERROR, errno.EINTR),
    "one byte": (Fault.ONE_BYTE, 0),
    "half": (Fault.HALF, 0),
}
ALTERED = {"flipped bit": Fault.FLIPPED_BIT, "stale bytes": Fault.STALE_BYTES}


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults") / "untouched"
    write_mlx(MODEL, folder)
    return folder


@pytest.fixture(scope="module")
def packed(untouched: Path) -> Path:
    folder = untouched.with_name("packed")
    convert(untouched, folder)
    return folder


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultDriver]:
    folder = tmp_path_factory.mktemp("shim")
    driver = FaultDriver(compile_shim(folder), folder)
    yield driver
    driver.stop()


def answer(reply: Reply) -> tuple[object, object, object]:
    return reply["tokens"], reply["logits"], reply["error"]


def faultless(driver: FaultDriver) -> Reply:
    reply = driver.run(Fault.NONE)
    assert reply["error"] is None
    assert reply["n_fired"] == 0
    assert answer(reply["after"]) == answer(reply)
    return reply


def every_call(
    driver: FaultDriver, fault: Fault, error_number: int = 0, count: int = 1
) -> list[Reply]:
    """Replies with the fault at each call; every time it took place, and the model recovered."""
    expected = faultless(driver)
    replies = []
    for call in range(expected["n_calls"]):
        reply = driver.run(fault, call, count, error_number)
        assert 1 <= reply["n_fired"] <= count, f"call {call}"
        if reply["error"] is None:
            assert answer(reply) == answer(expected), f"call {call}"
        else:
            assert reply["error"]["type"] == "ExpertReadError", f"call {call}"
        assert reply["dirty"] == (reply["error"] is not None)
        assert answer(reply["after"]) == answer(expected), f"after call {call}"
        replies.append(reply)
    assert len(replies) >= 8
    return replies


def errors(replies: list[Reply]) -> list[Reply]:
    return [reply["error"] for reply in replies if reply["error"] is not None]


@pytest.mark.parametrize("name", FAILURES)
def test_failed_call_is_an_error_with_layer_expert_file_and_numbers(
    driver: FaultDriver, packed: Path, name: str
) -> None:
    driver.load(packed, n_slots=FEW_SLOTS)
    fault, number = FAILURES[name]
    replies = every_call(driver, fault, number)
    assert len(errors(replies)) == len(replies)
    for error in errors(replies):
        layer, expert = error["layer"], error["expert"]
        assert error["path"] == str(packed / "experts" / f"layer_{layer:02}.bin")
        assert error["offset"] == expert * RECORD_NBYTES
        assert (error["wanted"], error["got"]) == (RECORD_NBYTES, 0)
        assert error["errno"] == number
        assert error["cause"] == "ReadError"
        for part in (f"layer {layer} expert {expert}: ", error["path"], str(RECORD_NBYTES)):
            assert part in error["message"]
    assert {(error["layer"], error["expert"]) for error in errors(replies)} >= {(0, 0), (1, 0)}


@pytest.mark.parametrize("name", FAILURES)
def test_one_failed_call_is_healed_by_a_retry(driver: FaultDriver, packed: Path, name: str) -> None:
    driver.load(packed, n_slots=FEW_SLOTS, n_retries=1)
    assert errors(every_call(driver, *FAILURES[name])) == []


def test_call_that_always_fails_is_an_error_in_spite_of_retries(
    driver: FaultDriver, packed: Path
) -> None:
    driver.load(packed, n_slots=FEW_SLOTS, n_retries=2)
    replies = every_call(driver, Fault.ERROR, errno.EIO, count=EVER)
    assert len(errors(replies)) == len(replies)
    assert all(reply["n_fired"] >= 3 for reply in replies)


@pytest.mark.parametrize("name", HARMLESS)
@pytest.mark.parametrize("read_mode", ["page-cache", "direct"])
def test_interrupted_and_short_calls_are_gone_on_with(
    driver: FaultDriver, packed: Path, name: str, read_mode: str
) -> None:
    loaded = driver.load(packed, n_slots=FEW_SLOTS, read_mode=read_mode)
    assert loaded["direct"] == (read_mode == "direct")
    assert errors(every_call(driver, *HARMLESS[name])) == []


@pytest.mark.parametrize("name", ["EIO", "end of file"])
def test_failed_direct_call_is_an_error_or_healed(
    driver: FaultDriver, packed: Path, name: str
) -> None:
    driver.load(packed, n_slots=FEW_SLOTS, read_mode="direct")
    replies = every_call(driver, *FAILURES[name])
    assert len(errors(replies)) == len(replies)
    driver.load(packed, n_slots=FEW_SLOTS, read_mode="direct", n_retries=1)
    assert errors(every_call(driver, *FAILURES[name])) == []


@pytest.mark.parametrize("read_mode", ["direct", "auto"])
@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO])
def test_direct_reads_that_fail_at_loading_give_way_to_the_page_cache(
    driver: FaultDriver, packed: Path, read_mode: str, number: int
) -> None:
    loaded = driver.load(packed, n_slots=FEW_SLOTS, read_mode=read_mode, error_number=number)
    assert loaded["n_fired"] > 0
    assert not loaded["direct"]
    assert loaded["reason"].startswith("direct reads do not work: read 0 of 4096 bytes at offset 0")
    assert os.strerror(number) in loaded["reason"]
    faultless(driver)


@pytest.mark.parametrize("n_retries", [0, 1])
def test_failed_range_of_an_untouched_checkpoint_is_an_error_or_healed(
    driver: FaultDriver, untouched: Path, n_retries: int
) -> None:
    driver.load(untouched, n_slots=FEW_SLOTS, n_retries=n_retries)
    replies = every_call(driver, Fault.ERROR, errno.EIO)
    assert len(errors(replies)) == (0 if n_retries else len(replies))
    assert all(error["path"].endswith("model.safetensors") for error in errors(replies))


@pytest.mark.parametrize("name", ALTERED)
@pytest.mark.parametrize("n_parts", [1, 3])
def test_altered_bytes_are_always_caught_by_the_checksum(
    driver: FaultDriver, packed: Path, name: str, n_parts: int
) -> None:
    driver.load(packed, n_slots=FEW_SLOTS, verify="always", n_read_parts=n_parts)
    replies = every_call(driver, ALTERED[name])
    assert len(errors(replies)) == len(replies)
    for error in errors(replies):
        assert error["cause"] == "ChecksumError"
        assert error["path"] == str(packed / "experts" / f"layer_{error['layer']:02}.bin")
        assert error["offset"] == error["expert"] * RECORD_NBYTES
        assert "wanted checksum" in error["message"]


@pytest.mark.parametrize("name", ALTERED)
def test_altered_bytes_change_what_is_computed_where_nothing_is_verified(
    driver: FaultDriver, packed: Path, name: str
) -> None:
    driver.load(packed, n_slots=FEW_SLOTS)
    expected = faultless(driver)
    reply = driver.run(ALTERED[name], first=0, count=EVER)
    assert reply["n_fired"] == expected["n_calls"]
    assert reply["error"] is None
    assert reply["logits"] != expected["logits"]


@pytest.mark.parametrize("name", ALTERED)
def test_bytes_altered_once_are_healed_by_a_retry(
    driver: FaultDriver, packed: Path, name: str
) -> None:
    driver.load(packed, n_slots=FEW_SLOTS, verify="always", n_retries=1)
    assert errors(every_call(driver, ALTERED[name])) == []


def test_retry_of_a_sampled_read_is_verified_too(driver: FaultDriver, packed: Path) -> None:
    """Of the reads since loading, the 16th is sampled; those before it are right.

    One worker reads, so that the call after the 16th is its retry.
    """
    driver.load(packed, n_slots=FEW_SLOTS, verify="sample", n_retries=1, n_read_workers=1)
    reply = driver.run(Fault.FLIPPED_BIT, first=15, count=2)
    assert reply["n_fired"] == 2
    assert reply["error"]["cause"] == "ChecksumError"
    assert reply["after"]["error"] is None


@pytest.mark.parametrize("fault", [Fault.ERROR, Fault.FLIPPED_BIT])
@pytest.mark.parametrize("prefetch", ["previous-token", "combined"])
def test_failed_guess_is_never_a_wrong_token(
    driver: FaultDriver, packed: Path, fault: Fault, prefetch: str
) -> None:
    """How much is guessed varies with time, so that the last calls need not take place."""
    driver.load(packed, n_slots=5, prefetch=prefetch, verify="always", n_retries=1)
    expected = faultless(driver)
    n_fired = 0
    for call in range(expected["n_calls"] + 4):
        reply = driver.run(fault, call, 1, errno.EIO)
        n_fired += reply["n_fired"]
        assert answer(reply) == answer(expected), f"call {call}"
        assert answer(reply["after"]) == answer(expected), f"after call {call}"
    assert n_fired >= 8


@pytest.mark.parametrize("prefetch", ["off", "combined"])
def test_read_that_does_not_return_is_an_error_and_the_model_recovers(
    driver: FaultDriver, packed: Path, prefetch: str
) -> None:
    timeout = 0.5
    driver.load(packed, n_slots=5, prefetch=prefetch, read_timeout=timeout)
    expected = faultless(driver)
    for call in (0, expected["n_calls"] // 2, expected["n_calls"] - 1):
        reply = driver.run(Fault.BLOCKED, call)
        assert prefetch != "off" or reply["error"] is not None
        # A guess that nobody needs may block for ever.
        for blocked in (reply, reply["while_blocked"]):
            if blocked["error"] is None:
                assert answer(blocked) == answer(expected)
            else:
                assert blocked["error"]["type"] == "ExpertReadError"
                assert blocked["error"]["cause"] == "ReadTimeoutError"
                assert timeout <= blocked["seconds"] < 10
        assert answer(reply["after"]) == answer(expected)


def test_close_waits_for_a_blocked_read_and_no_longer(driver: FaultDriver, packed: Path) -> None:
    driver.load(packed, n_slots=FEW_SLOTS, read_timeout=0.1)
    reply = driver.close_while_blocked(0.5)
    assert reply["error"]["cause"] == "ReadTimeoutError"
    assert 0.3 < reply["close_seconds"] < 5
