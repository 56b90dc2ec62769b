"""Errors that a check makes a finding of, rather than end the examination."""

from __future__ import annotations

from moeflux.errors import MoefluxError

EXPECTED = (MoefluxError, OSError, MemoryError, RuntimeError, ValueError)
"""What a broken device, driver, drive or checkpoint raises; anything else is a mistake of ours."""


def told(error: BaseException) -> str:
    """One line: the kind and the message."""
    return " ".join(f"{type(error).__name__}: {error}".split())
