"""`moeflux bench`: a table, JSON or CSV on standard output, and nothing else there."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from pathlib import Path

import pytest
from stand_ins import INFO, STATS

import moeflux
from moeflux.cli import main
from moeflux.evaluation.speed import Benchmark, Repetition, SpeedWorkload

Output = pytest.CaptureFixture[str]

FASTER = dataclasses.replace(STATS.decode, seconds=2.0)
WARM = Benchmark(
    info=INFO,
    device="a device",
    workload=SpeedWorkload(40, 10, 2),
    repetitions=(
        Repetition(STATS.prefill, STATS.decode, 1.0, 0.0),
        Repetition(STATS.prefill, FASTER, 1.0, 0.0),
    ),
    n_slots=20,
    n_experts=80,
    weight_nbytes_per_token=1_000_000_000,
    peak_memory_nbytes=2_000_000_000,
    memory_cap_nbytes=2_500_000_000,
    memory_nbytes_per_second=15e9,
)


def with_shares(*shares: float | None, cold: bool) -> Benchmark:
    repetitions = [
        dataclasses.replace(repetition, page_cache_share=share, load_seconds=2.0)
        for repetition, share in zip(WARM.repetitions, shares, strict=True)
    ]
    workload = dataclasses.replace(WARM.workload, cold=cold)
    return dataclasses.replace(WARM, repetitions=tuple(repetitions), workload=workload)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What a benchmark was asked for; its "result" is what it gives."""
    asked: dict[str, object] = {"result": WARM}

    def benchmark(*arguments: object, progress: object) -> object:
        asked["arguments"] = arguments
        progress(1, 2)  # type: ignore[operator]
        return asked["result"]

    monkeypatch.setattr(moeflux, "benchmark", benchmark)
    return asked


def test_table_tells_speed_spread_reads_hits_memory_and_bandwidth(
    measured: dict[str, object], capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert measured["result"] is WARM
    assert main(["bench", "demo"]) == 0
    output = capsys.readouterr()
    lines = [" ".join(line.split()) for line in output.out.splitlines()]
    assert "prefill 40 80 ± 0 75 MB 50 MB 0.0%" in lines
    assert "decode 10 3.75 ± 1.8 210 MB 220 MB 75.0%" in lines
    assert "page cache warm: it held 100 % of the experts' bytes before each repetition" in lines
    assert "repetitions 2, after one that does not count; prompt of random tokens" in lines
    assert "expert slots 20 for 80 experts" in lines
    assert "peak memory 2 GB (cap 2.5 GB)" in lines
    assert "weights in decode 3.75 GB/s, 25% of the 15 GB/s that memory is read at" in lines
    assert output.err == "repetition 1 of 2\n"


def test_options_become_the_workload(measured: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("wörld")
    options = ["-p", "7", "-n", "3", "-r", "2", "--cold", "--text", str(tmp_path / "a.txt")]
    more = ["--memory", "1GB", "--device", "cpu", "--threads", "1", "--ctx-size", "99"]
    assert main(["bench", "demo", *options, *more]) == 0
    model, device, memory, settings, workload = measured["arguments"]  # type: ignore[misc]
    assert (model, device, memory) == ("demo", "cpu", "1GB")
    assert (settings.n_threads, settings.context_size) == (1, 99)
    assert workload == SpeedWorkload(7, 3, 2, cold=True, text="wörld")


def test_json_is_the_whole_result(measured: dict[str, object], capsys: Output) -> None:
    measured["result"] = WARM
    assert main(["bench", "demo", "-o", "json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values == json.loads(json.dumps(WARM.as_dict()))
    assert values["page_cache"] == "warm"
    assert values["phases"][1]["tokens_per_second"] == [2.5, 5.0]


def test_csv_has_a_row_for_each_phase(measured: dict[str, object], capsys: Output) -> None:
    measured["result"] = with_shares(None, None, cold=False)
    assert main(["bench", "demo", "-o", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["phase"] for row in rows] == ["prefill", "decode"]
    assert float(rows[1]["tokens_per_second"]) == 3.75
    assert float(rows[1]["weight_nbytes_per_second"]) == 3.75e9
    assert rows[0]["weight_nbytes_per_second"] == ""
    assert (rows[0]["page_cache"], rows[0]["page_cache_share"]) == ("unknown", "")


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ((0.0, 0.001), "cold: it held 0 to 0.1 % of the experts' bytes"),
        ((0.3, 0.3), "partly warm: it held 30 % of the experts' bytes"),
        ((0.0, 0.5), "mixed: it held 0 to 50 % of the experts' bytes"),
        ((None, None), "unknown: the system does not tell"),
    ],
)
def test_the_state_of_the_page_cache_is_what_was_found(
    measured: dict[str, object],
    capsys: Output,
    monkeypatch: pytest.MonkeyPatch,
    shares: tuple[float | None, float | None],
    said: str,
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    measured["result"] = with_shares(*shares, cold=True)
    assert main(["bench", "demo", "--cold"]) == 0
    output = capsys.readouterr()
    assert said in output.out
    warned = "moeflux: warning: --cold was asked for" in output.err
    assert warned == (not said.startswith("cold"))


def test_more_than_the_memory_delivers_is_explained(
    measured: dict[str, object], capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    measured["result"] = dataclasses.replace(WARM, memory_nbytes_per_second=3e9)
    main(["bench", "demo"])
    output = capsys.readouterr().out
    assert "125% of the 3 GB/s that memory is read at (the processor's caches hold" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", "0", "-n", "0"], "needs tokens to prefill or to decode"),
        (["-r", "0"], "'-r'"),
        (["--memory", "much"], "a memory size looks like"),
    ],
)
def test_wrong_usage_is_one_line(
    measured: dict[str, object], capsys: Output, arguments: list[str], message: str
) -> None:
    assert main(["bench", "demo", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert "arguments" not in measured


def test_a_text_that_is_missing_is_told(capsys: Output, tmp_path: Path) -> None:
    assert main(["bench", "demo", "--text", str(tmp_path / "no.txt")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "no.txt" in line


def test_the_demo_model_is_measured(capsys: Output) -> None:
    arguments = ["-p", "4", "-n", "2", "-r", "1", "-o", "json", "--device", "cpu"]
    assert main(["bench", "demo", *arguments]) == 0
    values = json.loads(capsys.readouterr().out)
    assert [phase["n_tokens"] for phase in values["phases"]] == [4, 2]
    assert values["phases"][1]["mean"] > 0
