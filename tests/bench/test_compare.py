"""The comparison of both engines, with a program that stands for llama-bench."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from compare import main
from moeflux.hub import resolve
from plot_compare import draw

# A second repetition costs processor time, which is what the comparison measures.
STAND_IN = f"""#!{sys.executable}
import json, sys, time
repetitions = int(sys.argv[sys.argv.index("-r") + 1])
started = time.process_time()
while time.process_time() - started < 0.2 * repetitions:
    pass
rows = [
    {{"n_prompt": 8, "n_gen": 0, "samples_ts": [90.0] * repetitions}},
    {{"n_prompt": 0, "n_gen": 8, "samples_ts": [42.0] * repetitions}},
]
print(json.dumps(rows))
"""


@pytest.fixture
def result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> dict[str, Any]:
    """What the last line says of the demo model beside the stand-in, one thread, two rounds."""
    program = tmp_path / "llama-bench"
    program.write_text(STAND_IN)
    program.chmod(0o755)
    monkeypatch.setattr("compare.make_models", lambda *_: (resolve("demo"), tmp_path / "twin.gguf"))
    sizes = ["--rounds", "2", "--threads", "1", "--prompt-tokens", "8", "--tokens", "8"]
    arguments = ["compare.py", str(tmp_path), *sizes, "--llama-bench", str(program)]
    monkeypatch.setattr(sys, "argv", arguments)
    main()
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_both_engines_are_told_with_their_ratio(result: dict[str, Any]) -> None:
    rows = {row["quantity"]: row for row in result["rows"]}
    assert rows.keys() == {"decode", "prefill", "processor_seconds"}
    for quantity, peer in (("decode", 42.0), ("prefill", 90.0)):
        row = rows[quantity]
        assert row["values"]["llama.cpp"] == [peer, peer]
        assert len(row["values"]["moeflux"]) == 2
        assert row["ratio"] == pytest.approx(row["medians"]["moeflux"] / peer)
    seconds = rows["processor_seconds"]
    assert min(seconds["values"]["llama.cpp"]) > 0
    assert seconds["ratio"] == pytest.approx(
        seconds["medians"]["llama.cpp"] / seconds["medians"]["moeflux"]
    )


def test_a_result_is_drawn(result: dict[str, Any], tmp_path: Path) -> None:
    picture = tmp_path / "compare.svg"
    draw(result, str(picture))
    assert "<svg" in picture.read_text()
