"""Items from a thread to one asyncio consumer. Knows nothing of what they are."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Mailbox(Generic[Item]):
    """A queue without a bound: putting never waits, however slow the consumer is.

    Any thread may put and close; get() belongs to one consumer at a time, on any event loop.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._items: deque[Item] = deque()
        self._closed = False
        self._error: BaseException | None = None
        self._waiting: asyncio.Future[None] | None = None

    def put(self, item: Item) -> bool:
        """Add an item; False if the consumer's event loop is gone. Nothing after close()."""
        with self._lock:
            if not self._closed:
                self._items.append(item)
            return self._wake()

    def close(self, error: BaseException | None = None) -> bool:
        """Nothing follows but `error`, which get() raises in the end; returned as by put()."""
        with self._lock:
            if not self._closed:
                self._closed, self._error = True, error
            return self._wake()

    async def get(self) -> Item:
        """The next item.

        Raises StopAsyncIteration once there is none and none will follow; before that, once, the
        error that close() was given.
        """
        while True:
            with self._lock:
                if self._items:
                    return self._items.popleft()
                if self._closed:
                    error, self._error = self._error, None
                    raise StopAsyncIteration if error is None else error
                waiting = self._waiting = asyncio.get_running_loop().create_future()
            await waiting

    def _wake(self) -> bool:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            try:
                waiting.get_loop().call_soon_threadsafe(_resolve, waiting)
            except RuntimeError:  # the loop is closed, and the consumer with it
                return False
        return True


def _resolve(waiting: asyncio.Future[None]) -> None:
    """Unless the consumer was cancelled meanwhile."""
    if not waiting.done():
        waiting.set_result(None)
