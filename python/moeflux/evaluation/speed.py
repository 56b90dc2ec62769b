"""How fast a model prefills and decodes here, repeated, and with what in the page cache."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from statistics import mean, stdev
from typing import Any

import numpy as np

from moeflux._core import measure_read_bandwidth
from moeflux.checkpoint import Checkpoint
from moeflux.engine.account import Account
from moeflux.engine.inspection import ModelInfo, inspect_checkpoint
from moeflux.engine.model import Model
from moeflux.engine.receipt import PhaseStats, phase_stats
from moeflux.engine.session import Session
from moeflux.evaluation.page_cache import (
    FileRange,
    drop,
    expert_ranges,
    resident_share,
    state_name,
)
from moeflux.evaluation.source import ModelSource
from moeflux.memory import peak_memory
from moeflux.tokenizer import Tokenizer

MEASURED_NBYTES = 256 * 2**20
"""Of memory, to learn its read bandwidth: more than the caches of processors hold."""
SEED = 0
"""Of prompts that are random tokens."""


@dataclass(frozen=True)
class SpeedWorkload:
    """Tokens to prefill and to decode, how often, and what to begin with.

    cold: every repetition loads the model anew and begins with no expert in memory. Otherwise one
    run that is not counted goes before. text: the prompt's, repeated as needed; "" for random
    tokens, the same every time.
    """

    n_prompt: int = 512
    n_generated: int = 128
    n_repetitions: int = 5
    cold: bool = False
    text: str = ""

    def __post_init__(self) -> None:
        if self.n_prompt < 0 or self.n_generated < 0 or self.n_prompt + self.n_generated == 0:
            raise ValueError(
                "a benchmark needs tokens to prefill or to decode, got "
                f"{self.n_prompt} and {self.n_generated}"
            )
        if self.n_repetitions < 1:
            raise ValueError(f"n_repetitions must be at least 1, got {self.n_repetitions}")

    @property
    def n_positions(self) -> int:
        """Of the context that it takes; a decode needs a token before it."""
        return max(1, self.n_prompt) + self.n_generated


@dataclass(frozen=True)
class Repetition:
    """One run: what its phases cost, and the share of expert bytes in the page cache before it.

    The share is None where the system does not tell.
    """

    prefill: PhaseStats
    decode: PhaseStats
    page_cache_share: float | None
    load_seconds: float
    """Of this repetition's own loading; 0 where the model was loaded before."""


@dataclass(frozen=True)
class PhaseSpeed:
    """Prefill or decode over all repetitions."""

    name: str
    n_tokens: int
    tokens_per_second: tuple[float, ...]
    """Of each repetition."""
    bytes_read_per_token: float
    drive_bytes_per_token: float | None
    hit_rate: float

    @property
    def mean(self) -> float:
        """Of the repetitions' tokens per second."""
        return mean(self.tokens_per_second)

    @property
    def standard_deviation(self) -> float | None:
        """Between repetitions; None for a single one."""
        values = self.tokens_per_second
        return stdev(values) if len(values) > 1 else None


@dataclass(frozen=True)
class Benchmark:
    """Speed of one model on one device. Sizes in bytes, times in seconds."""

    info: ModelInfo
    device: str
    workload: SpeedWorkload
    repetitions: tuple[Repetition, ...]
    n_slots: int
    n_experts: int
    weight_nbytes_per_token: int
    """Weights that a decode step touches, those of its experts included."""
    peak_memory_nbytes: int
    """Of the process, from its start."""
    memory_cap_nbytes: int | None
    memory_nbytes_per_second: float
    """Read bandwidth of the host's memory, measured after the runs."""
    phases: tuple[PhaseSpeed, ...] = field(init=False)
    """Those that have tokens."""

    def __post_init__(self) -> None:
        named = {"prefill": [], "decode": []}  # type: dict[str, list[PhaseStats]]
        for repetition in self.repetitions:
            named["prefill"].append(repetition.prefill)
            named["decode"].append(repetition.decode)
        phases = (_phase_speed(name, costs) for name, costs in named.items())
        object.__setattr__(self, "phases", tuple(phase for phase in phases if phase.n_tokens))

    @property
    def page_cache(self) -> str:
        """The state before the repetitions: cold, warm, partly warm, mixed or unknown."""
        names = {state_name(repetition.page_cache_share) for repetition in self.repetitions}
        return names.pop() if len(names) == 1 else "mixed"

    @property
    def decode_weight_nbytes_per_second(self) -> float | None:
        """Weights that decode went through in a second; None without decode."""
        for phase in self.phases:
            if phase.name == "decode":
                return phase.mean * self.weight_nbytes_per_token
        return None

    def as_dict(self) -> dict[str, Any]:
        """Fields and derived values, for JSON."""
        phases = [
            asdict(phase) | {"mean": phase.mean, "standard_deviation": phase.standard_deviation}
            for phase in self.phases
        ]
        repetitions = [
            asdict(repetition)
            | {"prefill": repetition.prefill.as_dict(), "decode": repetition.decode.as_dict()}
            for repetition in self.repetitions
        ]
        return asdict(self) | {
            "page_cache": self.page_cache,
            "decode_weight_nbytes_per_second": self.decode_weight_nbytes_per_second,
            "phases": phases,
            "repetitions": repetitions,
        }


