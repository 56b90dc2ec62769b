"""The table of device times by label: sentences F1 to F8 of the contract."""

from __future__ import annotations

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

import moeflux
from moeflux.profile import BETWEEN_KERNELS, ProfileRow, ProfileTable
from moeflux.settings import Settings


def test_f1_first_time_is_the_minimum_also_0() -> None:
    profile = moeflux.profile()
    profile.record("mixer", 0)
    profile.record("mixer", 7)
    assert dict(profile.dump()) == {"mixer": ProfileRow(2, 7, 0, 7)}


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2**64 - 1))))
def test_f1_rows_are_exact_however_large(times: list[tuple[str, int]]) -> None:
    profile, wanted = moeflux.profile(), defaultdict(list)
    for label, nanoseconds in times:
        profile.record(label, nanoseconds)
        wanted[label].append(nanoseconds)
    assert dict(profile.dump()) == {
        label: ProfileRow(len(all_), sum(all_), min(all_), max(all_))
        for label, all_ in wanted.items()
    }


def test_f1_a_time_below_0_is_refused() -> None:
    with pytest.raises(ValueError, match="a time of 'mixer' must not be negative, got -1 ns"):
        moeflux.profile().record("mixer", -1)


def test_f2_dump_has_the_largest_total_first_and_equal_ones_by_label() -> None:
    profile = moeflux.profile()
    for label, nanoseconds in (("c", 5), ("b", 5), ("d", 3), ("a", 2), ("d", 3)):
        profile.record(label, nanoseconds)
    assert [label for label, _ in profile.dump()] == ["d", "b", "c", "a"]


def test_f2_reset_empties() -> None:
    profile = moeflux.profile(per_dispatch=True)
    profile.add_commands("mixer", 2e-6, [("matmul", 0.0, 1e-6)])
    profile.reset()
    assert profile.dump() == []
    assert profile.kernels.rows() == {}
    profile.record("mixer", 9)
    assert profile.dump() == [("mixer", ProfileRow(1, 9, 9, 9))]


@pytest.mark.parametrize(("text", "wanted"), [("1", True), ("on", True), ("0", False), ("", False)])
def test_f3_a_flag_is_on_by_its_value_not_by_its_presence(text: str, *, wanted: bool) -> None:
    variables = {"MOEFLUX_PROFILE": text, "MOEFLUX_PROFILE_KERNELS": text}
    settings = Settings.from_environment(variables)
    assert (settings.profile, settings.profile_kernels) == (wanted, wanted)


def test_f3_a_flag_that_is_neither_is_refused_with_its_name() -> None:
    with pytest.raises(ValueError, match="MOEFLUX_PROFILE must be 0 or 1, got 'yes!'"):
        Settings.from_environment({"MOEFLUX_PROFILE": "yes!"})


def test_f4_kernels_have_a_table_of_their_own_by_name() -> None:
    profile = moeflux.profile(per_dispatch=True)
    profile.add_commands("a", 1e-5, [("matmul", 0.0, 2e-6), ("rms_norm", 3e-6, 4e-6)])
    profile.add_commands("b", 1e-5, [("matmul", 0.0, 6e-6)])
    rows = profile.kernels.rows()
    assert rows["matmul"] == ProfileRow(2, 8000, 2000, 6000)
    assert rows["rms_norm"] == ProfileRow(1, 1000, 1000, 1000)


def test_f5_nothing_is_dropped_however_many_dispatches_there_are() -> None:
    profile = moeflux.profile(per_dispatch=True)
    profile.add_commands("long", 1.0, [("matmul", i / 1e5, i / 1e5 + 1e-6) for i in range(9000)])
    assert profile.kernels.rows()["matmul"].count == 9000


