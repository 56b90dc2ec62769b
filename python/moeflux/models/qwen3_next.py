"""Qwen3-Next: as Qwen3.5-MoE, with the delta net's input projections fused.

They are interleaved per key head.

Formulas: transformers `Qwen3NextForCausalLM`.
"""

from __future__ import annotations

from moeflux._core import Device
from moeflux.blocks.gated_delta_net import FusedProjections
from moeflux.checkpoint import Checkpoint, DenseWeights
from moeflux.models.loaded import LoadedModel
from moeflux.models.qwen3_5_moe import Config, load_hybrid

__all__ = ["Config", "load"]


def load(checkpoint: Checkpoint, device: Device) -> LoadedModel:
    """Dense weights on `device` and the places of the routed experts."""
    return load_hybrid(checkpoint, device, fused_projections)


def fused_projections(weights: DenseWeights, config: Config) -> FusedProjections:
    """in_proj_qkvz and in_proj_ba of one gated delta net."""
    shape = config.delta_net
    return FusedProjections(
        qkvz=weights.matrix("in_proj_qkvz", shape.channels + shape.value_width, config.hidden_size),
        ba=weights.matrix("in_proj_ba", 2 * shape.n_value_heads, config.hidden_size),
    )
