"""The plan of a run: memory by purpose, reads and speeds that follow from what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import moeflux
from moeflux.engine import budget, decode_speed, plan, read_speed
from moeflux.engine.decode_speed import Speeds
from moeflux.engine.plan import HIT_RATES, Workload
from moeflux.engine.read_speed import ReadSpeed
from moeflux.experts.replay import ReplaySettings, replay
from moeflux.experts.trace import Trace, TraceError, TraceHeader, TraceWriter, load
from tiny_checkpoint import CheckpointFolders

N_LAYERS, N_EXPERTS, TOP_K = 4, 8, 2
DEMO_TRACE = Path(__file__).parent.parent / "traces" / "demo.trace.gz"


@pytest.fixture
def folder(tiny_folder: CheckpointFolders, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny checkpoint, measured for a moment only, in a process that holds no memory."""
    monkeypatch.setattr("moeflux.engine.budget.resident_memory", lambda: 0)
    monkeypatch.setattr(read_speed, "MEASURED_SECONDS", 0.02)
    monkeypatch.setattr(decode_speed, "MEASURED_SECONDS", 0.01)
    return tiny_folder("qwen3_5_moe", "mlx")


def cap_of(folder: Path, n_slots: int) -> int:
    needs = moeflux.plan(folder, device="cpu").needs
    return needs.fixed_nbytes + n_slots * needs.slot_nbytes


# ---- memory ----


@pytest.mark.parametrize("n_slots", [2, 9, 32])
def test_the_plan_has_the_slots_that_loading_gives(folder: Path, n_slots: int) -> None:
    memory = cap_of(folder, n_slots)
    planned = moeflux.plan(folder, device="cpu", memory=memory)
    with moeflux.load(folder, device="cpu", memory=memory) as model:
        assert planned.n_slots == model.runtime.experts.n_slots == n_slots
        assert planned.needs == model.memory_needs
    assert planned.resident_nbytes == memory
    assert planned.slot_share == n_slots / (N_LAYERS * N_EXPERTS)


