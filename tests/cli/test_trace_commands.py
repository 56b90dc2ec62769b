"""`moeflux trace record` and `moeflux trace replay`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from moeflux.cli import main
from moeflux.experts.replay import sweep
from moeflux.experts.trace import load
from tiny_checkpoint import CheckpointFolders

Output = pytest.CaptureFixture[str]
TESTS = Path(__file__).parent.parent
DEMO_TRACE = TESTS / "traces" / "demo.trace.gz"
RESULTS = TESTS.parent / "bench" / "results" / "eviction_policies.md"


@pytest.fixture
def folder(tiny_folder: CheckpointFolders, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", "100")
    return str(tiny_folder("qwen3_5_moe", "mlx"))


# ---- record ----


def test_every_token_is_recorded_but_the_last_one_drawn(
    folder: str, tmp_path: Path, capsys: Output
) -> None:
    out = tmp_path / "a.trace"
    assert (
        main(["trace", "record", folder, "def main():", "-o", str(out), "--max-tokens", "7"]) == 0
    )
    captured = capsys.readouterr()
    trace = load(out)
    assert captured.out == ""
    assert captured.err.startswith(f"{out}: {len(trace.tokens)} tokens added, ")
    assert sum(not token.prefill for token in trace.tokens) == 6
    assert trace.header.n_predicted == trace.header.top_k == 2
    assert {token.sequence for token in trace.tokens} == {0}


def test_a_trace_of_the_same_model_is_continued(folder: str, tmp_path: Path) -> None:
    prompt, out = tmp_path / "prompt.txt", tmp_path / "a.trace"
    prompt.write_text("def main():")
    options = ["-o", str(out), "--max-tokens", "3"]
    assert main(["trace", "record", folder, "def main():", *options]) == 0
    first = load(out).tokens
    assert main(["trace", "record", folder, "--file", str(prompt), *options]) == 0
    tokens = load(out).tokens
    assert tokens[: len(first)] == first
    assert [token.experts for token in tokens[len(first) :]] == [token.experts for token in first]
    assert {token.sequence for token in tokens[len(first) :]} == {1}


def test_a_file_that_is_no_trace_is_left_alone(folder: str, tmp_path: Path, capsys: Output) -> None:
    out = tmp_path / "notes.txt"
    out.write_text("mine\n")
    assert main(["trace", "record", folder, "a", "-o", str(out)]) == 1
    assert out.read_text() == "mine\n"
    (line,) = capsys.readouterr().err.splitlines()
    assert "is not a moeflux route trace" in line


@pytest.mark.parametrize("prompts", [[], ["a", "--file", "b.txt"]])
def test_record_wants_one_prompt(
    folder: str, tmp_path: Path, capsys: Output, prompts: list[str]
) -> None:
    out = str(tmp_path / "a.trace")
    assert main(["trace", "record", folder, *prompts, "-o", out]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "either PROMPT or --file" in line


# ---- replay ----


def replayed(capsys: Output, *arguments: str) -> list[dict[str, float]]:
    assert main(["trace", "replay", str(DEMO_TRACE), "--json", *arguments]) == 0
    rows: list[dict[str, float]] = json.loads(capsys.readouterr().out)
    return rows


def test_replay_has_a_row_per_size_policy_and_predictor(capsys: Output) -> None:
    options = ["--slots", "10%,64", "--policy", "lru", "--predictor", "none,next-router"]
    rows = replayed(capsys, *options)
    assert [(row["n_slots"], row["policy"], row["predictor"]) for row in rows] == [
        (size, "lru", predictor) for size in (26, 64) for predictor in ("none", "next-router")
    ]
    assert all((row["useful_nbytes"] > 0) == (row["predictor"] == "next-router") for row in rows)


def test_replay_counts_what_a_sweep_counts(capsys: Output) -> None:
    rows = replayed(capsys, "--slots", "64", "--policy", "lfru,belady")
    expected = sweep(load(DEMO_TRACE), [64], ["lfru", "belady"])
    names = ("policy", "n_slots", "share", "hit_rate", "stall_rate", "read_nbytes")
    assert [[row[name] for name in names] for row in rows] == [
        [getattr(row, name) for name in names] for row in expected
    ]


def test_memory_stands_for_as_many_slots_as_fit(capsys: Output) -> None:
    record = max(load(DEMO_TRACE).header.record_nbytes)
    memory = f"{64 * record},{65 * record - 1}"
    rows = replayed(capsys, "--memory", memory, "--policy", "lru")
    assert [row["n_slots"] for row in rows] == [64, 64]


def test_a_window_makes_guesses_late(capsys: Output) -> None:
    options = ["--slots", "64", "--policy", "lfru", "--predictor", "next-router"]
    all_in_time, none_in_time = (
        replayed(capsys, *options, *window)[0] for window in ([], ["--window", "1"])
    )
    assert none_in_time["hit_rate"] < all_in_time["hit_rate"]


def test_the_table_names_the_trace(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["trace", "replay", str(DEMO_TRACE), "--slots", "50%", "--policy", "lru"]) == 0
    title, *_, row = capsys.readouterr().out.splitlines()
    assert title.startswith("demo.trace.gz: qwen3_5_moe, 8 layers of 32 experts, ")
    assert row.split()[:4] == ["128", "50%", "lru", "none"]


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_plot_is_a_picture_of_its_suffix(capsys: Output, tmp_path: Path, suffix: str) -> None:
    picture = tmp_path / f"a.{suffix}"
    options = ["--slots", "10%,50%", "--policy", "lru,belady", "--plot", str(picture)]
    assert main(["trace", "replay", str(DEMO_TRACE), *options]) == 0
    assert capsys.readouterr().err == ""
    begins = {"png": b"\x89PNG", "svg": b"<?xml"}[suffix]
    assert picture.read_bytes().startswith(begins)


def test_a_plot_without_matplotlib_says_what_to_install(
    capsys: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delattr("moeflux.cli.trace.replay")  # it is told before anything is simulated
    options = ["--slots", "10%", "--plot", str(tmp_path / "a.png")]
    assert main(["trace", "replay", str(DEMO_TRACE), *options]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "moeflux: error: a plot needs matplotlib: pip install 'moeflux[plot]'"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["missing.trace"], 1, "missing.trace"),
        ([str(RESULTS)], 1, "is not a moeflux route trace"),
        ([str(DEMO_TRACE), "--slots", "many"], 2, "numbers or shares"),
        ([str(DEMO_TRACE), "--slots", "3"], 1, "expert slots need at least"),
        ([str(DEMO_TRACE), "--slots", "9", "--memory", "1GB"], 2, "not together with --memory"),
        ([str(DEMO_TRACE), "--policy", "magic"], 2, "magic"),
        ([str(DEMO_TRACE), "--predictor", "magic"], 2, "predictor must be one of"),
        ([str(DEMO_TRACE), "--limit", "some"], 2, "a memory size looks like"),
    ],
)
def test_a_replay_that_cannot_be_is_one_line(
    capsys: Output, arguments: list[str], code: int, message: str
) -> None:
    assert main(["trace", "replay", *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("moeflux: error: ")
    assert message in line


# ---- the demo's trace ----


def test_the_table_of_results_is_what_replay_gives_and_lfru_is_the_best_real_policy() -> None:
    trace = load(DEMO_TRACE)
    n_decoded = sum(not token.prefill for token in trace.tokens)
    lines = RESULTS.read_text().splitlines()
    policies = ["lru", "lfu", "lfru", "belady"]
    rows = sweep(trace, [51], policies)
    cells = [f"{row.hit_rate:.1%}, {row.read_nbytes / n_decoded / 1e3:.0f} kB" for row in rows]
    assert f"| 51 | 20% | {' | '.join(cells)} |" in lines
    rates = {row.policy: row.hit_rate for row in rows}
    assert rates["belady"] > rates["lfru"] > max(rates["lru"], rates["lfu"])
