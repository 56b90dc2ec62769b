"""Why a scheduler does not take a request."""

from __future__ import annotations

from moeflux.errors import MoefluxError


class QueueFullError(MoefluxError):
    """No room for one more request: `max_queued` wait already."""

    def __init__(self, max_queued: int) -> None:
        super().__init__(f"the queue is full: {max_queued} requests wait already; try again later")
        self.max_queued = max_queued


class DrainingError(MoefluxError):
    """The scheduler finishes what it has, or has stopped, and takes no more requests."""
