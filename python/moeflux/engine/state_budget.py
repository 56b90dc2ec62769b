"""Keeps the states of all live sessions under what a memory cap leaves for them."""

from __future__ import annotations

import gc
import weakref

from moeflux.errors import MoefluxError
from moeflux.memory import format_size


class SessionMemoryError(MoefluxError, MemoryError):
    """The state of one more session does not fit under the memory cap: `wanted`, `free`, `cap`."""

    def __init__(self, context_size: int, wanted: int, free: int, cap: int) -> None:
        super().__init__(
            f"a session of {context_size} positions needs {format_size(wanted)} of state, "
            f"{format_size(free)} of {format_size(cap)} are free under the memory cap: drop other "
            "sessions, ask for fewer positions (context_size) or load with more memory"
        )
        self.wanted = wanted
        self.free = free
        self.cap = cap


class StateBudget:
    """Bytes for the states of sessions; each gives its own back when it is gone."""

    def __init__(self, nbytes: int | None) -> None:
        """None: there is no cap."""
        self._nbytes = nbytes
        self._used = 0

    def check(self, context_size: int, nbytes: int) -> None:
        """Raises SessionMemoryError unless a state of `nbytes` fits beside those that live."""
        if self._nbytes is None:
            return
        if self._used + nbytes > self._nbytes:
            gc.collect()  # a traceback may hold a session that nobody can reach any more
        free = self._nbytes - self._used
        if nbytes > free:
            raise SessionMemoryError(context_size, nbytes, free, self._nbytes)

    def hold(self, owner: object, nbytes: int) -> None:
        """Count `nbytes` as long as `owner` lives."""
        self._used += nbytes
        weakref.finalize(owner, self._release, nbytes).atexit = False

    def _release(self, nbytes: int) -> None:
        self._used -= nbytes
