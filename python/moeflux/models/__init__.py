"""Supported architectures: one module per `model_type` of config.json."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import cast

from moeflux._core import Device
from moeflux.checkpoint import Checkpoint
from moeflux.errors import CheckpointError
from moeflux.models.loaded import LoadedModel, ModelConfig

MODEL_TYPES = ("qwen3_5_moe", "qwen3_moe", "qwen3_next")


def read_config(checkpoint: Checkpoint) -> ModelConfig:
    """The architecture's configuration. Raises CheckpointError as load_model does."""
    config = _module(checkpoint).Config.from_checkpoint(checkpoint)
    return cast(ModelConfig, config)


def load_model(checkpoint: Checkpoint, device: Device) -> LoadedModel:
    """Dense weights on the device and the places of the routed experts.

    Raises CheckpointError for an unknown model_type (listing those known), a missing or misshapen
    tensor or config key.
    """
    return cast(LoadedModel, _module(checkpoint).load(checkpoint, device))


def _module(checkpoint: Checkpoint) -> ModuleType:
    if checkpoint.model_type not in MODEL_TYPES:
        raise CheckpointError(
            f"{checkpoint.config.path}: model_type {checkpoint.model_type!r} is not supported; "
            f"known are {', '.join(MODEL_TYPES)}"
        )
    return import_module(f"moeflux.models.{checkpoint.model_type}")
