"""How many tokens of a prompt are prefilled at a time, and what that leaves for experts."""

from __future__ import annotations

from moeflux._core import Device
from moeflux.engine.budget import LEAST_CHUNK, MemoryNeeds, least_chunk
from moeflux.engine.dry_run import scratch_of
from moeflux.engine.placement import Caps, Placement, PromptChunk, place_experts
from moeflux.models.loaded import LoadedModel
from moeflux.settings import Settings

LARGER_CHUNKS = 2048, 1024, 512
MOST_SLOTS_GIVEN_UP = 1 / 32
"""Of the slots, for the activations of a larger chunk."""
MOSTLY_RESIDENT = 7 / 8
"""From this share of the experts on, what a chunk has to read takes little of its time."""


def place_model(
    loaded: LoadedModel,
    needs: MemoryNeeds,
    settings: Settings,
    device: Device,
    caps: Caps,
) -> Placement:
    """Slots, records and the prefill chunk that caps leave.

    A chunk reads every expert that it needs once and has no slot: the more tokens it has, the less
    a token reads. With nearly all in slots, as many as keep the device busy are enough. Raises as
    place_experts.
    """
    placed = place_experts(needs, *caps, PromptChunk(least_chunk(settings)))
    if settings.prefill_chunk:
        return placed
    resident = placed.n_slots >= MOSTLY_RESIDENT * needs.n_experts
    most_tokens = device.tokens_at_once if resident else LARGER_CHUNKS[0]
    least = scratch_of(loaded, LEAST_CHUNK)
    for n_tokens in LARGER_CHUNKS:
        if n_tokens > most_tokens:
            continue
        more = scratch_of(loaded, n_tokens)
        nbytes, host_nbytes = more.nbytes - least.nbytes, more.host_nbytes - least.host_nbytes
        larger = place_experts(needs, *caps, PromptChunk(n_tokens, nbytes, host_nbytes))
        if larger.n_slots >= _enough_slots(placed, needs):
            return larger
    return placed


def _enough_slots(placed: Placement, needs: MemoryNeeds) -> int:
    """A model that is resident as a whole stays so."""
    if placed.n_slots == needs.n_experts:
        return placed.n_slots
    return placed.n_slots - int(MOST_SLOTS_GIVEN_UP * placed.n_slots)
