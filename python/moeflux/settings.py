"""Every setting in one frozen object. The only module that reads the environment."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from os import PathLike
from pathlib import Path

_log = logging.getLogger(__name__)

_CHOICES = {
    "activations": ("float32", "int8"),
    "prefetch": ("off", "previous-token", "next-router", "combined", "auto"),
    "eviction": ("lru", "lfu", "lfru"),
    "read_mode": ("page-cache", "direct", "auto"),
    "verify": ("off", "sample", "always"),
    "gpu_capture_mode": ("prefill", "decode"),
}
_FLAGS = {"1": True, "true": True, "on": True, "0": False, "false": False, "off": False, "": False}


def _flag(text: str) -> bool:
    if text.lower() not in _FLAGS:
        raise ValueError(text)
    return _FLAGS[text.lower()]


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError(text)
    return number


_COUNTS = ("gpu_capture_chunk", "gpu_capture_layer", "gpu_capture_token")
_PARSERS: dict[object, tuple[Callable[[str], int | float | bool], str]] = {
    "int": (int, "an integer"),
    "float": (float, "a number"),
    "bool": (_flag, "0 or 1"),
    **dict.fromkeys(_COUNTS, (_count, "an integer of at least 0")),
}
"""By type, or by name."""
_VARIABLES = {"scope_capture_path": "MLX_METAL_CAPTURE"}
"""Of fields whose variable is not MOEFLUX_ and their name."""


def user_path(name: str | PathLike[str]) -> Path:
    """The path that a user means, ~ being a home. Raises ValueError for the home of nobody."""
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{name}: there is no such home directory") from error


@dataclass(frozen=True)
class Settings:
    """How a model is run and, but for `activations`, never what it computes.

    Each field may be given as an environment variable: MOEFLUX_ and the field's name in capitals;
    `scope_capture_path` as MLX_METAL_CAPTURE.
    """

    device: str = "auto"
    n_threads: int = 0
    """Compute threads of the CPU backend; 0 means one per core."""
    instruction_set: str = ""
    """Of the CPU backend; "" means the best this processor has."""
    activations: str = "float32"
    """In products with quantised weights on the CPU: float32, or int8, which is lossy."""
    vram: str = ""
    """Cap on what a model takes of a device's own memory, such as "8GB" or "50%"; "" for none."""
    n_read_workers: int = 8
    context_size: int = 0
    """Positions a session can hold; 0 means the model's own limit, at most 32768."""
    prefill_chunk: int = 0
    """Tokens per prefill chunk, a multiple of 64; 0: 256, or more where that pays and fits."""
    prefetch: str = "auto"
    """Of experts: off, previous-token, next-router, combined; auto is next-router where it pays."""
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
    models_folder: str = "~/.moeflux/models"
    """Where `moeflux pull` puts models, and links to those that it put elsewhere."""
    chat_history: str = "~/.moeflux/chat_history"
    """What was typed in `moeflux chat`, to be called back; "" for no such file."""
    hub_endpoint: str = ""
    """Address of the hub; "" means that of huggingface_hub."""
    prefix_memory: str = "0"
    """Memory for the states after prompts that come again, such as "2GB"; 0 for none."""
    prefix_folder: str = ""
    """Folder for such states, which outlive the process; "" for none."""
    prefix_disk: str = "10GB"
    """Size that the folder is kept below."""
    cuda_driver: str = "libcuda.so.1"
    """Library of NVIDIA's driver."""
    cuda_compiler: str = ""
    """NVRTC's library; "" means that of the package nvidia-cuda-nvrtc, else the system's."""
    kernel_folder: str = "~/.moeflux/kernels"
    """Keeps compiled GPU kernels; "" keeps none."""
    gpu_timeout: float = 120.0
    """Seconds after which work that a CUDA GPU has not ended counts as lost."""
    log_level: str = "warning"
    gpu_capture_path: str = ""
    """GPU trace of a window of layers, written here, once per loaded model; "" for none."""
    gpu_capture_mode: str = "prefill"
    """What the window is part of: prefill (a chunk of a prompt) or decode (a token)."""
    gpu_capture_chunk: int = 0
    """Chunk of the prompt, with prefill."""
    gpu_capture_layer: int = 0
    """First layer of the window."""
    gpu_capture_n_layers: int = 2
    """Layers of the window, with prefill; below 1 counts as 1. With decode it is one layer."""
    gpu_capture_token: int = 10
    """Tokens that are decoded before the one captured, with decode."""
    scope_capture_path: str = ""
    """GPU trace of the first prompt or token, once per process; "" for none."""
    profile: bool = False
    """`moeflux run` prints GPU time by command buffer after the text."""
    profile_kernels: bool = False
    """The same by kernel too, which costs time of its own."""

    def __post_init__(self) -> None:
        if self.prefill_chunk < 0 or self.prefill_chunk % 64:
            raise ValueError(
                f"prefill_chunk must be a multiple of 64, or 0 to let it be chosen, "
                f"got {self.prefill_chunk}"
            )
        for name in ("n_threads", "context_size", "n_read_retries", *_COUNTS):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("n_read_workers", "n_read_parts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("read_timeout", "gpu_timeout"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0 seconds, got {getattr(self, name)}")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                wanted = ", ".join(choices)
                raise ValueError(f"{name} must be one of {wanted}, got {getattr(self, name)!r}")

    @property
    def lossy(self) -> tuple[str, ...]:
        """Settings that change what the model computes, as name=value."""
        return () if self.activations == "float32" else (f"activations={self.activations}",)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Settings from environment variables. Raises ValueError naming the variable.

        A capture never costs a run: a window's number that cannot be read counts as its default,
        and an unknown mode as no window, each with a warning.
        """
        environment = os.environ if environment is None else environment
        values: dict[str, str | int | float] = {}
        for field in fields(cls):
            variable = _VARIABLES.get(field.name, f"MOEFLUX_{field.name.upper()}")
            text = environment.get(variable)
            if text is None:
                continue
            by_type = _PARSERS.get(field.type, (str, "text"))
            parse, description = _PARSERS.get(field.name, by_type)
            try:
                values[field.name] = parse(text)
            except ValueError:
                wrong = f"{variable} must be {description}, got {text!r}"
                if not field.name.startswith("gpu_capture_"):
                    raise ValueError(wrong) from None
                _log.warning("%s; %s is taken", wrong, field.default)
        mode = values.get("gpu_capture_mode", cls.gpu_capture_mode)
        if mode not in _CHOICES["gpu_capture_mode"]:
            wrong = f"MOEFLUX_GPU_CAPTURE_MODE must be prefill or decode, got {mode!r}"
            _log.warning("%s; no window is captured", wrong)
            del values["gpu_capture_mode"]
            values["gpu_capture_path"] = ""
        return cls(**values)  # type: ignore[arg-type]
