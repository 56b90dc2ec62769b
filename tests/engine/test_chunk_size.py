"""How many tokens of a prompt are prefilled at a time: where more pay, and what they cost."""

from __future__ import annotations

from typing import cast

import pytest

from moeflux._core import Device
from moeflux.engine import chunk_size, placement
from moeflux.engine.budget import DeviceMemory, MemoryNeeds
from moeflux.engine.chunk_size import place_model
from moeflux.engine.dry_run import Scratch
from moeflux.engine.placement import Caps, Placement, PromptChunk
from moeflux.models.loaded import LoadedModel
from moeflux.settings import Settings

SLOT, N_EXPERTS = 100, 1000
FIXED = 5000
AVAILABLE = 400_000


class FakeDevice:
    def __init__(self, tokens_at_once: int) -> None:
        self.tokens_at_once = tokens_at_once


def needs(device: DeviceMemory | None = None) -> MemoryNeeds:
    """Of scratch, 256 bytes for 256 tokens; of these the host sees a fourth."""
    return MemoryNeeds(
        process_nbytes=1000,
        dense_nbytes=3000,
        state_nbytes=744,
        scratch_nbytes=256,
        slot_nbytes=SLOT,
        n_experts=N_EXPERTS,
        top_k=4,
        host_scratch_nbytes=64,
        device=device,
    )


@pytest.fixture(autouse=True)
def _sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte of activations for every token."""
    monkeypatch.setattr(placement, "available_memory", lambda: AVAILABLE)
    monkeypatch.setattr(chunk_size, "scratch_of", lambda _, n: Scratch(n, n // 4))


def placed(
    memory: int | None,
    tokens_at_once: int = 256,
    vram: int | None = None,
    device: DeviceMemory | None = None,
    settings: Settings | None = None,
) -> Placement:
    loaded = cast(LoadedModel, None)
    fake = cast(Device, FakeDevice(tokens_at_once))
    return place_model(loaded, needs(device), settings or Settings(), fake, Caps(memory, vram))


def test_what_is_resident_takes_as_many_tokens_as_keep_the_device_busy() -> None:
    assert placed(None).chunk == PromptChunk(256)
    assert placed(None, 512).chunk == PromptChunk(512, 256, 64)
    assert placed(None, 1024).chunk == PromptChunk(1024, 768, 192)


def test_a_larger_chunk_does_not_push_an_expert_out_of_a_resident_model() -> None:
    whole = FIXED + N_EXPERTS * SLOT
    assert placed(whole + 767, 1024).chunk.n_tokens == 512
    assert placed(whole + 768, 1024).chunk.n_tokens == 1024
    assert placed(whole + 768, 1024).n_slots == N_EXPERTS


def test_a_streamed_model_reads_for_many_tokens_at_a_time() -> None:
    got = placed(FIXED + 800 * SLOT)
    assert got.chunk == PromptChunk(2048, 1792, 448)
    assert got.n_slots == 800 - 18


def test_what_is_nearly_resident_counts_as_resident() -> None:
    assert placed(FIXED + 875 * SLOT).chunk.n_tokens == 256
    assert placed(FIXED + 874 * SLOT).chunk.n_tokens == 2048


@pytest.mark.parametrize(
    ("n_slots", "n_tokens"),
    [(576, 2048), (575, 1024), (256, 1024), (255, 512), (96, 512), (95, 256)],
)
def test_slots_give_up_a_thirty_second_at_most(n_slots: int, n_tokens: int) -> None:
    got = placed(FIXED + n_slots * SLOT)
    assert got.chunk.n_tokens == n_tokens
    assert got.n_slots >= n_slots - n_slots // 32


def test_a_chunk_that_is_asked_for_is_taken() -> None:
    """Its activations are part of MemoryNeeds then."""
    got = placed(FIXED + 800 * SLOT, settings=Settings(prefill_chunk=192))
    assert (got.chunk, got.n_slots) == (PromptChunk(192), 800)


def test_activations_count_where_they_lie() -> None:
    own = DeviceMemory(total_nbytes=10**6, available_nbytes=10**6, staging_nbytes=0)
    device_fixed = 3000 + 744 + 192
    caps = 5000 + 300 * SLOT, device_fixed + 600 * SLOT
    got = placed(caps[0], vram=caps[1], device=own)
    assert got.chunk == PromptChunk(2048, 1792, 448)
    assert got.n_slots == 600 - 14
    assert got.device_nbytes(needs(own)) <= caps[1] < got.device_nbytes(needs(own)) + SLOT
    assert got.host_nbytes(needs(own)) <= caps[0] < got.host_nbytes(needs(own)) + SLOT
    assert got.states_nbytes(needs(own)) == caps[1] - device_fixed + 744 - 1344 - 586 * SLOT


@pytest.mark.parametrize("n_tokens", [-64, 63, 100])
def test_a_chunk_is_of_whole_blocks(n_tokens: int) -> None:
    with pytest.raises(ValueError, match=f"prefill_chunk must be a multiple of 64.* {n_tokens}"):
        Settings(prefill_chunk=n_tokens)
