"""Every setting in one frozen object. The only module that reads the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields

_CHOICES = {
    "prefetch": ("off", "previous-token", "next-router", "combined", "auto"),
    "eviction": ("lru", "lfu", "lfru"),
    "read_mode": ("page-cache", "direct", "auto"),
    "verify": ("off", "sample", "always"),
}
_NUMBERS: dict[object, tuple[type[int] | type[float], str]] = {
    "int": (int, "an integer"),
    "float": (float, "a number"),
}


@dataclass(frozen=True)
class Settings:
    """How a model is run, never what it computes.

    Each field may be given as an environment variable: MOEFLUX_ and the field's name in capitals.
    """

    device: str = "auto"
    n_threads: int = 0
    """Compute threads of the CPU backend; 0 means one per core."""
    instruction_set: str = ""
    """Of the CPU backend; "" means the best this processor has."""
    n_read_workers: int = 8
    context_size: int = 0
    """Positions a session can hold; 0 means the model's own limit, at most 32768."""
    prefill_chunk: int = 256
    """Tokens per prefill chunk; a multiple of 64."""
    prefetch: str = "auto"
    """Of experts: off, previous-token, next-router, combined, or auto (combined, where it pays)."""
    eviction: str = "lfru"
    """Which expert gives way: lru, lfu, or lfru (frequency that fades)."""
    read_mode: str = "auto"
    """Of experts: page-cache, direct, or auto (the faster of both, measured at loading)."""
    n_read_parts: int = 1
    """Pieces of one expert that workers read at the same time."""
    verify: str = "sample"
    """Expert reads of a packed checkpoint compared with their checksums: off, sample, always."""
    read_timeout: float = 60.0
    """Seconds to wait for one expert before its read counts as failed."""
    n_read_retries: int = 1
    """Further attempts at a read that failed, before it is an error."""
    log_level: str = "warning"

    def __post_init__(self) -> None:
        if self.prefill_chunk < 64 or self.prefill_chunk % 64:
            raise ValueError(
                f"prefill_chunk must be a positive multiple of 64, got {self.prefill_chunk}"
            )
        for name in ("n_threads", "context_size", "n_read_retries"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("n_read_workers", "n_read_parts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.read_timeout <= 0:
            raise ValueError(f"read_timeout must be above 0 seconds, got {self.read_timeout}")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                wanted = ", ".join(choices)
                raise ValueError(f"{name} must be one of {wanted}, got {getattr(self, name)!r}")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Settings from MOEFLUX_* variables. Raises ValueError naming the variable."""
        environment = os.environ if environment is None else environment
        values: dict[str, str | int | float] = {}
        for field in fields(cls):
            variable = f"MOEFLUX_{field.name.upper()}"
            text = environment.get(variable)
            if text is None:
                continue
            if field.type in _NUMBERS:
                kind, description = _NUMBERS[field.type]
                try:
                    values[field.name] = kind(text)
                except ValueError:
                    raise ValueError(f"{variable} must be {description}, got {text!r}") from None
            else:
                values[field.name] = text
        return cls(**values)  # type: ignore[arg-type]
