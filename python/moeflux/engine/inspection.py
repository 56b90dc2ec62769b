"""What a checkpoint is and whether it fits, from its headers alone: nothing is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from moeflux.checkpoint import Checkpoint
from moeflux.engine.budget import MemoryNeeds, memory_needs
from moeflux.engine.dry_run import DryDevice
from moeflux.memory import available_memory, format_size
from moeflux.models import load_model
from moeflux.settings import Settings


@dataclass(frozen=True)
class ModelInfo:
    """Facts of a checkpoint. Sizes in bytes."""

    path: str
    model_type: str
    quantisation: str
    n_layers: int
    hidden_size: int
    vocab_size: int
    context_size: int
    """Positions the model was made for."""
    n_experts: int
    top_k: int
    dense_nbytes: int
    expert_nbytes: int
    bytes_per_token: int
    """Routed expert bytes a token reads when none of its experts is in memory."""
    dense_bytes_per_token: int
    """Dense bytes a token touches: all but the embedding table, of which it needs one row."""
    floor_nbytes: int
    """Least memory that runs it: all but the experts, and top_k of them, in memory."""
    available_nbytes: int
    """To this process, with what it holds already."""
    fits: bool
    """It runs in the memory available now, its experts streamed."""
    fits_whole: bool
    """All of its experts fit as well, so that nothing is read twice."""
    reason: str


def inspect_checkpoint(folder: Path, settings: Settings | None = None) -> ModelInfo:
    """Read config and headers of the checkpoint in `folder`. Raises CheckpointError."""
    settings = settings or Settings.from_environment()
    checkpoint = Checkpoint.open(folder)
    loaded = load_model(checkpoint, DryDevice().as_device())
    config = loaded.config
    layers = [layer for layer in loaded.experts if layer is not None]
    top_k = config.num_experts_per_tok
    needs = memory_needs(loaded, settings)
    # What the process holds already is not available any more.
    available = available_memory() + needs.process_nbytes
    return ModelInfo(
        path=str(checkpoint.path),
        model_type=config.model_type,
        quantisation=_quantisation(checkpoint),
        n_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        vocab_size=config.vocab_size,
        context_size=config.max_position_embeddings,
        n_experts=config.num_experts,
        top_k=top_k,
        dense_nbytes=checkpoint.dense_nbytes,
        expert_nbytes=checkpoint.expert_nbytes,
        bytes_per_token=top_k * sum(layer.record_nbytes for layer in layers),
        dense_bytes_per_token=checkpoint.dense_nbytes - _embedding_nbytes(checkpoint),
        floor_nbytes=needs.floor_nbytes,
        available_nbytes=available,
        fits=needs.floor_nbytes <= available,
        fits_whole=needs.whole_nbytes <= available,
        reason=_reason(needs, available),
    )


def _embedding_nbytes(checkpoint: Checkpoint) -> int:
    """Bytes of the embedding table, none where the lm_head is the same matrix."""
    if checkpoint.lm_head == checkpoint.embed_tokens:
        return 0
    parts = (f"{checkpoint.embed_tokens}.{part}" for part in ("weight", "scales", "biases"))
    return sum(checkpoint.entry(name).nbytes for name in parts if checkpoint.has(name))


def _quantisation(checkpoint: Checkpoint) -> str:
    default = checkpoint.config.quantization.default
    if default is None:
        dtypes = {entry.dtype for entry in checkpoint.tensors.values()}
        return "none (" + ", ".join(sorted(dtypes)) + ")"
    return f"affine {default.bits}-bit, groups of {default.group_size}"


def _reason(needs: MemoryNeeds, available: int) -> str:
    floor, whole = needs.floor_nbytes, needs.whole_nbytes
    sizes = f"{format_size(available)} available"
    if floor > available:
        return f"needs at least {format_size(floor)}, {sizes}"
    if whole > available:
        return f"experts are streamed: {format_size(whole)} in all, {sizes}"
    return f"all of it fits: {format_size(whole)}, {sizes}"
