"""GPU traces of the demo model on the Metal backend: the right command buffers, however asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import moeflux
from moeflux.capture import Target
from moeflux.capture.one_shot import PROCESS_LATCH
from moeflux.errors import AlreadyCapturingError, CaptureUnsupportedError
from moeflux.settings import Settings
from tiny_checkpoint import CheckpointFolders

pytestmark = pytest.mark.metal_bench

N_LAYERS = 8
"""Of the demo model."""
PROMPT = [5, 6, 7]
MIXERS = ("attention", "gated_delta_net")
"""Names of their kernels begin so."""


class Trace:
    """What the fake wrote: the dispatches of each command buffer, in order, and the scopes."""

    def __init__(self, path: Path) -> None:
        self.labels: list[str] = []
        self.dispatches: list[list[str]] = []
        self.scopes: list[str] = []
        self.positions: set[str] = set()
        for line in (path / "trace.jsonl").read_text().splitlines():
            entry = json.loads(line)
            if "command_buffer" in entry:
                label, position = entry["command_buffer"].split(", ", 1)
                self.labels.append(label)
                self.positions.add(position)
                self.dispatches.append([])
            elif "dispatch" in entry:
                self.dispatches[-1].append(entry["dispatch"])
            elif "scope" in entry:
                self.scopes.append(entry["scope"])


@pytest.fixture(autouse=True)
def _may_capture(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that was started with captures enabled, and has not used up its one shot."""
    monkeypatch.setenv("MTL_CAPTURE_ENABLED", "1")
    PROCESS_LATCH.reset()
    yield
    PROCESS_LATCH.reset()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "step.gputrace"


def load(path: Path, chunk_size: int = 256, **window: str) -> moeflux.Model:
    """The demo model with the variables MOEFLUX_GPU_CAPTURE_* of a window."""
    variables = {f"MOEFLUX_GPU_CAPTURE_{name.upper()}": text for name, text in window.items()}
    variables |= {"MOEFLUX_GPU_CAPTURE_PATH": str(path), "MOEFLUX_PREFILL_CHUNK": str(chunk_size)}
    return moeflux.load("demo", device="metal", settings=Settings.from_environment(variables))


def prompt_layers(first: int, end: int) -> list[str]:
    """Command buffers of layers of a chunk, whose experts fit the slots."""
    halves = ("mixer", "shared expert", "experts", "combine")
    return [f"layer {index} {half}" for index in range(first, end) for half in halves]


@pytest.mark.parametrize(
    ("window", "first", "end"),
    [
        ({}, 0, 2),
        ({"layer": "3", "n_layers": "1"}, 3, 4),
        ({"layer": "2", "n_layers": "0"}, 2, 3),
        ({"layer": "6", "n_layers": "5"}, 6, 8),
        ({"layer": "0", "n_layers": "8"}, 0, 8),
    ],
    ids=["defaults", "one", "none_is_one", "past_the_end", "all"],
)
def test_prefill_window_holds_its_layers(
    path: Path, window: dict[str, str], first: int, end: int
) -> None:
    with load(path, **window) as model:
        session = model.session(64)
        session.prefill(PROMPT)
        session.decode(8)
    trace = Trace(path)
    assert trace.labels == prompt_layers(first, end)
    assert trace.positions == {"position 0, n_tokens 3"}
    for label, dispatches in zip(trace.labels, trace.dispatches, strict=True):
        mixes = any(kernel.startswith(MIXERS) for kernel in dispatches)
        assert mixes == ("router_top_k" in dispatches) == label.endswith("mixer")
        assert ("moe_combine_norm" in dispatches) == label.endswith("combine")


def test_prefill_window_of_a_later_chunk(path: Path) -> None:
    with load(path, chunk_size=64, chunk="1", layer="1", n_layers="1") as model:
        model.session(128).prefill([3 + index for index in range(70)])
    trace = Trace(path)
    assert trace.labels == prompt_layers(1, 2)
    assert trace.positions == {"position 64, n_tokens 6"}


@pytest.mark.parametrize("layer", [0, 3, N_LAYERS - 1])
def test_decode_window_holds_its_layer(path: Path, layer: int) -> None:
    with load(path, mode="decode", token="1", layer=str(layer)) as model:
        session = model.session(64)
        session.prefill(PROMPT)
        for token in (8, 9, 10):
            session.decode(token)
    trace = Trace(path)
    early = f"layer {layer} early experts"
    parts = [f"layer {layer} {part}" for part in ("mixer", "shared expert", "experts")]
    assert [label for label in trace.labels if label != early] == parts
    assert trace.positions == {"position 4, n_tokens 1"}
    kernels = [kernel for dispatches in trace.dispatches for kernel in dispatches]
    assert kernels.count("moe_combine_norm") == kernels.count("router_top_k") == 1