def test_f6_a_device_that_does_not_time_kernels_still_has_command_buffers() -> None:
    profile = moeflux.profile(per_dispatch=True)
    profile.add_commands("mixer", 2e-6, [])
    assert profile.dump() == [("mixer", ProfileRow(1, 2000, 2000, 2000))]
    assert profile.kernels.rows() == {}
    assert "this device does not time its kernels" in profile.to_table()


def test_f8_per_dispatch_keeps_the_table_by_label_and_both_add_up() -> None:
    profile = moeflux.profile(per_dispatch=True)
    profile.add_commands("a", 1e-5, [("matmul", 0.0, 2e-6), ("rms_norm", 3e-6, 4e-6)])
    profile.add_commands("b", 5e-6, [("matmul", 1e-6, 3e-6)])
    assert profile.command_buffers.total_ns == profile.kernels.total_ns == 15_000
    assert profile.kernels.rows()[BETWEEN_KERNELS] == ProfileRow(2, 10_000, 3000, 7000)


def test_f8_kernels_that_outlast_their_command_buffer_leave_nothing_between_them() -> None:
    profile = moeflux.profile(per_dispatch=True)
    profile.add_commands("a", 1e-6, [("matmul", 0.0, 2e-6)])
    assert profile.kernels.rows()[BETWEEN_KERNELS].total_ns == 0


def test_times_below_0_of_a_clock_count_as_0() -> None:
    profile = moeflux.profile(per_dispatch=True)
    profile.add_commands("a", -1e-6, [("matmul", 2e-6, 1e-6)])
    assert profile.dump() == [("a", ProfileRow(1, 0, 0, 0))]
    assert profile.kernels.rows()["matmul"].total_ns == 0


def test_threads_record_into_one_table() -> None:
    table = ProfileTable()
    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            pool.submit(lambda: [table.record("a", 1) for _ in range(2000)])
    assert table.rows()["a"].count == 8000


def test_dict_has_both_tables_for_json() -> None:
    profile = moeflux.profile(per_dispatch=True)
    profile.add_commands("mixer", 4e-6, [("matmul", 0.0, 4e-6)])
    row = {"count": 1, "total_ns": 4000, "min_ns": 4000, "max_ns": 4000, "mean_ns": 4000.0}
    nothing = dict.fromkeys(row, 0) | {"count": 1, "mean_ns": 0.0}
    assert profile.to_dict() == {
        "total_ns": 4000,
        "command_buffers": [{"label": "mixer"} | row],
        "kernels": [{"label": "matmul"} | row, {"label": BETWEEN_KERNELS} | nothing],
    }


def cells(text: str) -> list[list[str]]:
    return [line.rsplit(maxsplit=6) for line in text.splitlines()]


def test_text_joins_the_halves_of_all_layers_before_it_shows_each() -> None:
    profile = moeflux.profile()
    times = (("layer 0 mixer", 3000), ("layer 1 mixer", 5000), ("embedding", 2000))
    for label, nanoseconds in times:
        profile.record(label, nanoseconds)
    joined, layers = profile.to_table().split("by layer")
    assert cells(joined)[1:] == [
        ["mixer", "2", "0.008", "80.0%", "4.0", "3.0", "5.0"],
        ["embedding", "1", "0.002", "20.0%", "2.0", "2.0", "2.0"],
        ["total", "3", "0.010"],
        [],
    ]
    assert [row[0] for row in cells(layers)[1:4]] == ["layer 1 mixer", "layer 0 mixer", "embedding"]


def test_text_says_how_much_it_leaves_out_and_adds_up_all_the_same() -> None:
    profile = moeflux.profile()
    for index in range(30):
        profile.record(f"pass {index}", 1000 * (index + 1))
    rows = cells(profile.to_table(max_rows=5))
    assert rows[6][:4] == ["(25 more)", "25", "0.325", "69.9%"]
    assert rows[7] == ["total", "30", "0.465"]


def test_text_of_an_empty_profile_says_that_nothing_ran() -> None:
    assert cells(moeflux.profile().to_table())[1] == ["total", "0", "0.000"]