def measure_speed(
    source: ModelSource,
    workload: SpeedWorkload,
    progress: Callable[[int, int], None] | None = None,
) -> Benchmark:
    """Run the workload; `progress` is told of repetitions that are done, and of how many.

    Raises as moeflux.load and Model.session do, and OSError where files cannot be looked at.
    """
    experts = expert_ranges(Checkpoint.open(source.folder))
    repetitions: list[Repetition] = []
    runs = _cold_runs if workload.cold else _warm_runs
    for model, repetition in runs(source, workload, experts):
        repetitions.append(repetition)
        facts = (model.device.description, model.runtime.experts.n_slots)
        sizes = (model.runtime.experts.n_experts, model.runtime.weight_nbytes_per_token)
        cap = model.runtime.memory_cap
        if progress is not None:
            progress(len(repetitions), workload.n_repetitions)
    peak = peak_memory()
    n_threads = source.settings.n_threads if source.settings is not None else 0
    bandwidth = measure_read_bandwidth(MEASURED_NBYTES, n_threads)
    info = inspect_checkpoint(source.folder, source.settings)
    device, n_slots = facts
    return Benchmark(
        info, device, workload, tuple(repetitions), n_slots, *sizes, peak, cap, bandwidth
    )


def _cold_runs(
    source: ModelSource, workload: SpeedWorkload, experts: Sequence[FileRange]
) -> Iterator[tuple[Model, Repetition]]:
    for _ in range(workload.n_repetitions):
        drop(experts)
        started = time.perf_counter()
        with source.load() as model:
            loaded = time.perf_counter() - started
            session, prompt = model.session(workload.n_positions), _prompt(model, workload)
            # Loading tries reads to choose how to read, which leaves experts in the page cache.
            drop(experts)
            share = resident_share(experts)
            yield model, Repetition(*_run(model, session, prompt, workload), share, loaded)


def _warm_runs(
    source: ModelSource, workload: SpeedWorkload, experts: Sequence[FileRange]
) -> Iterator[tuple[Model, Repetition]]:
    with source.load() as model:
        session, prompt = model.session(workload.n_positions), _prompt(model, workload)
        _run(model, session, prompt, workload)
        for _ in range(workload.n_repetitions):
            session.reset()
            share = resident_share(experts)
            yield model, Repetition(*_run(model, session, prompt, workload), share, 0.0)


def _run(
    model: Model, session: Session, prompt: Sequence[int], workload: SpeedWorkload
) -> tuple[PhaseStats, PhaseStats]:
    """Prefill the prompt, then decode the most probable tokens, whatever they are."""
    runtime = model.runtime
    layers = runtime.experts.layer_indices
    costs: list[PhaseStats] = []
    session.account = Account()
    started = time.perf_counter()
    logits = session.prefill(prompt)
    seconds = time.perf_counter() - started
    runtime.settle()
    costs.append(phase_stats(session.account, workload.n_prompt, seconds, layers))
    session.account = Account()
    started = time.perf_counter()
    for _ in range(workload.n_generated):
        logits = session.decode(int(logits.argmax()))
    seconds = time.perf_counter() - started
    runtime.settle()
    costs.append(phase_stats(session.account, workload.n_generated, seconds, layers))
    session.account = None
    return costs[0], costs[1]


def _prompt(model: Model, workload: SpeedWorkload) -> list[int]:
    n_tokens = max(1, workload.n_prompt)
    if not workload.text:
        drawn = np.random.default_rng(SEED).integers(model.config.vocab_size, size=n_tokens)
        return [int(token) for token in drawn]
    tokenizer: Tokenizer = model.tokenizer
    tokens = tokenizer.encode(workload.text, add_bos=True)
    if not tokens:
        raise ValueError("the text of the prompt has no tokens")
    repeated = tokens * -(-n_tokens // len(tokens))
    return repeated[:n_tokens]


def _phase_speed(name: str, costs: Sequence[PhaseStats]) -> PhaseSpeed:
    n_tokens = sum(cost.n_tokens for cost in costs)
    drives = [cost.drive_bytes_read for cost in costs if cost.drive_bytes_read is not None]
    return PhaseSpeed(
        name=name,
        n_tokens=costs[0].n_tokens,
        tokens_per_second=tuple(cost.tokens_per_second for cost in costs),
        bytes_read_per_token=sum(cost.bytes_read for cost in costs) / max(1, n_tokens),
        drive_bytes_per_token=(
            sum(drives) / max(1, n_tokens) if len(drives) == len(costs) else None
        ),
        hit_rate=mean(cost.hit_rate for cost in costs),
    )
