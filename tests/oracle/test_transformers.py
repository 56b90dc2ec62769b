"""Checkpoints that transformers writes, against what transformers computes in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from transformers import PreTrainedModel

import moeflux
from goldens.expected import (
    Expected,
    assert_each_token_agrees,
    assert_greedy_tokens_agree,
    assert_whole_prompt_agrees,
)
from oracle.decisive import decisive
from oracle.dequantised import load_oracle
from oracle.foreign_checkpoints import random_model, save_as_published, save_with_transformers

pytestmark = pytest.mark.oracle

Pair = tuple[moeflux.Session, Expected]


@dataclass(frozen=True)
class Case:
    name: str
    kind: str
    save: Callable[[PreTrainedModel, Path], Path] = save_as_published
    changes: Mapping[str, object] = field(default_factory=dict)
    length: int = 24


OTHER_SHAPE: dict[str, object] = {
    "num_attention_heads": 6,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "num_experts": 10,
    "num_experts_per_tok": 7,
    "moe_intermediate_size": 96,
    "rms_norm_eps": 1e-5,
}
OTHER_DELTA_NET: dict[str, object] = {
    "linear_num_key_heads": 3,
    "linear_num_value_heads": 9,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 64,
    "linear_conv_kernel_dim": 3,
    "shared_expert_intermediate_size": 160,
    "layer_types": ["full_attention"] + 3 * ["linear_attention"] + ["full_attention"],
}

CASES = [
    Case("qwen3_5_moe", "qwen3_5_moe"),
    Case("qwen3_5_moe saved by transformers", "qwen3_5_moe", save_with_transformers),
    Case(
        "qwen3_5_moe another shape",
        "qwen3_5_moe",
        save_with_transformers,
        OTHER_SHAPE | OTHER_DELTA_NET,
    ),
    Case("qwen3_5_moe three chunks", "qwen3_5_moe", length=150),
    Case("qwen3_next", "qwen3_next"),
    Case("qwen3_next saved by transformers", "qwen3_next", save_with_transformers),
    Case(
        "qwen3_next another shape",
        "qwen3_next",
        save_with_transformers,
        OTHER_SHAPE | OTHER_DELTA_NET,
    ),
    Case("qwen3_next three chunks", "qwen3_next", length=150),
    Case("qwen3_moe", "qwen3_moe"),
    Case("qwen3_moe saved by transformers", "qwen3_moe", save_with_transformers),
    Case("qwen3_moe another shape", "qwen3_moe", save_with_transformers, OTHER_SHAPE),
    Case("qwen3_moe three chunks", "qwen3_moe", length=150),
    Case("qwen3_moe every other layer sparse", "qwen3_moe", changes={"decoder_sparse_step": 2}),
    Case("qwen3_moe weights not normalised", "qwen3_moe", changes={"norm_topk_prob": False}),
    Case("qwen3_moe tied embeddings", "qwen3_moe", changes={"tie_word_embeddings": True}),
]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name.replace(" ", "-"))
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    """A session on a checkpoint, and what transformers computes with the same files."""
    case: Case = request.param
    target = tmp_path_factory.mktemp("model") / "saved"
    folder = case.save(random_model(case.kind, case.changes), target)
    expected = decisive(load_oracle(folder), case.length, n_greedy=16)
    with moeflux.load(folder, device="cpu") as model:
        yield model.session(), expected


def test_logits_of_the_whole_prompt_match(pair: Pair) -> None:
    assert_whole_prompt_agrees(*pair)


def test_logits_token_by_token_match(pair: Pair) -> None:
    assert_each_token_agrees(*pair)


def test_greedy_tokens_match(pair: Pair) -> None:
    assert_greedy_tokens_agree(*pair)
