"""Typed access to a JSON object, with errors that name file, key, wanted and got."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from moeflux.errors import CheckpointError

T = TypeVar("T")

ROPE_TYPES = ("default", "mrope")
"""Rotary embeddings of plain text that are one angle per pair and position, without scaling."""


@dataclass(frozen=True)
class RopeParameters:
    """Rotary position embedding: base of the frequencies and share of the head that is rotated."""

    theta: float
    partial_rotary_factor: float = 1.0


class ConfigReader:
    """Getters for the keys of one JSON object. A null counts as missing.

    Every getter raises CheckpointError for a value of another type, and for a missing key that has
    no `default`.
    """

    def __init__(self, values: Mapping[str, object], path: Path, section: str = "") -> None:
        self.values = values
        self.path = path
        self.section = section

    def has(self, key: str) -> bool:
        return self.values.get(key) is not None

    def error(self, key: str, wanted: str) -> CheckpointError:
        """The error to raise when `key` is not what was wanted."""
        got = reprlib.repr(self.values[key]) if self.has(key) else "nothing"
        return CheckpointError(f"{self.path}: {self._full(key)}: wanted {wanted}, got {got}")

    def integer(self, key: str, *, default: int | None = None, minimum: int = 1) -> int:
        def accept(value: object) -> int | None:
            return value if type(value) is int and minimum <= value < 2**63 else None

        return self._get(key, accept, f"an integer of at least {minimum}", default)

    def number(self, key: str, *, default: float | None = None) -> float:
        def accept(value: object) -> float | None:
            # An integer may be too large for a float, and JSON as Python reads it has infinities.
            if type(value) is float and math.isfinite(value):
                return value
            return float(value) if type(value) is int and abs(value) < 2**63 else None

        return self._get(key, accept, "a finite number", default)

    def boolean(self, key: str, *, default: bool | None = None) -> bool:
        def accept(value: object) -> bool | None:
            return value if isinstance(value, bool) else None

        return self._get(key, accept, "true or false", default)

    def text(self, key: str, *, default: str | None = None) -> str:
        def accept(value: object) -> str | None:
            return value if isinstance(value, str) else None

        return self._get(key, accept, "a string", default)

    def texts(self, key: str, *, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
        def accept(value: object) -> tuple[str, ...] | None:
            if isinstance(value, list) and all(isinstance(item, str) for item in value):
                return tuple(value)
            return None

        return self._get(key, accept, "a list of strings", default)

    def integers(self, key: str, *, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        def accept(value: object) -> tuple[int, ...] | None:
            if isinstance(value, list) and all(_is_count(item) for item in value):
                return tuple(value)
            return None

        return self._get(key, accept, "a list of integers of at least 0", default)

    def child(self, key: str) -> ConfigReader:
        """A reader for the object under `key`."""

        def accept(value: object) -> ConfigReader | None:
            return (
                ConfigReader(value, self.path, self._full(key)) if isinstance(value, dict) else None
            )

        return self._get(key, accept, "an object", None)

    def rope(self, *, partial_rotary_factor: float = 1.0) -> RopeParameters:
        """The rotary embedding, from rope_parameters or from rope_theta and partial_rotary_factor.

        `partial_rotary_factor` is the architecture's own, where config.json names none. Refuses
        scaled embeddings (yarn, linear, dynamic, ...), also under the older name rope_scaling.
        """
        for key in ("rope_parameters", "rope_scaling"):
            if self.has(key):
                _check_rope_type(self.child(key))
        source = self.child("rope_parameters") if self.has("rope_parameters") else self
        theta = source.number("rope_theta")
        if theta <= 0:
            raise source.error("rope_theta", "a positive number")
        factor_source = source if source.has("partial_rotary_factor") else self
        factor = factor_source.number("partial_rotary_factor", default=partial_rotary_factor)
        if not 0 < factor <= 1:
            raise factor_source.error("partial_rotary_factor", "a number above 0, at most 1")
        return RopeParameters(theta, factor)

    def _full(self, key: str) -> str:
        return f"{self.section}.{key}" if self.section else key

    def _get(
        self, key: str, accept: Callable[[object], T | None], wanted: str, default: T | None
    ) -> T:
        if not self.has(key) and default is not None:
            return default
        value = accept(self.values.get(key))
        if value is None:
            raise self.error(key, wanted)
        return value


def _check_rope_type(rope: ConfigReader) -> None:
    for key in ("rope_type", "type"):
        if rope.text(key, default="default") not in ROPE_TYPES:
            raise rope.error(key, " or ".join(ROPE_TYPES))


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63
