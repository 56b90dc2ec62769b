"""Mailbox: from any thread to one asyncio consumer, without ever waiting for it."""

from __future__ import annotations

import asyncio
import threading

import pytest

from moeflux.server.jobs.mailbox import Mailbox


async def all_of(mailbox: Mailbox[int]) -> list[int]:
    items = []
    while True:
        try:
            items.append(await mailbox.get())
        except StopAsyncIteration:
            return items


def test_items_come_in_order_and_end_with_close() -> None:
    mailbox: Mailbox[int] = Mailbox()
    for item in (3, 1, 2):
        mailbox.put(item)
    mailbox.close()
    assert asyncio.run(all_of(mailbox)) == [3, 1, 2]


def test_a_waiting_consumer_is_woken_from_another_thread() -> None:
    mailbox: Mailbox[int] = Mailbox()

    async def consume() -> list[int]:
        waiting = asyncio.ensure_future(all_of(mailbox))
        await asyncio.sleep(0)  # until it waits

        def produce() -> None:
            for item in range(100):
                assert mailbox.put(item)
            mailbox.close()

        threading.Thread(target=produce).start()
        return await asyncio.wait_for(waiting, 60)

    assert asyncio.run(consume()) == list(range(100))


def test_an_error_comes_once_and_after_the_items() -> None:
    mailbox: Mailbox[int] = Mailbox()
    mailbox.put(7)
    mailbox.close(OSError("gone"))

    async def consume() -> None:
        assert await mailbox.get() == 7
        with pytest.raises(OSError, match="gone"):
            await mailbox.get()
        assert await all_of(mailbox) == []

    asyncio.run(consume())


def test_nothing_comes_after_close() -> None:
    mailbox: Mailbox[int] = Mailbox()
    mailbox.close()
    mailbox.put(1)
    mailbox.close(OSError("too late"))
    assert asyncio.run(all_of(mailbox)) == []


def test_a_consumer_that_was_cancelled_can_come_back() -> None:
    mailbox: Mailbox[int] = Mailbox()

    async def consume() -> int:
        first = asyncio.ensure_future(mailbox.get())
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert mailbox.put(5)
        return await asyncio.wait_for(mailbox.get(), 60)

    assert asyncio.run(consume()) == 5


def test_a_closed_loop_is_told_to_whoever_puts() -> None:
    mailbox: Mailbox[int] = Mailbox()
    loop = asyncio.new_event_loop()
    waiting = loop.create_task(mailbox.get())
    loop.run_until_complete(asyncio.sleep(0))
    waiting.cancel()
    loop.close()
    assert not mailbox.put(1)