def test_decode_window_waits_for_the_default_number_of_tokens(path: Path) -> None:
    with load(path, mode="decode") as model:
        session = model.session(64)
        for token in range(10):
            session.decode(token)
        assert not path.exists()
        session.decode(10)
    assert Trace(path).positions == {"position 10, n_tokens 1"}


def test_one_shot_holds_the_first_pass_in_a_scope(path: Path) -> None:
    settings = Settings.from_environment({"MLX_METAL_CAPTURE": str(path)})
    with moeflux.load("demo", device="metal", settings=settings) as model:
        session = model.session(64)
        session.prefill(PROMPT)
        session.decode(8)
    trace = Trace(path)
    assert trace.labels == ["embedding", *prompt_layers_joined(), "logits"]
    assert trace.scopes == ["begin", "end"]


def prompt_layers_joined() -> list[str]:
    """The same for a step that no window splits: a combine and the next mixer share one."""
    return [label for label in prompt_layers(0, N_LAYERS) if not label.endswith("mixer")]


def test_one_shot_and_window_have_a_trace_each(tmp_path: Path, path: Path) -> None:
    one_shot = tmp_path / "scope.gputrace"
    variables = {
        "MLX_METAL_CAPTURE": str(one_shot),
        "MOEFLUX_GPU_CAPTURE_PATH": str(path),
        "MOEFLUX_GPU_CAPTURE_MODE": "decode",
        "MOEFLUX_GPU_CAPTURE_TOKEN": "0",
    }
    settings = Settings.from_environment(variables)
    with moeflux.load("demo", device="metal", settings=settings) as model:
        session = model.session(64)
        session.prefill(PROMPT)
        session.decode(8)
    assert Trace(one_shot).positions == {"position 0, n_tokens 3", "position 0, n_tokens 1"}
    assert Trace(path).labels[:2] == ["layer 0 mixer", "layer 0 shared expert"]


@pytest.mark.parametrize("target", ["queue", "device", "scope"])
def test_with_capture_holds_what_is_inside(path: Path, target: Target) -> None:
    with moeflux.load("demo", device="metal") as model:
        session = model.session(64)
        session.decode(5)
        with moeflux.capture(path, target=target):
            session.decode(6)
        session.decode(7)
    trace = Trace(path)
    assert trace.positions == {"position 1, n_tokens 1"}
    assert trace.labels[0] == "embedding"
    assert {f"layer {index} experts" for index in range(N_LAYERS)} <= set(trace.labels)
    n_heads = sum(dispatches[-1:] == ["matmul_decode"] for dispatches in trace.dispatches[-1:])
    assert n_heads == 1


def test_exception_inside_writes_the_trace_and_the_next_capture_works(path: Path) -> None:
    with moeflux.load("demo", device="metal") as model:
        session = model.session(64)
        session.decode(5)
        with pytest.raises(ValueError, match="vocabulary"), moeflux.capture(path):
            session.decode(-1)
        assert not moeflux.is_capturing()
        with moeflux.capture(path, overwrite=True):
            session.decode(6)
    assert Trace(path).positions == {"position 1, n_tokens 1"}


def test_window_during_a_capture_of_yours_leaves_it_alone(tmp_path: Path, path: Path) -> None:
    with load(path) as model, moeflux.capture(tmp_path / "mine.gputrace"):
        model.session(64).prefill(PROMPT)
        with pytest.raises(AlreadyCapturingError):
            moeflux.start_capture(path)
    assert not path.exists()
    assert "logits" in Trace(tmp_path / "mine.gputrace").labels


def test_process_that_may_not_capture_is_told_what_to_set(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("MTL_CAPTURE_ENABLED")
    with load(path) as model:
        with pytest.raises(CaptureUnsupportedError, match="METAL_CAPTURE_ENABLED"):
            moeflux.start_capture(path)
        model.session(64).prefill(PROMPT)
    assert "MTL_CAPTURE_ENABLED=1 (before macOS 14: METAL_CAPTURE_ENABLED=1)" in caplog.text
    assert not path.exists()


def test_error_on_the_way_closes_the_trace(
    path: Path, tiny_folder: CheckpointFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(gpu_capture_path=str(path), gpu_capture_n_layers=4)
    folder = tiny_folder("qwen3_moe", "mlx")
    with moeflux.load(folder, device="metal", settings=settings) as model:
        session = model.session(64)
        with monkeypatch.context() as patch:

            def fail(*_: object) -> None:
                raise KeyboardInterrupt

            patch.setattr(model.runtime.experts, "fetch", fail)
            with pytest.raises(KeyboardInterrupt):
                session.prefill(PROMPT)
        assert not moeflux.is_capturing()
        assert Trace(path).labels[:2] == ["layer 0 mixer", "layer 0 shared expert"]
        session.reset()
        session.prefill(PROMPT)
