"""Keeps the states of all live sessions under what a memory cap leaves for them."""

from __future__ import annotations

import gc
import threading
import weakref
from dataclasses import dataclass

from moeflux.errors import MoefluxError
from moeflux.memory import format_size


class SessionMemoryError(MoefluxError, MemoryError):
    """One more state does not fit under the memory cap: `wanted`, `free` and `cap` in bytes."""

    def __init__(self, what: str, wanted: int, free: int, cap: int) -> None:
        """`what`: the session, fork or checkpoint that was asked for."""
        super().__init__(
            f"{what} needs {format_size(wanted)} of state, "
            f"{format_size(free)} of {format_size(cap)} are free under the memory cap: drop other "
            "sessions or checkpoints, ask for fewer positions (context_size) or load with more "
            "memory"
        )
        self.wanted = wanted
        self.free = free
        self.cap = cap


@dataclass(frozen=True, eq=False)
class Reservation:
    """Bytes of a budget, given back once nothing refers to it any more."""

    nbytes: int


class StateBudget:
    """Bytes for the states of sessions, their forks and their checkpoints."""

    def __init__(self, nbytes: int | None) -> None:
        """None: there is no cap."""
        self._nbytes = nbytes
        self._used = 0
        # Reentrant: the collector may give back bytes in the middle of a reservation.
        self._lock = threading.RLock()

    def reserve(self, what: str, nbytes: int) -> Reservation:
        """Raises SessionMemoryError, which names `what`, unless it fits beside those that live."""
        with self._lock:
            if self._nbytes is not None:
                if self._used + nbytes > self._nbytes:
                    gc.collect()  # a traceback may hold a session that nobody can reach any more
                free = self._nbytes - self._used
                if nbytes > free:
                    raise SessionMemoryError(what, nbytes, free, self._nbytes)
            self._used += nbytes
        reservation = Reservation(nbytes)
        weakref.finalize(reservation, self._release, nbytes).atexit = False
        return reservation

    def _release(self, nbytes: int) -> None:
        with self._lock:
            self._used -= nbytes
