"""What a model needs in memory and how many expert slots a cap leaves.

Decides before anything is allocated.
"""

from __future__ import annotations

from dataclasses import dataclass

from moeflux._core import Device
from moeflux.blocks.moe import SparseMoe
from moeflux.blocks.workspace import Workspace
from moeflux.checkpoint import Checkpoint
from moeflux.engine.dry_run import DryDevice
from moeflux.engine.runtime import LOGIT_ROWS
from moeflux.errors import MoefluxError
from moeflux.experts.stream import slot_nbytes
from moeflux.memory import available_memory, format_size, parse_size, resident_memory
from moeflux.models import load_model
from moeflux.models.loaded import LoadedModel, ModelConfig
from moeflux.ops.operands import ExpertBatch
from moeflux.settings import Settings

DEFAULT_SHARE_OF_AVAILABLE_MEMORY = 0.8
MAX_DEFAULT_CONTEXT = 32768


@dataclass(frozen=True)
class MemoryNeeds:
    """Bytes by purpose, whatever the number of slots."""

    process_nbytes: int
    """Interpreter and libraries, as measured."""
    dense_nbytes: int
    state_nbytes: int
    """One session at the context asked for."""
    scratch_nbytes: int
    """Activations of decode and of a prefill chunk."""
    slot_nbytes: int
    n_experts: int
    """Routed experts of all layers together."""
    top_k: int
    prefix_nbytes: int = 0
    """Room for stored prefixes in memory."""
    device_free_nbytes: int | None = None
    """Of a device with memory of its own: free for all but the process. None: the host's."""

    @property
    def fixed_nbytes(self) -> int:
        """All but the slots."""
        model_nbytes = self.dense_nbytes + self.state_nbytes + self.scratch_nbytes
        return self.process_nbytes + model_nbytes + self.prefix_nbytes

    @property
    def floor_nbytes(self) -> int:
        """Least memory that runs the model: top_k slots for decode, two for prefill."""
        return self.fixed_nbytes + max(2, self.top_k) * self.slot_nbytes

    @property
    def whole_nbytes(self) -> int:
        """Memory in which every expert has a slot."""
        return self.fixed_nbytes + self.n_experts * self.slot_nbytes

    def n_slots(self, memory: int | str | None) -> int:
        """Slots that a cap on the whole process leaves, at most one per expert.

        Without a cap, a share of the memory that is available now, or that the device has free if
        it has its own, which no cap exceeds. Raises MemoryCapError below the floor.
        """
        free = self.device_free_nbytes
        if memory is None:
            available = available_memory() if free is None else free
            cap = self.process_nbytes + int(DEFAULT_SHARE_OF_AVAILABLE_MEMORY * available)
        else:
            cap = parse_size(memory)
        if free is not None:
            cap = min(cap, self.process_nbytes + free)
        if cap < self.floor_nbytes:
            raise MemoryCapError(cap, self)
        return min((cap - self.fixed_nbytes) // self.slot_nbytes, self.n_experts)

    def states_nbytes(self, n_slots: int, cap_nbytes: int) -> int:
        """What a cap leaves for the states of all sessions together, beside so many slots."""
        others = self.fixed_nbytes - self.state_nbytes + n_slots * self.slot_nbytes
        return cap_nbytes - others

    def page_cache_share(self, n_slots: int) -> float:
        """Of the experts without a slot, how many stay in the page cache beside the process.

        It also keeps, until they age, those that have gone from there into slots.
        """
        n_without = self.n_experts - n_slots
        if n_without == 0:
            return 1.0
        taken = self.fixed_nbytes - self.process_nbytes + n_slots * self.slot_nbytes
        if self.device_free_nbytes is not None:
            taken = 0
        n_cached = (available_memory() - taken) // self.slot_nbytes
        return min(1.0, max(0.0, (n_cached - n_slots) / n_without))

    def rows(self) -> list[tuple[str, str]]:
        """Purpose and size, for people."""
        return [
            ("interpreter and libraries", format_size(self.process_nbytes)),
            ("dense weights", format_size(self.dense_nbytes)),
            ("state of one session", format_size(self.state_nbytes)),
            ("activations", format_size(self.scratch_nbytes)),
            *([("stored prefixes", format_size(self.prefix_nbytes))] if self.prefix_nbytes else []),
            (
                f"expert slots, at least {max(2, self.top_k)} of {self.n_experts}",
                self._floor_slots(),
            ),
        ]

    def _floor_slots(self) -> str:
        return format_size(self.floor_nbytes - self.fixed_nbytes)


class MemoryCapError(MoefluxError, ValueError):
    """A cap below the least memory that runs the model: `cap_nbytes` and the `needs` by purpose."""

    def __init__(self, cap_nbytes: int, needs: MemoryNeeds, requests_nbytes: int = 0) -> None:
        """`requests_nbytes`: what a server keeps of the cap for requests."""
        rows = list(needs.rows())
        if requests_nbytes:
            rows.append(("requests", format_size(requests_nbytes)))
        parts = ", ".join(f"{purpose} {size}" for purpose, size in rows)
        wanted = format_size(needs.floor_nbytes + requests_nbytes)
        super().__init__(
            f"memory of {format_size(cap_nbytes)} is below the {wanted} "
            f"that this model needs: {parts}"
        )
        self.cap_nbytes = cap_nbytes
        self.needs = needs


def memory_needs(
    loaded: LoadedModel,
    context_size: int,
    prefill_chunk: int,
    prefix_nbytes: int = 0,
    device: Device | None = None,
) -> MemoryNeeds:
    """What a model needs for one session of `context_size` positions, and stored prefixes.

    On `device`, if it is known.
    """
    layers = [layer for layer in loaded.experts if layer is not None]
    return MemoryNeeds(
        process_nbytes=resident_memory(),
        dense_nbytes=loaded.dense_nbytes,
        state_nbytes=loaded.decoder.state_nbytes(context_size),
        scratch_nbytes=scratch_nbytes(loaded, 1) + scratch_nbytes(loaded, prefill_chunk),
        slot_nbytes=slot_nbytes(layers),
        n_experts=sum(layer.n_experts for layer in layers),
        top_k=loaded.config.num_experts_per_tok,
        prefix_nbytes=prefix_nbytes,
        device_free_nbytes=None if device is None else device.memory().get("free"),
    )


def memory_needs_of(checkpoint: Checkpoint, context_size: int, prefill_chunk: int) -> MemoryNeeds:
    """The same from a checkpoint's headers alone. Raises CheckpointError."""
    return memory_needs(
        load_model(checkpoint, DryDevice().as_device()), context_size, prefill_chunk
    )


def default_context_size(config: ModelConfig, settings: Settings) -> int:
    """Positions of a session that does not ask for another number."""
    return settings.context_size or min(config.max_position_embeddings, MAX_DEFAULT_CONTEXT)


def prefix_memory_nbytes(settings: Settings) -> int:
    """Room for stored prefixes in memory; 0 for none. Raises ValueError."""
    if settings.prefix_memory == "0":
        return 0
    try:
        return parse_size(settings.prefix_memory)
    except ValueError as error:
        raise ValueError(f"prefix_memory: {error}") from error


def weight_nbytes_per_token(loaded: LoadedModel) -> int:
    """Weights that a decode step touches: dense ones but the embedding table, top_k experts."""
    decoder = loaded.decoder
    tied = decoder.lm_head.weight is decoder.embedding.weight
    dense = loaded.dense_nbytes - (0 if tied else decoder.embedding.nbytes)
    records = sum(layer.record_nbytes for layer in loaded.experts if layer is not None)
    return dense + loaded.config.num_experts_per_tok * records


def scratch_nbytes(loaded: LoadedModel, n_tokens: int) -> int:
    """Bytes of activations for `n_tokens` tokens, found by a dry run of every layer."""
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
    return work.nbytes + LOGIT_ROWS * 4 * decoder.vocabulary
