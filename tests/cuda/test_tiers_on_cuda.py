"""What users are told of the tiers of a device with memory of its own: receipts, plans, errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import moeflux
from moeflux.cli import main
from moeflux.engine import decode_speed, read_speed
from moeflux.engine.budget import MemoryNeeds
from tiny_checkpoint import CheckpointFolders

pytestmark = pytest.mark.cuda

N_EXPERTS = 4 * 8
Output = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tiny_folder: CheckpointFolders, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("moeflux.engine.budget.resident_memory", lambda: 0)
    monkeypatch.setattr(read_speed, "MEASURED_SECONDS", 0.02)
    monkeypatch.setattr(decode_speed, "MEASURED_SECONDS", 0.01)
    monkeypatch.setenv("COLUMNS", "120")
    return tiny_folder("qwen3_moe", "mlx")


@pytest.fixture
def needs(folder: Path) -> MemoryNeeds:
    with moeflux.load(folder, device="cuda") as model:
        return model.memory_needs


def caps(needs: MemoryNeeds, n_slots: int, n_records: int) -> list[str]:
    """Options that leave so many."""
    vram = needs.device_fixed_nbytes + n_slots * needs.slot_nbytes
    memory = needs.host_fixed_nbytes + n_records * needs.slot_nbytes
    return ["--device", "cuda", "--vram", str(vram), "--memory", str(memory)]


def test_the_receipt_tells_copies_from_reads(
    folder: Path, needs: MemoryNeeds, capsys: Output
) -> None:
    options = [*caps(needs, 4, N_EXPERTS), "--max-tokens", "12", "--stats-json", "-"]
    assert main(["run", str(folder), "def f():", *options]) == 0
    captured = capsys.readouterr()
    cost = json.loads(captured.out[captured.out.index("\n{") :])
    phases = [cost["prefill"], cost["decode"]]
    # Each expert is read once at most, since records have room for all.
    assert sum(phase["n_reads"] for phase in phases) <= N_EXPERTS
    assert cost["bytes_copied"] == sum(phase["bytes_copied"] for phase in phases) > 0
    assert (cost["n_slots"], cost["n_records"]) == (4, N_EXPERTS)
    assert cost["vram_cap_nbytes"] == needs.device_fixed_nbytes + 4 * needs.slot_nbytes
    assert "copied" in captured.err
    assert "from RAM" in captured.err


def test_tables_tell_what_was_copied(folder: Path, needs: MemoryNeeds, capsys: Output) -> None:
    options = [*caps(needs, 4, 9), "--max-tokens", "4", "--stats"]
    assert main(["run", str(folder), "def f():", *options]) == 0
    told = capsys.readouterr().err
    assert "copied from RAM" in told
    assert "experts in RAM  at most 9" in told
    assert "VRAM cap" in told


def test_the_plan_tells_what_lies_where(folder: Path, needs: MemoryNeeds, capsys: Output) -> None:
    assert main(["plan", str(folder), *caps(needs, 4, 18)]) == 0
    told = capsys.readouterr().out
    assert "4 of 32 experts (12%)" in told
    assert "18 of 32 experts" in told
    assert "14 of 32 experts" in told
    assert "50% from RAM" in told


def test_json_of_the_plan_has_the_bytes_of_both_memories(
    folder: Path, needs: MemoryNeeds, capsys: Output
) -> None:
    assert main(["plan", str(folder), *caps(needs, 4, 18), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["n_slots"], found["n_records"], found["n_on_drive"]) == (4, 18, 14)
    assert found["device_nbytes"] == needs.device_fixed_nbytes + 4 * needs.slot_nbytes
    assert found["host_nbytes"] == needs.host_fixed_nbytes + 18 * needs.slot_nbytes
    assert found["measured"]["records"]["nbytes_per_second"] > 0


def test_the_plan_is_what_loading_gives(folder: Path, needs: MemoryNeeds) -> None:
    memory = needs.host_fixed_nbytes + 7 * needs.slot_nbytes
    vram = needs.device_fixed_nbytes + 5 * needs.slot_nbytes
    planned = moeflux.plan(folder, device="cuda", memory=memory, vram=vram)
    with moeflux.load(folder, device="cuda", memory=memory, vram=vram) as model:
        assert planned.placement == model.placement
        assert model.runtime.experts.records is not None


def test_a_session_beyond_the_vram_cap_is_refused(folder: Path, needs: MemoryNeeds) -> None:
    vram = needs.device_floor_nbytes
    with moeflux.load(folder, device="cuda", vram=vram) as model:
        first = model.session()
        with pytest.raises(moeflux.SessionMemoryError):
            model.session()
        assert first.position == 0


@pytest.mark.parametrize(
    ("option", "wanted"), [("--vram", "on the device"), ("--memory", "beside")]
)
def test_a_cap_that_is_too_small_is_named(
    folder: Path, capsys: Output, option: str, wanted: str
) -> None:
    assert main(["run", str(folder), "x", "--device", "cuda", option, "1kB"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{option[2:]} of 1 kB is below the " in line
    assert wanted in line


def test_what_a_model_takes_of_the_device_is_what_the_cap_allows(
    folder: Path, needs: MemoryNeeds
) -> None:
    vram = needs.device_fixed_nbytes + 5 * needs.slot_nbytes
    with moeflux.load(folder, device="cuda", vram=vram) as model:
        session = model.session()
        session.prefill([3 + index % 200 for index in range(300)])
        session.decode(5)
        # Small tables of the host have copies there.
        assert abs(model.device.memory()["allocated"] - vram) < 1 << 16
