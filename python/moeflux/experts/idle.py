"""How many bytes the drive can deliver between two demands. Times come in; no clock is read."""

from __future__ import annotations


class IdleWindow:
    """Running means of the drive's idle time per layer and of its rate, newer values weighing more.

    `weight` is the share of the newest value in a mean.
    """

    def __init__(self, weight: float = 0.1) -> None:
        if not 0 < weight <= 1:
            raise ValueError(f"weight must be above 0 and at most 1, got {weight}")
        self._weight = weight
        self._seconds: float | None = None
        self._nbytes_per_second: float | None = None

    def record_idle(self, seconds: float) -> None:
        """From the end of a layer's demanded reads to the next demand."""
        self._seconds = self._mean(self._seconds, seconds)

    def record_reads(self, nbytes: int, seconds: float) -> None:
        """Bytes that the demanded reads of one layer delivered together in `seconds`."""
        if seconds > 0:
            self._nbytes_per_second = self._mean(self._nbytes_per_second, nbytes / seconds)

    @property
    def nbytes(self) -> int:
        """Bytes that fit; 0 until both have been measured."""
        if self._seconds is None or self._nbytes_per_second is None:
            return 0
        return int(self._seconds * self._nbytes_per_second)

    def _mean(self, mean: float | None, value: float) -> float:
        if value < 0:
            raise ValueError(f"seconds and bytes must not be negative, got {value}")
        return value if mean is None else mean + self._weight * (value - mean)
