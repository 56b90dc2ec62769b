"""The serving bench: runs to its end on the demo model, checks its tokens, and ends with JSON."""

from __future__ import annotations

import json

import pytest

import serving


def test_it_ends_with_a_row_for_each_number_of_requests_in_flight(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = "serving.py demo --active 1 3 --requests 3 --tokens 4 --prompt-tokens 5"
    monkeypatch.setattr("sys.argv", arguments.split())
    serving.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["n_active"] for row in found["rows"]] == [1, 3]
    assert all(row["tokens_per_second"] > 0 for row in found["rows"])


def test_it_gets_the_slots_that_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = "serving.py demo --slots 40 --active 2 --requests 2 --tokens 3 --prompt-tokens 5"
    monkeypatch.setattr("sys.argv", arguments.split())
    serving.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["n_slots"] == 40
    assert found["rows"][0]["decode_bytes_per_token"] > 0
