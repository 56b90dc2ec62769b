"""The quantisation section of config.json: which matrices are affine codes of how many bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from moeflux.checkpoint.config_reader import ConfigReader
from moeflux.quant import AFFINE_BITS, GROUP_SIZES

SECTIONS = ("quantization", "quantization_config")
_DEFAULT_KEYS = ("bits", "group_size", "mode")


@dataclass(frozen=True)
class Affine:
    """Codes of `bits` bits with a scale and a bias per `group_size` columns (MLX affine)."""

    bits: int
    group_size: int


@dataclass(frozen=True)
class Quantization:
    """What config.json says of each matrix: `default`, or what `overrides` has under its name."""

    default: Affine | None = None
    overrides: Mapping[str, Affine | None] = field(default_factory=dict)

    def of(self, name: str) -> Affine | None:
        """How `name` (with or without ".weight") is quantised if it is; None if it may not be."""
        return self.overrides.get(name.removesuffix(".weight"), self.default)


def read_quantization(config: ConfigReader, text: ConfigReader) -> Quantization:
    """The section of `config`, the whole file, or of `text`, its text_config.

    Raises CheckpointError, naming the key, for another mode or method than MLX affine quantisation
    and for unsupported bits or group sizes.
    """
    for reader in (config, text):
        for key in SECTIONS:
            if reader.has(key):
                return _read_section(reader.child(key))
    return Quantization()


def _read_section(section: ConfigReader) -> Quantization:
    if section.has("quant_method"):
        raise section.error("quant_method", "MLX affine quantisation, which has no such key")
    default = _read_affine(section, None)
    overrides: dict[str, Affine | None] = {}
    for name, value in section.values.items():
        if name in _DEFAULT_KEYS:
            continue
        if isinstance(value, bool):
            affine = default if value else None
        elif isinstance(value, dict):
            affine = _read_affine(section.child(name), default)
        else:
            raise section.error(name, "true, false or an object with bits and group_size")
        overrides[name.removesuffix(".weight")] = affine
    return Quantization(default, overrides)


def _read_affine(section: ConfigReader, default: Affine | None) -> Affine:
    if section.text("mode", default="affine") != "affine":
        raise section.error("mode", "'affine', the only mode supported")
    bits = section.integer("bits", default=default.bits if default else None)
    if bits not in AFFINE_BITS:
        raise section.error("bits", f"one of {AFFINE_BITS}")
    group_size = section.integer("group_size", default=default.group_size if default else None)
    if group_size not in GROUP_SIZES:
        raise section.error("group_size", f"one of {GROUP_SIZES}")
    return Affine(bits, group_size)
