"""Captures that settings ask for: which command buffers of a real model's steps they hold."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from tracing_device import TracedQueue, TracingDevice, traced

import moeflux
from moeflux.capture import Capture, StepCapture
from moeflux.capture.one_shot import PROCESS_LATCH
from moeflux.engine.runtime import Runtime
from moeflux.settings import Settings

N_LAYERS = 4
PROMPT = list(range(1, 140))
"""Three chunks of 64."""

Armed = Callable[..., Runtime]


@pytest.fixture
def model(tiny_folder: Callable[[str, str], Path]) -> moeflux.Model:
    """A tiny model with small chunks."""
    settings = Settings(prefill_chunk=64)
    return moeflux.load(tiny_folder("qwen3_5_moe", "mlx"), device="cpu", settings=settings)


@pytest.fixture
def armed(model: moeflux.Model, device: TracingDevice) -> Armed:
    """Gives the model the captures of some settings, on a device that can capture."""

    def arm(**settings: object) -> Runtime:
        runtime = model.runtime
        runtime.queue = TracedQueue(runtime.queue, device)  # type: ignore[assignment]
        runtime.capture = StepCapture.from_settings(
            device,  # type: ignore[arg-type]
            Settings(**settings),  # type: ignore[arg-type]
            N_LAYERS,
            runtime.drain,
        )
        return runtime

    return arm


def layer(index: int) -> list[str]:
    """Command buffers of a layer of a prompt's chunk."""
    halves = ("mixer", "shared expert", "experts", "combine")
    return [f"layer {index} {half}" for half in halves]


def test_without_a_path_steps_have_nothing_to_call(model: moeflux.Model, armed: Armed) -> None:
    assert model.runtime.capture is None
    assert armed(gpu_capture_mode="decode", gpu_capture_token=0).capture is None


def test_prefill_window_holds_the_command_buffers_of_its_layers(
    model: moeflux.Model, armed: Armed, device: TracingDevice, path: Path
) -> None:
    armed(gpu_capture_path=str(path), gpu_capture_chunk=1, gpu_capture_layer=1)
    model.session().prefill(PROMPT)
    assert traced(path) == layer(1) + layer(2)
    assert device.log == ["start device", "stop"]


def test_prefill_window_from_the_first_layer_leaves_the_embedding_out(
    model: moeflux.Model, armed: Armed, path: Path
) -> None:
    armed(gpu_capture_path=str(path), gpu_capture_n_layers=1)
    model.session().prefill(PROMPT)
    assert traced(path) == layer(0)


def test_prefill_window_past_the_last_layer_closes_with_the_chunk(
    model: moeflux.Model, armed: Armed, path: Path
) -> None:
    armed(gpu_capture_path=str(path), gpu_capture_layer=3, gpu_capture_n_layers=9)
    model.session().prefill(PROMPT)
    assert traced(path) == layer(3)


@pytest.mark.parametrize("index", range(N_LAYERS))
def test_decode_window_holds_the_command_buffers_of_its_layer(
    model: moeflux.Model, armed: Armed, path: Path, index: int
) -> None:
    armed(
        gpu_capture_path=str(path),
        gpu_capture_mode="decode",
        gpu_capture_token=2,
        gpu_capture_layer=index,
    )
    session = model.session()
    session.prefill([1, 2, 3])
    for _ in range(2):
        session.decode(4)
        assert not path.exists()
    session.decode(4)
    early = f"layer {index} early experts"
    parts = [f"layer {index} {part}" for part in ("mixer", "shared expert", "experts")]
    assert [label for label in traced(path) if label != early] == parts


def test_decode_window_holds_early_experts_too(
    tiny_folder: Callable[[str, str], Path],
    monkeypatch: pytest.MonkeyPatch,
    device: TracingDevice,
    path: Path,
) -> None:
    monkeypatch.setattr("moeflux.engine.budget.resident_memory", lambda: 0)
    folder, settings = tiny_folder("qwen3_5_moe", "mlx"), Settings(prefetch="off")
    with moeflux.load(folder, device="cpu", settings=settings) as probe:
        needs = probe.memory_needs
    some_slots = needs.fixed_nbytes + 16 * needs.slot_nbytes
    with moeflux.load(folder, device="cpu", memory=some_slots, settings=settings) as model:
        runtime = model.runtime
        runtime.queue = TracedQueue(runtime.queue, device)  # type: ignore[assignment]
        wanted = Settings(
            gpu_capture_path=str(path),
            gpu_capture_mode="decode",
            gpu_capture_token=2,
            gpu_capture_layer=0,
        )
        runtime.capture = StepCapture.from_settings(
            device,  # type: ignore[arg-type]
            wanted,
            N_LAYERS,
            runtime.drain,
        )
        session = model.session()
        for token in (5, 6, 7):  # of the last one's experts in layer 0, one has been read before
            session.decode(token)
    parts = ("mixer", "shared expert", "early experts", "experts")
    assert traced(path) == [f"layer 0 {part}" for part in parts]


@pytest.mark.parametrize("mode", ["prefill", "decode"])
def test_window_is_captured_once(
    model: moeflux.Model, armed: Armed, device: TracingDevice, path: Path, mode: str
) -> None:
    armed(gpu_capture_path=str(path), gpu_capture_mode=mode, gpu_capture_token=0)
    for _ in range(2):
        session = model.session()
        session.prefill(PROMPT)
        session.decode(1)
    assert device.log == ["start device", "stop"]


def test_one_shot_holds_the_first_pass_from_its_first_command_buffer_to_its_last(
    model: moeflux.Model, armed: Armed, device: TracingDevice, path: Path
) -> None:
    PROCESS_LATCH.reset()
    armed(scope_capture_path=str(path))
    session = model.session()
    session.prefill([1, 2, 3])
    session.decode(4)
    PROCESS_LATCH.reset()
    assert device.log == ["start scope", "begin scope", "end scope", "stop"]
    labels = traced(path)
    halves = [label for index in range(N_LAYERS) for label in layer(index)[1:]]
    assert labels == ["embedding", *halves, "logits"]


