"""The same models, unmodified, on the CUDA backend: against the CPU backend, and bit by bit."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest

import moeflux
from tiny_checkpoint import CheckpointFolders

pytestmark = pytest.mark.cuda

KINDS = ("qwen3_5_moe", "qwen3_next", "qwen3_moe")
TOLERANCE = 2e-4
"""Of logits, absolute: the backends sum float32 in other orders."""
DEMO_PROMPT = "def read_lines(path):"
PROMPT = [3 + (11 * index) % 250 for index in range(70)]
DECODED = [5, 6, 250, 9]

Logits = npt.NDArray[np.float32]


def run(model: moeflux.Model, chunks: list[list[int]]) -> Logits:
    """Logits after every chunk of a prompt and every decoded token."""
    session = model.session(128)
    rows = [session.prefill(chunk) for chunk in chunks]
    return np.stack([*rows, *(session.decode(token) for token in DECODED)])


def assert_same_bits(got: Logits, expected: Logits) -> None:
    np.testing.assert_array_equal(got.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("style", ["mlx", "hf"])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_the_cpu(tiny_folder: CheckpointFolders, kind: str, style: str) -> None:
    logits = {}
    for device in ("cpu", "cuda"):
        with moeflux.load(tiny_folder(kind, style), device=device) as model:
            logits[device] = run(model, [PROMPT])
    np.testing.assert_allclose(logits["cuda"], logits["cpu"], rtol=0, atol=TOLERANCE)
    assert logits["cuda"].argmax(axis=1).tolist() == logits["cpu"].argmax(axis=1).tolist()


def test_the_demo_model_generates_the_text_of_the_cpu() -> None:
    texts = {}
    for device in ("cpu", "cuda"):
        with moeflux.load("demo", device=device) as model:
            texts[device] = "".join(
                event.text for event in model.generate(DEMO_PROMPT, max_tokens=24)
            )
    assert texts["cuda"] == texts["cpu"]
    assert len(texts["cuda"]) > 24


@pytest.mark.parametrize("cut", [[PROMPT[:64], PROMPT[64:]], [PROMPT[:64], PROMPT[64:65]]])
def test_chunks_that_break_at_blocks_give_the_same_bits(
    tiny_folder: CheckpointFolders, cut: list[list[int]]
) -> None:
    with moeflux.load(tiny_folder("qwen3_5_moe"), device="cuda") as model:
        whole, parts = run(model, [[token for chunk in cut for token in chunk]]), run(model, cut)
        assert_same_bits(parts[1:], whole)


@pytest.mark.parametrize(
    "settings",
    [
        {"n_slots": 2, "prefetch": "off"},
        {"n_slots": 5, "prefetch": "combined"},
        {"n_slots": 16, "prefetch": "next-router", "n_read_workers": 1},
        {"n_slots": 5, "read_mode": "direct"},
        {"n_slots": 5, "read_mode": "page-cache", "verify": "always", "n_read_parts": 3},
        {"n_slots": 2, "n_records": 1, "prefetch": "off"},
        {"n_slots": 5, "n_records": 12, "prefetch": "combined"},
        {"n_slots": 5, "n_records": 12, "read_mode": "direct", "n_read_parts": 3},
        {"n_slots": 5, "n_records": 12, "verify": "always", "n_read_workers": 1},
        {"n_slots": 16, "n_records": 32, "eviction": "lru"},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
@pytest.mark.parametrize("kind", ["qwen3_5_moe", "qwen3_moe"])
def test_streaming_changes_no_bit(
    tiny_folder: CheckpointFolders,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    settings: dict[str, object],
) -> None:
    monkeypatch.setattr("moeflux.engine.budget.resident_memory", lambda: 0)
    others = dict(settings)
    n_slots, n_records = (int(str(others.pop(name, 0))) for name in ("n_slots", "n_records"))
    with moeflux.load(tiny_folder(kind), device="cuda") as model:
        expected, needs = run(model, [PROMPT]), model.memory_needs
        chosen = dataclasses.replace(model.settings, **others)
    n_workers = chosen.n_read_workers - model.settings.n_read_workers
    staging = n_workers * (needs.staging_nbytes // model.settings.n_read_workers)
    caps = {
        "vram": needs.device_fixed_nbytes + n_slots * needs.slot_nbytes,
        "memory": needs.host_fixed_nbytes + staging + n_records * needs.slot_nbytes,
    }
    with moeflux.load(tiny_folder(kind), device="cuda", settings=chosen, **caps) as model:
        experts = model.runtime.experts
        assert (experts.n_slots, experts.settings.n_records) == (n_slots, n_records)
        assert_same_bits(run(model, [PROMPT]), expected)
        assert (experts.counters.n_copies > 0) == (n_records > 1)


def test_interleaved_sessions_give_the_same_bits_as_one_alone(
    tiny_folder: CheckpointFolders,
) -> None:
    with moeflux.load(tiny_folder("qwen3_5_moe"), device="cuda") as model:
        expected = run(model, [PROMPT])
        first, second = model.session(128), model.session(128)
        rows = [first.prefill(PROMPT)]
        second.prefill(PROMPT[20:50])
        for token in DECODED:
            rows.append(first.decode(token))
            second.decode(token + 1)
        assert_same_bits(np.stack(rows), expected)
