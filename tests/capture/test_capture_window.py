"""When a window is captured: sentences W1 to W6 of the contract, without a device."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moeflux.capture import Action, CaptureWindow, Window
from moeflux.settings import Settings

N_LAYERS = 6
PATH = {"MOEFLUX_GPU_CAPTURE_PATH": "step.gputrace"}


def layers_of_step(window: CaptureWindow, n_layers: int = N_LAYERS) -> list[int]:
    """Layers of one step that lie between the start and the stop of the capture."""
    captured, under_way = [], False
    for layer in range(n_layers + 1):
        action = window.at_layer(layer)
        under_way = action is Action.START or (under_way and action is not Action.STOP)
        if under_way:
            captured.append(layer)
    return captured


def prompt(window: CaptureWindow, n_chunks: int) -> list[list[int]]:
    """Layers captured of each chunk of a prompt."""
    window.begin_prompt()
    found = []
    for _ in range(n_chunks):
        window.begin_chunk()
        found.append(layers_of_step(window))
    return found


def token(window: CaptureWindow) -> list[int]:
    """Layers captured of a decode step."""
    window.begin_token()
    return layers_of_step(window)


def test_w1_without_a_path_no_window_is_asked_for() -> None:
    assert Settings.from_environment({}).gpu_capture_path == ""
    assert Settings.from_environment({"MOEFLUX_GPU_CAPTURE_LAYER": "3"}).gpu_capture_path == ""


def test_w1_every_variable_is_read() -> None:
    names = {"MODE": "decode", "CHUNK": "1", "LAYER": "2", "N_LAYERS": "3", "TOKEN": "4"}
    variables = {f"MOEFLUX_GPU_CAPTURE_{name}": text for name, text in names.items()}
    settings = Settings.from_environment(PATH | variables)
    assert settings == Settings(
        gpu_capture_path="step.gputrace",
        gpu_capture_mode="decode",
        gpu_capture_chunk=1,
        gpu_capture_layer=2,
        gpu_capture_n_layers=3,
        gpu_capture_token=4,
    )


def test_w1_unknown_mode_is_a_hint_and_no_window(caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings.from_environment(PATH | {"MOEFLUX_GPU_CAPTURE_MODE": "both"})
    assert settings.gpu_capture_path == ""
    assert "MOEFLUX_GPU_CAPTURE_MODE must be prefill or decode, got 'both'" in caplog.text


def test_w2_defaults_are_the_first_two_layers_of_the_first_chunk() -> None:
    settings = Settings.from_environment(PATH)
    assert settings.gpu_capture_mode == "prefill"
    assert (settings.gpu_capture_chunk, settings.gpu_capture_layer) == (0, 0)
    assert settings.gpu_capture_n_layers == 2
    window = Window("prefill")
    assert prompt(CaptureWindow(window, N_LAYERS), 3) == [[0, 1], [], []]


def test_w2_prefill_starts_at_chunk_and_layer_and_stops_n_layers_later() -> None:
    window = CaptureWindow(Window("prefill", chunk=1, layer=2, n_layers=3), N_LAYERS)
    assert prompt(window, 3) == [[], [2, 3, 4], []]


@pytest.mark.parametrize("n_layers", [1, 0, -5])
def test_w2_fewer_than_one_layer_counts_as_one(n_layers: int) -> None:
    text = {"MOEFLUX_GPU_CAPTURE_N_LAYERS": str(n_layers)}
    wanted = Settings.from_environment(PATH | text).gpu_capture_n_layers
    window = CaptureWindow(Window("prefill", layer=3, n_layers=wanted), N_LAYERS)
    assert prompt(window, 1) == [[3]]


@pytest.mark.parametrize("name", ["CHUNK", "LAYER", "N_LAYERS", "TOKEN"])
def test_w2_a_number_that_cannot_be_read_counts_as_its_default(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    variable = f"MOEFLUX_GPU_CAPTURE_{name}"
    settings = Settings.from_environment(PATH | {variable: "two"})
    assert settings == Settings(gpu_capture_path="step.gputrace")
    assert caplog.record_tuples[0][1] == logging.WARNING
    assert f"{variable} must be an integer" in caplog.text


def test_w2_chunks_are_counted_from_the_begin_of_each_prompt() -> None:
    window = CaptureWindow(Window("prefill", chunk=2, layer=0, n_layers=1), N_LAYERS)
    assert prompt(window, 2) == [[], []]
    assert prompt(window, 2) == [[], []]
    assert prompt(window, 3) == [[], [], [0]]


def test_w2_chunks_count_on_where_other_prompts_come_between() -> None:
    window = CaptureWindow(Window("prefill", chunk=2, layer=0, n_layers=1), N_LAYERS)
    assert prompt(window, 2) == [[], []]
    assert prompt(window, 1) == [[]]
    window.begin_prompt(2)
    window.begin_chunk()
    assert layers_of_step(window) == [0]


def test_w2_decode_steps_have_no_window_of_a_prompt() -> None:
    window = CaptureWindow(Window("prefill"), N_LAYERS)
    assert token(window) == []
    assert prompt(window, 1) == [[0, 1]]


def test_w3_default_is_the_first_layer_of_the_token_after_ten() -> None:
    assert Settings.from_environment(PATH).gpu_capture_token == 10
    window = CaptureWindow(Window("decode"), N_LAYERS)
    assert [token(window) for _ in range(13)] == [[]] * 10 + [[0]] + [[]] * 2


def test_w3_decode_captures_exactly_one_layer() -> None:
    window = CaptureWindow(Window("decode", layer=4, n_layers=9, token=0), N_LAYERS)
    assert token(window) == [4]


def test_w3_prompts_do_not_count_as_tokens() -> None:
    window = CaptureWindow(Window("decode", token=1), N_LAYERS)
    assert prompt(window, 5) == [[]] * 5
    assert [token(window) for _ in range(2)] == [[], [0]]


def test_w4_a_token_begins_the_window_exactly_once() -> None:
    window = CaptureWindow(Window("decode", token=2), N_LAYERS)
    begun = []
    for _ in range(6):
        begun.append(window.begin_token())
        layers_of_step(window)
    assert begun == [False, False, True, False, False, False]


def test_w4_no_token_begins_a_window_of_prompts() -> None:
    window = CaptureWindow(Window("prefill"), N_LAYERS)
    assert not any(window.begin_token() for _ in range(20))
    assert not window.armed


def test_w5_stopping_disarms_and_a_second_stop_does_nothing() -> None:
    window = CaptureWindow(Window("prefill", n_layers=1), N_LAYERS)
    window.begin_chunk()
    assert window.at_layer(0) is Action.START
    assert window.at_layer(1) is Action.STOP
    assert window.done
    assert window.at_layer(1) is Action.NONE
    assert window.abandon() is Action.NONE


def test_w5_a_step_that_ends_early_stops_what_is_under_way() -> None:
    window = CaptureWindow(Window("prefill", n_layers=3), N_LAYERS)
    window.begin_chunk()
    window.at_layer(0)
    assert window.abandon() is Action.STOP
    assert window.done
    assert prompt(window, 2) == [[], []]


def test_w5_a_step_that_ends_before_its_window_does_not_arm_the_next_one() -> None:
    window = CaptureWindow(Window("decode", layer=5, token=0), N_LAYERS)
    assert window.begin_token()
    assert window.abandon() is Action.NONE
    assert not window.begin_token()


def test_w6_a_window_past_the_last_layer_closes_after_it() -> None:
    window = CaptureWindow(Window("prefill", layer=4, n_layers=100), N_LAYERS)
    window.begin_chunk()
    assert layers_of_step(window) == [4, 5]
    assert window.done


def test_w6_a_window_that_begins_past_the_last_layer_never_arms() -> None:
    window = CaptureWindow(Window("prefill", layer=N_LAYERS), N_LAYERS)
    assert window.done
    assert not window.begin_chunk()


@given(
    st.builds(
        Window,
        st.sampled_from(["prefill", "decode"]),
        *(st.integers(0, 4) for _ in range(2)),
        st.integers(-1, 8),
        st.integers(0, 4),
    ),
    st.integers(1, 5),
    st.lists(st.integers(0, 4)),
)
def test_every_start_is_stopped_in_its_step_and_there_is_at_most_one(
    window: Window, n_layers: int, steps: list[int]
) -> None:
    """steps: chunks of a prompt, or 0 for a token."""
    progress, actions = CaptureWindow(window, n_layers), []
    for n_chunks in steps:
        progress.begin_prompt()
        for _ in range(max(1, n_chunks)):
            progress.begin_chunk() if n_chunks else progress.begin_token()
            actions += [progress.at_layer(layer) for layer in range(n_layers + 1)]
            assert not progress.armed
    kept = [action for action in actions if action is not Action.NONE]
    assert kept in ([], [Action.START, Action.STOP])


def test_says_what_it_is() -> None:
    assert str(Window("prefill", chunk=1, layer=2, n_layers=3)) == "layers 2 to 4 of prompt chunk 1"
    assert str(Window("decode", layer=2)) == "layer 2 of the token after 10"
