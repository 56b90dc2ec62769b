"""A model and package functions that the command line can run without a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import moeflux
from moeflux.engine.inspection import ModelInfo

STATS = moeflux.GenerationStats(
    prompt_tokens=40,
    generated_tokens=11,
    prefill_seconds=0.5,
    decode_seconds=4.0,
    bytes_read=5_100_000_000,
    expert_hits=3,
    expert_misses=4,
    read_wait_seconds=0.25,
    peak_memory_nbytes=2_000_000_000,
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

    def generate(self, prompt: object, **arguments: object) -> Iterator[moeflux.Event]:
        self.prompt, self.arguments = prompt, arguments
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
