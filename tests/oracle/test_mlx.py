"""Checkpoints of `mlx_lm convert`, against transformers on the dequantised weights and mlx_lm."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import torch
from mlx_lm.convert import convert
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model

import moeflux
from goldens.expected import (
    TOLERANCE,
    Expected,
    assert_each_token_agrees,
    assert_greedy_tokens_agree,
    assert_whole_prompt_agrees,
)
from oracle.decisive import decisive
from oracle.dequantised import dequantise, load_oracle
from oracle.foreign_checkpoints import random_model, save_as_published

pytestmark = pytest.mark.oracle


@dataclass(frozen=True)
class Conversion:
    """Arguments of `mlx_lm convert`; bits 0 leaves the weights unquantised."""

    kind: str
    bits: int = 4
    group_size: int = 64
    recipe: str | None = None
    tied: bool = False
    length: int = 24

    @property
    def name(self) -> str:
        scheme = self.recipe or (f"{self.bits}bit" if self.bits else "unquantised")
        tied = "-tied" if self.tied else ""
        return f"{self.kind}-{scheme}-group{self.group_size}{tied}-{self.length}tokens"

    def run(self, source: Path, target: Path) -> Path:
        convert(
            str(source),
            str(target),
            quantize=bool(self.bits),
            q_bits=self.bits,
            q_group_size=self.group_size,
            quant_predicate=self.recipe,
        )
        return target


CONVERSIONS = [
    Conversion("qwen3_5_moe"),
    Conversion("qwen3_5_moe", length=150),
    Conversion("qwen3_5_moe", bits=0),
    Conversion("qwen3_5_moe", bits=8, group_size=32),
    Conversion("qwen3_5_moe", recipe="mixed_3_6", group_size=128),
    Conversion("qwen3_next"),
    Conversion("qwen3_next", bits=6, group_size=128),
    Conversion("qwen3_next", recipe="mixed_2_6"),
    Conversion("qwen3_moe"),
    Conversion("qwen3_moe", tied=True),
    Conversion("qwen3_moe", bits=5, group_size=32),
    Conversion("qwen3_moe", bits=3),
    Conversion("qwen3_moe", recipe="mixed_3_4", group_size=32),
]


@dataclass(frozen=True)
class Converted:
    folder: Path
    expected: Expected
    """By transformers on the dequantised weights."""
    session: moeflux.Session


@pytest.fixture(scope="module", params=CONVERSIONS, ids=lambda conversion: conversion.name)
def converted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Converted]:
    conversion: Conversion = request.param
    work = tmp_path_factory.mktemp("model")
    original = random_model(conversion.kind, {"tie_word_embeddings": conversion.tied})
    source = save_as_published(original, work / "source")
    folder = conversion.run(source, work / "converted")
    expected = decisive(load_oracle(folder), conversion.length, n_greedy=16)
    with moeflux.load(folder, device="cpu") as model:
        yield Converted(folder, expected, model.session())


def test_logits_of_the_whole_prompt_match_the_dequantised_weights(converted: Converted) -> None:
    assert_whole_prompt_agrees(converted.session, converted.expected)


def test_logits_token_by_token_match_the_dequantised_weights(converted: Converted) -> None:
    assert_each_token_agrees(converted.session, converted.expected)


def test_greedy_tokens_match_the_dequantised_weights(converted: Converted) -> None:
    assert_greedy_tokens_agree(converted.session, converted.expected)


def test_logits_match_mlx_lm_in_float32(converted: Converted) -> None:
    prompt = converted.expected.prompt[:24]
    converted.session.reset()
    got = converted.session.prefill_all_logits(prompt)
    model = float32_model(converted.folder)
    np.testing.assert_allclose(got, mlx_logits(model, prompt), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_the_oracle_reads_codes_as_mlx_packs_them(bits: int, group_size: int) -> None:
    mx.random.seed(0)
    packed = mx.quantize(mx.random.normal((6, 256)), group_size=group_size, bits=bits)
    words, scales, biases = (torch.from_numpy(np.array(array)) for array in packed)
    wanted = np.array(mx.dequantize(*packed, group_size=group_size, bits=bits))
    got = dequantise(words, scales, biases, bits, group_size).numpy()
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-6)


def float32_model(folder: Path) -> nn.Module:
    """mlx_lm's model with scales, biases and norms in float32; the packed codes stay."""
    model, _ = load_model(folder)
    model.set_dtype(mx.float32)
    return model


def mlx_logits(model: nn.Module, prompt: list[int]) -> np.ndarray:
    """Logits [T, V] after each token, through the caches that mlx_lm generates with."""
    return np.array(model(mx.array([prompt]), cache=make_prompt_cache(model))[0])
