"""A device that allocates and runs nothing, and what a model's layers would need of a real one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from typing_extensions import Buffer as SupportsBuffer

from moeflux._core import Buffer, Device, Mapping, Pipeline
from moeflux.blocks.moe import SparseMoe
from moeflux.blocks.workspace import Workspace
from moeflux.engine.runtime import LOGIT_ROWS
from moeflux.experts.stream import slot_nbytes
from moeflux.models.loaded import LoadedModel
from moeflux.ops.operands import ExpertBatch


@dataclass(frozen=True)
class DryBuffer:
    """A number of bytes."""

    nbytes: int
    host: bool = False

    def view(self, offset: int, nbytes: int) -> DryBuffer:
        if offset < 0 or offset + nbytes > self.nbytes:
            raise ValueError(f"{nbytes} bytes at {offset} exceed a buffer of {self.nbytes}")
        return DryBuffer(nbytes, self.host)


class DryRecording:
    """Takes dispatches and forgets them."""

    def __init__(self, device: DryDevice) -> None:
        self.device = device

    def dispatch(self, pipeline: Pipeline, buffers: Sequence[Buffer], params: bytes) -> None:
        """Nothing is kept."""


class DryDevice:
    """Counts what is uploaded; wraps and buffers cost nothing."""

    def __init__(self) -> None:
        self.uploaded_nbytes = 0

    def buffer(self, nbytes: int, host: bool = False) -> DryBuffer:
        return DryBuffer(nbytes, host)

    def wrap(self, mapping: Mapping) -> DryBuffer:
        return DryBuffer(mapping.nbytes)

    def upload(self, data: SupportsBuffer) -> DryBuffer:
        nbytes = memoryview(data).nbytes
        self.uploaded_nbytes += nbytes
        return DryBuffer(nbytes)

    def pipeline(self, kernel: str, **constants: int) -> None:
        """Any kernel will do."""

    def record(self) -> DryRecording:
        return DryRecording(self)

    def as_device(self) -> Device:
        """Itself, where a Device is wanted."""
        return cast(Device, self)


@dataclass(frozen=True)
class Scratch:
    """Bytes of activations."""

    nbytes: int
    host_nbytes: int
    """Of these, in memory that the host sees."""


def scratch_of(loaded: LoadedModel, n_tokens: int) -> Scratch:
    """Activations for `n_tokens` tokens, found by a dry run of every layer."""
    device = DryDevice().as_device()
    work, decoder = Workspace(device, n_tokens), loaded.decoder
    encoder = device.record()
    top_k, size = loaded.config.num_experts_per_tok, slot_nbytes(loaded.experts)
    table = device.buffer(4 * n_tokens * top_k, host=True)
    batch = ExpertBatch(device.buffer(size), size, table, table, top_k)
    for layer in decoder.layers:
        decoder.encode_mixer(encoder, layer, layer.new_state(device, n_tokens), work)
        if isinstance(layer.mlp, SparseMoe):
            decoder.encode_moe(encoder, layer, batch, work)
    logits_nbytes = LOGIT_ROWS * 4 * decoder.vocabulary
    return Scratch(work.nbytes + logits_nbytes, work.host_nbytes + logits_nbytes)
