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

# Imports mlx_lm and not transformers; runs whatever it is given as a peer of known speed.
STAND_IN_PYTHON = f"""#!{sys.executable}
import json, sys
if sys.argv[1] == "-c":
    sys.exit("transformers" in sys.argv[2])
spent = {{"decode_tokens_per_second": 2.0, "prefill_tokens_per_second": 3.0}}
print(json.dumps(spent | {{"processor_seconds": 4.0}}))
"""


def write_program(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> dict[str, Any]:
    """What the last line says of the demo model beside the stand-in, one thread, two rounds."""
    program = write_program(tmp_path / "llama-bench", STAND_IN)
    python = write_program(tmp_path / "python", STAND_IN_PYTHON)
    monkeypatch.setattr("compare.make_models", lambda *_: (resolve("demo"), tmp_path / "twin.gguf"))
    sizes = ["--rounds", "2", "--threads", "1", "--prompt-tokens", "8", "--tokens", "8"]
    arguments = ["compare.py", str(tmp_path), *sizes, "--llama-bench", str(program)]
    arguments += ["--peer-python", str(python)]
    monkeypatch.setattr(sys, "argv", arguments)
    main()
    output = capsys.readouterr().out
    assert "transformers is left out" in output
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


def test_both_engines_are_told_with_their_ratio(result: dict[str, Any]) -> None:
    rows = {row["quantity"]: row for row in result["rows"]}
    for quantity, peer in (("decode", 42.0), ("prefill", 90.0)):
        row = rows[quantity]
        assert row["values"]["llama.cpp"] == [peer, peer]
        assert len(row["values"]["moeflux"]) == 2
        assert row["ratios"]["llama.cpp"] == pytest.approx(row["medians"]["moeflux"] / peer)
    seconds = rows["processor_seconds"]
    assert min(seconds["values"]["llama.cpp"]) > 0
    assert seconds["ratios"]["llama.cpp"] == pytest.approx(
        seconds["medians"]["llama.cpp"] / seconds["medians"]["moeflux"]
    )


def test_a_slow_peer_takes_one_short_turn(result: dict[str, Any]) -> None:
    rows = {row["quantity"]: row for row in result["rows"]}
    row = rows["decode, short turn"]
    assert row["values"].keys() == {"moeflux", "mlx-lm"}
    assert row["values"]["mlx-lm"] == [2.0]
    assert row["ratios"]["mlx-lm"] == pytest.approx(row["medians"]["moeflux"] / 2.0)


def test_memory_is_told_beside_what_it_holds(result: dict[str, Any]) -> None:
    files = resolve("demo").glob("*.safetensors")
    assert result["checkpoint_nbytes"] == sum(file.stat().st_size for file in files)
    assert result["peak_memory_nbytes"] > 0
    assert all(share > 0 for share in result["shares_of_read_bandwidth"]["1"])


def test_a_result_is_drawn(result: dict[str, Any], tmp_path: Path) -> None:
    picture = tmp_path / "compare.svg"
    draw(result, str(picture))
    assert "<svg" in picture.read_text()
