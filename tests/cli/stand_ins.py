"""A model and package functions that the command line can run without a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import moeflux
from moeflux.engine.inspection import ModelInfo
from moeflux.engine.receipt import PhaseStats, PredictorStats
from moeflux.experts.governor import Decision

STATS = moeflux.GenerationStats(
    prompt_tokens=40,
    generated_tokens=11,
    prefill=PhaseStats(
        n_tokens=40,
        seconds=0.5,
        bytes_read=3_000_000_000,
        drive_bytes_read=2_000_000_000,
        n_reads=30,
        experts_missed=30,
        stall_seconds={0: 0.1, 1: 0.0},
        device_wait_seconds=0.3,
        device_seconds=0.35,
    ),
    decode=PhaseStats(
        n_tokens=10,
        seconds=4.0,
        bytes_read=2_100_000_000,
        drive_bytes_read=2_200_000_000,
        n_reads=21,
        n_failed_reads=1,
        experts_ready=60,
        experts_late=5,
        experts_missed=15,
        stall_seconds={0: 2.0, 1: 0.5},
        device_wait_seconds=1.0,
        device_seconds=1.25,
    ),
    peak_memory_nbytes=2_000_000_000,
    memory_cap_nbytes=2_500_000_000,
    n_slots=20,
    n_experts=80,
    weight_nbytes_per_token=1_000_000_000,
    predictors=(
        PredictorStats(
            "combined",
            recall=0.5,
            miss_recall=0.25,
            precision_by_rank=(0.75, 0.5),
            issued_nbytes=1_000_000_000,
            useful_nbytes=400_000_000,
            late_nbytes=300_000_000,
            wasted_nbytes=200_000_000,
            cancelled_nbytes=100_000_000,
        ),
    ),
    governor=(
        Decision(
            80,
            enabled=True,
            changed=False,
            seconds_on=0.3,
            seconds_off=0.4,
            saved=0.25,
            reason="prefetch saves 25.0% of a token's time",
        ),
    ),
)
INFO = ModelInfo(
    path="/models/[bold]tiny",
    model_type="qwen3_5_moe",
    quantisation="affine 4-bit, groups of 64",
    n_layers=60,
    hidden_size=4096,
    vocab_size=248320,
    context_size=262144,
    n_experts=512,
    top_k=10,
    dense_nbytes=6_000_000_000,
    expert_nbytes=207_000_000_000,
    bytes_per_token=4_050_000_000,
    dense_bytes_per_token=5_400_000_000,
    floor_nbytes=6_070_000_000,
    available_nbytes=8_000_000_000,
    fits=True,
    fits_whole=False,
    reason="experts are streamed: 213 GB in all, 8 GB available",
)


class StandInGeneration(Iterator[moeflux.Event]):
    """Events, and stats at any time."""

    stats = STATS

    def __init__(self, events: Iterator[moeflux.Event]) -> None:
        self._events = events

    def __next__(self) -> moeflux.Event:
        return next(self._events)


@dataclass
class StandInModel:
    """Generates the given texts; an exception among them is raised in its place."""

    texts: Sequence[str | BaseException] = ("Hello", ", ", "wörld")
    loaded_with: tuple[object, ...] = ()
    prompt: object = None
    arguments: dict[str, object] = field(default_factory=dict)
    closed: bool = False

    def load(self, *arguments: object) -> StandInModel:
        self.loaded_with = arguments
        return self

    def generate(self, prompt: object, **arguments: object) -> StandInGeneration:
        self.prompt, self.arguments = prompt, arguments
        return StandInGeneration(self.events())

    def events(self) -> Iterator[moeflux.Event]:
        for n, text in enumerate(self.texts, 1):
            if isinstance(text, BaseException):
                raise text
            if n == len(self.texts):
                yield moeflux.Event(text, n, "length", STATS)
            else:
                yield moeflux.Event(text, n)

    def __enter__(self) -> StandInModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True
