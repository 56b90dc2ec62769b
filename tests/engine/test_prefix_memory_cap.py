"""Memory for stored prefixes counts under the cap of the process."""

from __future__ import annotations

from pathlib import Path

import pytest

import moeflux
from moeflux.engine.budget import MemoryNeeds
from tiny_checkpoint import CheckpointFolders


@pytest.fixture
def folder(tiny_folder: CheckpointFolders, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny checkpoint, in a process that holds no memory."""
    monkeypatch.setattr("moeflux.engine.budget.resident_memory", lambda: 0)
    return tiny_folder("qwen3_5_moe", "mlx")


def needs(folder: Path, **options: str) -> MemoryNeeds:
    settings = moeflux.Settings(context_size=128, **options)
    with moeflux.load(folder, device="cpu", settings=settings) as model:
        return model.memory_needs


def test_stored_prefixes_take_slots(folder: Path) -> None:
    without = needs(folder)
    cap = without.fixed_nbytes + 10 * without.slot_nbytes
    for n_less in (0, 3):
        memory = str(n_less * without.slot_nbytes)
        settings = moeflux.Settings(context_size=128, prefix_memory=memory)
        with moeflux.load(folder, device="cpu", memory=cap, settings=settings) as model:
            assert model.runtime.experts.n_slots == 10 - n_less


def test_sessions_do_not_get_the_memory_of_prefixes(folder: Path) -> None:
    memory = needs(folder).state_nbytes
    settings = moeflux.Settings(context_size=128, prefix_memory=str(memory))
    cap = needs(folder, prefix_memory=str(memory)).whole_nbytes
    with moeflux.load(folder, device="cpu", memory=cap, settings=settings) as model:
        first = model.session()
        with pytest.raises(moeflux.SessionMemoryError):
            model.session()
        assert first.prefill([1, 2]).size


def test_a_cap_below_what_prefixes_are_to_have_is_refused_with_the_numbers(folder: Path) -> None:
    cap = needs(folder).whole_nbytes
    settings = moeflux.Settings(context_size=128, prefix_memory="2GB")
    with pytest.raises(moeflux.MemoryCapError, match="stored prefixes 2 GB"):
        moeflux.load(folder, device="cpu", memory=cap, settings=settings)


@pytest.mark.parametrize("name", ["prefix_memory", "prefix_disk"])
def test_a_size_that_is_none_is_refused_by_name(folder: Path, tmp_path: Path, name: str) -> None:
    options = {"prefix_folder": str(tmp_path), name: "much"}
    with pytest.raises(ValueError, match=f"{name}: a memory size looks like"):
        moeflux.load(folder, device="cpu", settings=moeflux.Settings(**options))
