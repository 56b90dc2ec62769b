"""Every setting in one frozen object. The only module that reads the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields


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
    log_level: str = "warning"

    def __post_init__(self) -> None:
        if self.prefill_chunk < 64 or self.prefill_chunk % 64:
            raise ValueError(
                f"prefill_chunk must be a positive multiple of 64, got {self.prefill_chunk}"
            )
        for name in ("n_threads", "context_size"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.n_read_workers < 1:
            raise ValueError(f"n_read_workers must be at least 1, got {self.n_read_workers}")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Settings from MOEFLUX_* variables. Raises ValueError naming the variable."""
        environment = os.environ if environment is None else environment
        values: dict[str, str | int] = {}
        for field in fields(cls):
            variable = f"MOEFLUX_{field.name.upper()}"
            text = environment.get(variable)
            if text is None:
                continue
            if field.type == "int":
                try:
                    values[field.name] = int(text)
                except ValueError:
                    raise ValueError(f"{variable} must be an integer, got {text!r}") from None
            else:
                values[field.name] = text
        return cls(**values)  # type: ignore[arg-type]
