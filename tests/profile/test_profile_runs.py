"""Profiles of a real model's steps."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import moeflux
from moeflux.cli import main
from moeflux.engine.account import Account
from moeflux.experts.timeline import Timeline
from moeflux.profile import BETWEEN_KERNELS, current_profile

N_LAYERS = 4


def test_rows_add_up_to_the_device_time_of_the_run(hybrid: moeflux.Model) -> None:
    before = hybrid.runtime.device_seconds
    with moeflux.profile() as profile:
        list(hybrid.generate("def main():", max_tokens=4))
    spent = hybrid.runtime.device_seconds - before
    n_rows = sum(row.count for _, row in profile.dump())
    assert profile.command_buffers.total_ns == pytest.approx(1e9 * spent, abs=n_rows)


def test_kernels_add_up_to_the_command_buffers(hybrid: moeflux.Model) -> None:
    with moeflux.profile(per_dispatch=True) as profile:
        list(hybrid.generate("def main():", max_tokens=4))
    kernels = profile.kernels.rows()
    named = {"matmul", "expert_gate_up", "attention", "attention_decode", BETWEEN_KERNELS}
    assert named <= set(kernels)
    n_rows = sum(row.count for row in kernels.values())
    assert profile.kernels.total_ns == pytest.approx(profile.command_buffers.total_ns, abs=n_rows)


def test_each_part_of_a_token_has_a_row_of_its_own(hybrid: moeflux.Model) -> None:
    session = hybrid.session()
    session.prefill([1, 2, 3])
    with moeflux.profile() as profile:
        session.decode(4)
    halves = ("mixer", "shared expert", "experts")
    wanted = [f"layer {index} {half}" for index in range(N_LAYERS) for half in halves]
    counts = {label: row.count for label, row in profile.dump() if "early" not in label}
    assert counts == dict.fromkeys(["embedding", *wanted, "head"], 1)


def test_each_part_of_a_prompt_has_a_row_of_its_own(hybrid: moeflux.Model) -> None:
    with moeflux.profile() as profile:
        hybrid.session().prefill([1, 2, 3])
    halves = ("mixer", "shared expert", "experts", "combine")
    wanted = {f"layer {index} {half}" for index in range(N_LAYERS) for half in halves}
    assert {label for label, _ in profile.dump()} == wanted | {"embedding", "logits"}


def test_only_what_runs_inside_is_recorded(hybrid: moeflux.Model) -> None:
    session = hybrid.session()
    profile = moeflux.profile(per_dispatch=True)
    session.decode(1)
    with profile:
        pass
    session.decode(2)
    assert profile.dump() == []
    assert current_profile() is None


def test_entered_again_it_adds_up(hybrid: moeflux.Model) -> None:
    session, profile = hybrid.session(), moeflux.profile()
    for token in (1, 2):
        with profile:
            session.decode(token)
    assert dict(profile.dump())["head"].count == 2


def test_innermost_profile_records(hybrid: moeflux.Model) -> None:
    session = hybrid.session()
    with moeflux.profile() as outer, moeflux.profile() as inner:
        session.decode(1)
    assert outer.dump() == []
    assert dict(inner.dump())["head"].count == 1


def test_other_threads_are_not_recorded(hybrid: moeflux.Model) -> None:
    def work() -> None:
        hybrid.session().decode(1)

    with moeflux.profile() as profile:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert profile.dump() == []


def test_loop_of_your_own_is_recorded(hybrid: moeflux.Model) -> None:
    run = hybrid.runtime
    with moeflux.profile(per_dispatch=True) as profile:
        commands = run.command_buffer(moeflux.Step(0, 1), "clear")
        commands.zero(hybrid.device.buffer(64))
        run.finish(commands)
    assert [label for label, _ in profile.dump()] == ["clear"]
    assert "zero" in profile.kernels.rows()


def test_error_inside_ends_it(hybrid: moeflux.Model) -> None:
    with pytest.raises(ValueError, match="vocabulary"), moeflux.profile():
        hybrid.session().prefill([-1])
    assert current_profile() is None


def test_logits_are_the_same_bits_with_and_without(hybrid: moeflux.Model) -> None:
    plain, profiled = hybrid.session(), hybrid.session()
    wanted = [plain.prefill([1, 2, 3]), plain.decode(4)]
    with moeflux.profile(per_dispatch=True, timeline=True):
        got = [profiled.prefill([1, 2, 3]), profiled.decode(4)]
    assert [row.tobytes() for row in got] == [row.tobytes() for row in wanted]


def test_timeline_has_the_spans_of_the_steps(hybrid: moeflux.Model, tmp_path: Path) -> None:
    with moeflux.profile(timeline=True) as profile:
        list(hybrid.generate("a", max_tokens=2))
    list(hybrid.generate("a", max_tokens=2))
    profile.write_timeline(tmp_path / "profile.json")
    events = json.loads((tmp_path / "profile.json").read_text())["traceEvents"]
    spans = [event for event in events if event["ph"] == "X"]
    assert {"steps", "router", "command buffers", "kernels"} <= {span["cat"] for span in spans}
    assert sum(span["cat"] == "steps" for span in spans) == 2
    buffers = [span["name"] for span in spans if span["cat"] == "command buffers"]
    assert len(buffers) == sum(row.count for _, row in profile.dump())
    assert set(buffers) == {label for label, _ in profile.dump()}


def test_timeline_of_a_run_has_its_spans_in_a_profile_without_one_too(
    hybrid: moeflux.Model,
) -> None:
    session, timeline = hybrid.session(), Timeline()
    session.account = Account(timeline)
    with moeflux.profile() as profile:
        session.decode(1)
    spans = [(span.track, span.name) for span in timeline.spans]
    assert spans.count(("command buffers", "head")) == 1
    assert profile.timeline is None
    with pytest.raises(ValueError, match="make it with timeline=True"):
        profile.write_timeline(Path("profile.json"))


@pytest.mark.parametrize(
    ("options", "variable", "tables"),
    [
        ([], None, []),
        (["--profile"], None, ["device time", "by layer"]),
        ([], "MOEFLUX_PROFILE", ["device time", "by layer"]),
        (["--profile-kernels"], None, ["device time", "by layer", "by kernel"]),
        ([], "MOEFLUX_PROFILE_KERNELS", ["device time", "by layer", "by kernel"]),
    ],
)
def test_run_prints_the_table_to_standard_error_after_the_text(
    tiny_folder: Callable[[str, str], Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    variable: str | None,
    tables: list[str],
) -> None:
    if variable is not None:
        monkeypatch.setenv(variable, "1")
    folder = str(tiny_folder("qwen3_moe", "mlx"))
    main(["run", folder, "a", "--max-tokens", "2", "--device", "cpu", *options])
    out, error = capsys.readouterr()
    assert "device time" not in out
    heads = [line.split("  ")[0] for line in error.splitlines() if "total ms" in line]
    assert heads == tables


def test_run_with_a_capture_on_the_cpu_says_why_there_is_none(
    tiny_folder: Callable[[str, str], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, folder = tmp_path / "step.gputrace", str(tiny_folder("qwen3_moe", "mlx"))
    arguments = ["run", folder, "a", "--max-tokens", "1", "--device", "cpu"]
    main([*arguments, "--capture", str(path)])
    assert f"no GPU trace at {path}: the cpu device captures none" in caplog.text