def test_a_cap_below_the_floor_is_refused_before_anything_is_measured(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    floor = cap_of(folder, 2)
    monkeypatch.delattr(plan, "measure_speeds")
    with pytest.raises(moeflux.MemoryCapError, match="is below the") as caught:
        moeflux.plan(folder, device="cpu", memory=floor - 1)
    assert caught.value.needs.floor_nbytes == floor


def test_info_and_plan_agree_about_the_floor(folder: Path) -> None:
    info, planned = moeflux.inspect(folder), moeflux.plan(folder, device="cpu")
    assert info.floor_nbytes == planned.needs.floor_nbytes
    assert info.dense_nbytes == planned.needs.dense_nbytes


def test_a_longer_context_leaves_fewer_slots(folder: Path) -> None:
    memory = cap_of(folder, 9)
    default = moeflux.plan(folder, device="cpu", memory=memory)
    settings = moeflux.Settings(context_size=default.context_size // 2)
    shorter = moeflux.plan(folder, device="cpu", memory=memory, settings=settings)
    assert shorter.needs.state_nbytes < default.needs.state_nbytes
    assert shorter.n_slots > default.n_slots == 9


# ---- reads and speeds ----


def test_a_token_reads_what_its_hit_rate_leaves(folder: Path) -> None:
    planned = moeflux.plan(folder, device="cpu")
    assert tuple(speed.hit_rate for speed in planned.speeds) == HIT_RATES
    whole = planned.info.bytes_per_token
    assert [speed.read_nbytes_per_token for speed in planned.speeds] == [
        round((1 - rate) * whole) for rate in HIT_RATES
    ]


def test_more_hits_are_never_slower(folder: Path) -> None:
    planned = moeflux.plan(folder, device="cpu")
    for name in ("drive", "page_cache", "expected"):
        speeds = [getattr(speed, f"{name}_tokens_per_second") for speed in planned.speeds]
        assert speeds == sorted(speeds)
        assert speeds[0] > 0
        assert speeds[-1] == pytest.approx(1 / planned.measured.decode_seconds)


def test_uniform_routing_hits_the_share_that_has_a_slot(folder: Path) -> None:
    planned = moeflux.plan(folder, device="cpu", memory=cap_of(folder, 8))
    assert planned.expected.hit_rate == 8 / (N_LAYERS * N_EXPERTS)
    assert "uniform routing" in planned.hit_rate_source


def test_seconds_are_those_of_the_reads_of_every_layer() -> None:
    workload = Workload(record_nbytes=(100, 300), top_k=2, prefetches=False)
    speed = ReadSpeed(seconds=0.5, nbytes_per_second=1000.0)
    # All missed: in each layer half a second, and two experts.
    assert workload.read_seconds(0.0, speed) == pytest.approx(2 * 0.5 + 2 * 400 / 1000)
    # Half missed: in 3 of 4 tokens a layer misses any, and one expert on average.
    assert workload.read_seconds(0.5, speed) == pytest.approx(2 * 0.75 * 0.5 + 400 / 1000)
    assert workload.read_seconds(1.0, speed) == 0.0


def test_expected_seconds_lie_between_drive_and_page_cache() -> None:
    workload = Workload(record_nbytes=(100,), top_k=1, prefetches=False)
    speeds = Speeds(
        decode_seconds=1.0,
        drive=ReadSpeed(3.0, 1e12),
        page_cache=ReadSpeed(1.0, 1e12),
        direct=False,
        drive_is_cold=True,
    )
    for share, seconds in ((0.0, 4.0), (0.5, 3.0), (1.0, 2.0)):
        planned = workload.planned(0.0, speeds, share)
        assert planned.expected_tokens_per_second == pytest.approx(1 / seconds)


def test_expected_seconds_lie_between_records_and_reads() -> None:
    workload = Workload(record_nbytes=(100,), top_k=1, prefetches=False)
    speeds = Speeds(
        decode_seconds=1.0,
        drive=ReadSpeed(7.0, 1e12),
        page_cache=ReadSpeed(3.0, 1e12),
        direct=False,
        drive_is_cold=True,
        records=ReadSpeed(1.0, 1e12),
    )
    for record_share, seconds in ((0.0, 6.0), (0.25, 5.0), (1.0, 2.0)):
        planned = workload.planned(0.0, speeds, 0.5, record_share)
        assert planned.expected_tokens_per_second == pytest.approx(1 / seconds)
        assert planned.ram_tokens_per_second == pytest.approx(1 / 2.0)
        assert planned.copied_nbytes_per_token == 100 * record_share
        assert planned.read_nbytes_per_token == 100 * (1 - record_share)


@pytest.mark.parametrize(
    ("read_seconds", "seconds"),
    [(1.0, 2.0 + 0.7), (10.0, 10.0)],
    ids=["reads that are foreseen are hidden", "but no more than fits behind computing"],
)
def test_prefetch_hides_reads_behind_computing(read_seconds: float, seconds: float) -> None:
    workload = Workload(record_nbytes=(100,), top_k=1, prefetches=True)
    speed = ReadSpeed(read_seconds, 1e12)
    speeds = Speeds(2.0, speed, speed, direct=True, drive_is_cold=True)
    planned = workload.planned(0.0, speeds, 0.0)
    assert planned.expected_tokens_per_second == pytest.approx(1 / seconds)


@pytest.mark.parametrize(
    ("n_cached", "share"),
    [(0, 0.0), (8, 0.0), (20, 0.5), (32, 1.0), (1000, 1.0)],
)
def test_the_page_cache_holds_what_memory_beside_the_process_allows(
    folder: Path, monkeypatch: pytest.MonkeyPatch, n_cached: int, share: float
) -> None:
    memory = cap_of(folder, 8)
    needs = moeflux.plan(folder, device="cpu").needs
    room = memory + n_cached * needs.slot_nbytes
    monkeypatch.setattr(budget, "available_memory", lambda: room)
    settings = moeflux.Settings(read_mode="page-cache")
    planned = moeflux.plan(folder, device="cpu", memory=memory, settings=settings)
    assert planned.page_cache_share == share


def test_direct_reads_find_nothing_in_the_page_cache(folder: Path) -> None:
    settings = moeflux.Settings(read_mode="direct")
    planned = moeflux.plan(folder, device="cpu", memory=cap_of(folder, 8), settings=settings)
    assert planned.page_cache_share == (0.0 if planned.measured.direct else 1.0)


@pytest.mark.parametrize(
    ("one", "several", "speed"),
    [
        (3.0, 9.0, ReadSpeed(1.0, 50.0)),  # 2 s each and 1 s besides
        (2.0, 8.0, ReadSpeed(0.0, 50.0)),
        (9.0, 8.0, ReadSpeed(0.0, 50.0)),  # noise: several as fast as one
        (1.0, 8.0, ReadSpeed(0.0, 50.0)),  # noise: more than four times one
    ],
)
def test_read_speed_is_the_line_through_one_and_several(
    one: float, several: float, speed: ReadSpeed
) -> None:
    found = read_speed.read_speed(one, several, 4, 100)
    assert found.seconds == pytest.approx(speed.seconds)
    assert found.nbytes_per_second == pytest.approx(speed.nbytes_per_second)


def test_measured_reads_are_those_of_the_experts(folder: Path) -> None:
    planned = moeflux.plan(folder, device="cpu")
    for speed in (planned.measured.drive, planned.measured.page_cache):
        assert speed.seconds >= 0
        assert 0 < speed.rate(TOP_K, planned.mean_record_nbytes) < 1e12


def test_every_architecture_can_be_planned(folder: Path, tiny_folder: CheckpointFolders) -> None:
    assert folder.exists()
    for kind, style in (("qwen3_moe", "mlx"), ("qwen3_next", "mlx"), ("qwen3_5_moe", "hf")):
        assert moeflux.plan(tiny_folder(kind, style), device="cpu").measured.decode_seconds > 0


# ---- route traces ----


def test_the_hit_rate_of_a_trace_is_the_replayed_one() -> None:
    trace = load(DEMO_TRACE)
    memory = moeflux.plan("demo", device="cpu").needs
    cap = memory.fixed_nbytes + 64 * memory.slot_nbytes + 50_000_000
    planned = moeflux.plan("demo", device="cpu", memory=cap, trace=DEMO_TRACE)
    expected = replay(trace, ReplaySettings(planned.n_slots, "lfru")).decode.hit_rate
    assert planned.expected.hit_rate == expected
    assert planned.hit_rate_source == "demo.trace.gz, replayed"


def test_the_trace_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    header = TraceHeader("other", N_LAYERS, N_EXPERTS + 1, TOP_K, (100,) * N_LAYERS)
    with TraceWriter(tmp_path / "a.trace", header):
        pass
    assert load(tmp_path / "a.trace") == Trace(header, ())
    with pytest.raises(TraceError, match="4 layers of 9 experts, 2 a token; this model has 4, 8"):
        moeflux.plan(folder, device="cpu", trace=tmp_path / "a.trace")


def test_a_plan_is_json(folder: Path) -> None:
    planned = moeflux.plan(folder, device="cpu")
    found = json.loads(json.dumps(planned.as_dict()))
    assert found["n_slots"] == planned.n_slots
    assert found["needs"]["floor_nbytes"] == planned.needs.floor_nbytes
    assert len(found["speeds"]) == len(HIT_RATES)
