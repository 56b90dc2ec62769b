"""The decode loop that the README shows to users."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import moeflux

EXAMPLE = Path(__file__).resolve().parents[2] / "python" / "examples" / "decode.py"
PROMPT = "def read_lines(path):"


def test_own_decode_loop_says_what_generate_says() -> None:
    run = subprocess.run(
        [sys.executable, str(EXAMPLE), "demo", PROMPT], capture_output=True, text=True, check=True
    )
    with moeflux.load("demo", device="cpu") as model:
        events = list(model.generate(PROMPT, max_tokens=32))
    assert run.stdout == model.tokenizer.decode([event.token_id for event in events]) + "\n"


def test_own_decode_loop_is_short() -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 40
