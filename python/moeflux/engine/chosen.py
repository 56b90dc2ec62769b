"""What settings choose for a model: its device, and how its experts are read and kept."""

from __future__ import annotations

from moeflux._core import Device
from moeflux.backends import open_device
from moeflux.engine.budget import MemoryNeeds
from moeflux.engine.placement import Placement
from moeflux.experts.read_mode import ReadMode
from moeflux.experts.reads import ReadSettings, Verify
from moeflux.experts.stream import StreamSettings
from moeflux.settings import Settings


def stream_settings(needs: MemoryNeeds, placement: Placement, settings: Settings) -> StreamSettings:
    """What the settings and the room in memory say of experts."""
    reads = ReadSettings(
        n_workers=settings.n_read_workers,
        mode=ReadMode(settings.read_mode),
        n_parts=settings.n_read_parts,
        verify=Verify(settings.verify),
        timeout=settings.read_timeout,
        n_retries=settings.n_read_retries,
        page_cache_share=needs.page_cache_share(placement.n_slots, placement.n_records),
    )
    return StreamSettings(
        placement.n_slots, placement.n_records, settings.eviction, settings.prefetch, reads
    )


def open_named_device(asked: str, settings: Settings) -> Device:
    """The device asked for, else that of the settings, else the best one there is."""
    return open_device(settings.device if asked == "auto" else asked, settings)