def test_step_without_a_window_has_the_command_buffers_that_it_always_has(
    model: moeflux.Model, armed: Armed, device: TracingDevice, path: Path
) -> None:
    armed(gpu_capture_path=str(path), gpu_capture_mode="decode")
    with Capture(device, path.with_name("all.gputrace")) as trace:  # type: ignore[arg-type]
        model.session().prefill([1, 2, 3])
    assert not [label for label in traced(trace.path) if "mixer" in label]


def test_logits_are_the_same_bits_with_and_without_captures(
    model: moeflux.Model, armed: Armed, path: Path
) -> None:
    def logits() -> list[bytes]:
        session = model.session()
        return [session.prefill(PROMPT).tobytes(), session.decode(7).tobytes()]

    plain = logits()
    armed(gpu_capture_path=str(path))
    assert logits() == plain
    armed(gpu_capture_path=str(path), gpu_capture_mode="decode", gpu_capture_token=0)
    assert logits() == plain


def test_window_drains_before_it_starts_and_before_it_stops(
    model: moeflux.Model, armed: Armed, device: TracingDevice, path: Path
) -> None:
    runtime = armed(gpu_capture_path=str(path))
    unfinished: list[int] = []
    for name in ("start_capture", "stop_capture"):

        def noted(*arguments: object, name: str = name) -> None:
            unfinished.append(len(runtime._committed))
            getattr(TracingDevice, name)(device, *arguments)

        setattr(device, name, noted)
    model.session().prefill(PROMPT)
    assert unfinished == [0, 0]


def test_window_stops_even_if_the_drain_raises(device: TracingDevice, path: Path) -> None:
    def drain() -> None:
        if device.is_capturing:
            raise moeflux.DeviceError("layer 0 experts failed")

    wanted = Settings(gpu_capture_path=str(path))
    capture = StepCapture.from_settings(device, wanted, N_LAYERS, drain)  # type: ignore[arg-type]
    assert capture is not None
    capture.begin_pass()
    assert capture.begin_step(prefill=True)
    capture.at_layer(0)
    with pytest.raises(moeflux.DeviceError, match="layer 0 experts failed"):
        capture.at_layer(2)
    assert device.log == ["start device", "stop"]


@pytest.mark.parametrize("field", ["gpu_capture_path", "scope_capture_path"])
def test_error_inside_a_pass_closes_the_trace_and_the_session_can_go_on(
    model: moeflux.Model,
    armed: Armed,
    device: TracingDevice,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    field: str,
) -> None:
    PROCESS_LATCH.reset()
    runtime = armed(**{field: str(path)})
    session = model.session()
    with monkeypatch.context() as patch:

        def fail(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(runtime.experts, "fetch", fail)
        with pytest.raises(KeyboardInterrupt):
            session.prefill(PROMPT)
    PROCESS_LATCH.reset()
    assert not device.is_capturing
    assert device.log[-1] == "stop"
    session.reset()
    session.prefill(PROMPT)
    assert device.log.count("stop") == 1


def test_capture_under_way_makes_the_window_a_warning(
    model: moeflux.Model,
    armed: Armed,
    device: TracingDevice,
    path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    armed(gpu_capture_path=str(path))
    with moeflux.capture(path.with_name("mine.gputrace"), device):  # type: ignore[arg-type]
        model.session().prefill(PROMPT)
        assert device.is_capturing
    assert "another capture is under way" in caplog.text
    assert not path.exists()


def test_start_that_fails_is_a_warning_and_the_run_goes_on(
    model: moeflux.Model,
    armed: Armed,
    device: TracingDevice,
    path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    device.refusal = "no room (code 3)"
    runtime = armed(gpu_capture_path=str(path))
    model.session().prefill(PROMPT)
    assert "no room (code 3)" in caplog.text
    runtime.close()
    assert len(caplog.records) == 1


def test_path_of_the_trace_and_what_it_holds_are_told(
    model: moeflux.Model, armed: Armed, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    armed(gpu_capture_path=str(path))
    model.session().prefill(PROMPT)
    assert f"GPU trace of layers 0 to 1 of prompt chunk 0: {path}" in caplog.messages


def test_window_that_is_never_reached_is_told_at_the_end(
    model: moeflux.Model, armed: Armed, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    armed(gpu_capture_path=str(path), gpu_capture_mode="decode")
    model.session().prefill(PROMPT)
    model.close()
    model.close()
    assert caplog.messages == [
        f"no GPU trace at {path}: layer 0 of the token after 10 was not reached"
    ]


def test_layer_that_the_model_lacks_is_told_at_the_start(
    armed: Armed, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    armed(gpu_capture_path=str(path), gpu_capture_layer=4)
    assert caplog.messages == [f"no GPU trace at {path}: no layer 4 in a model of 4 layers"]


@pytest.mark.parametrize("field", ["gpu_capture_path", "scope_capture_path"])
def test_cpu_runs_on_and_says_that_it_captures_nothing(
    tiny_folder: Callable[[str, str], Path],
    path: Path,
    caplog: pytest.LogCaptureFixture,
    field: str,
) -> None:
    PROCESS_LATCH.reset()
    settings = Settings(**{field: str(path)})  # type: ignore[arg-type]
    with moeflux.load(tiny_folder("qwen3_moe", "mlx"), device="cpu", settings=settings) as model:
        model.session().prefill([1, 2, 3])
    PROCESS_LATCH.reset()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "the cpu device captures none" in record.message
    assert not path.exists()
