"""config.json and generation_config.json: what is read, and what is refused with file and key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from moeflux.checkpoint.config import CheckpointConfig, GenerationConfig, read_config
from moeflux.checkpoint.config_reader import RopeParameters
from moeflux.checkpoint.quantization import Affine
from moeflux.errors import CheckpointError


def write_config(folder: Path, **values: object) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3_moe"} | values))


def config(folder: Path, **values: object) -> CheckpointConfig:
    write_config(folder, **values)
    return read_config(folder)


def refused(folder: Path, *fragments: str, file_name: str = "config.json") -> None:
    with pytest.raises(CheckpointError) as refusal:
        read_config(folder)
    for fragment in (str(folder / file_name), *fragments):
        assert fragment in str(refusal.value)


def test_missing_config_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, "No such file")


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"model_type": "a", "model_type": "b"}'])
def test_damaged_config_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    refused(tmp_path)


@pytest.mark.parametrize("model_type", [None, 3, ["qwen3_moe"]], ids=repr)
def test_model_type_must_be_a_string(tmp_path: Path, model_type: object) -> None:
    write_config(tmp_path, model_type=model_type)
    refused(tmp_path, "model_type", "a string")


def test_flat_config_is_its_own_text(tmp_path: Path) -> None:
    read = config(tmp_path, model_type="qwen3_5_moe_text", hidden_size=64)
    assert (read.model_type, read.text.integer("hidden_size")) == ("qwen3_5_moe", 64)


def test_text_config_is_read_where_there_is_one(tmp_path: Path) -> None:
    text = {"model_type": "qwen3_5_moe_text", "hidden_size": 64}
    read = config(tmp_path, model_type="qwen3_5_moe", hidden_size=1, text_config=text)
    assert (read.model_type, read.text.integer("hidden_size")) == ("qwen3_5_moe", 64)


def test_errors_in_text_config_name_the_section(tmp_path: Path) -> None:
    read = config(tmp_path, text_config={"hidden_size": "64"})
    with pytest.raises(CheckpointError, match=r"text_config\.hidden_size: wanted an integer.*'64'"):
        read.text.integer("hidden_size")


@pytest.mark.parametrize(
    ("whole", "text", "tied"),
    [(None, None, False), (True, None, True), (True, False, False), (False, True, True)],
)
def test_text_config_decides_whether_embeddings_are_tied(
    tmp_path: Path, whole: bool | None, text: bool | None, tied: bool
) -> None:
    values = {"tie_word_embeddings": whole, "text_config": {"tie_word_embeddings": text}}
    assert config(tmp_path, **values).tie_word_embeddings is tied


# ---- typed getters ----


def test_values_are_returned_as_asked(tmp_path: Path) -> None:
    values: dict[str, Any] = {"a": 3, "b": 0.5, "c": True, "d": "silu", "e": ["x"], "f": [0, 1]}
    text = config(tmp_path, **values).text
    assert text.integer("a") == 3
    assert (text.number("a"), text.number("b")) == (3.0, 0.5)
    assert text.boolean("c") is True
    assert text.text("d") == "silu"
    assert text.texts("e") == ("x",)
    assert text.integers("f") == (0, 1)


@pytest.mark.parametrize(
    ("getter", "default"),
    [
        ("integer", 7),
        ("number", 1e-6),
        ("boolean", False),
        ("text", "silu"),
        ("texts", ()),
        ("integers", ()),
    ],
)
def test_null_and_missing_give_the_default_or_an_error(
    tmp_path: Path, getter: str, default: object
) -> None:
    get = getattr(config(tmp_path, null=None).text, getter)
    for key in ("null", "missing"):
        assert get(key, default=default) == default
        with pytest.raises(CheckpointError, match=rf"config\.json: {key}: wanted .*, got nothing"):
            get(key)


@pytest.mark.parametrize(
    ("getter", "value"),
    [
        ("integer", True),
        ("integer", 4.0),
        ("integer", 0),
        ("integer", 2**63),
        ("number", "1e-6"),
        ("number", float("inf")),
        ("number", float("nan")),
        ("number", 10**400),
        ("number", False),
        ("boolean", 1),
        ("text", 1),
        ("texts", "silu"),
        ("texts", ["silu", 1]),
        ("integers", [1, -1]),
        ("integers", [True]),
        ("integers", 1),
        ("child", []),
    ],
)
def test_other_types_are_refused_even_with_a_default(
    tmp_path: Path, getter: str, value: object
) -> None:
    get = getattr(config(tmp_path, key=value).text, getter)
    with pytest.raises(CheckpointError, match=r"config\.json: key: wanted "):
        get("key")


def test_minimum_of_an_integer_is_kept(tmp_path: Path) -> None:
    text = config(tmp_path, key=1).text
    assert text.integer("key", minimum=1) == 1
    with pytest.raises(CheckpointError, match="key: wanted an integer of at least 2, got 1"):
        text.integer("key", minimum=2)


# ---- rotary embedding ----

MROPE = {"mrope_section": [11, 11, 10], "mrope_interleaved": True}


@pytest.mark.parametrize(
    ("values", "rope"),
    [
        ({"rope_theta": 10000000}, RopeParameters(1e7, 1.0)),
        ({"rope_theta": 1e7, "partial_rotary_factor": 0.25}, RopeParameters(1e7, 0.25)),
        ({"rope_theta": 1e6, "rope_scaling": None}, RopeParameters(1e6, 1.0)),
        ({"rope_theta": 1e6, "rope_scaling": {"type": "mrope"} | MROPE}, RopeParameters(1e6, 1.0)),
        (
            {"rope_parameters": {"rope_theta": 5e5, "partial_rotary_factor": 0.5} | MROPE},
            RopeParameters(5e5, 0.5),
        ),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "rope_theta": 1.0},
            RopeParameters(5e5, 1.0),
        ),
        (
            {"rope_parameters": {"rope_theta": 5e5}, "partial_rotary_factor": 0.25},
            RopeParameters(5e5, 0.25),
        ),
    ],
)
def test_rope_is_read_from_either_form(
    tmp_path: Path, values: dict[str, object], rope: RopeParameters
) -> None:
    assert config(tmp_path, **values).text.rope() == rope


@pytest.mark.parametrize(
    ("values", "fragment"),
    [
        ({}, "rope_theta"),
        ({"rope_theta": 0}, "rope_theta"),
        ({"rope_theta": 1e6, "partial_rotary_factor": 1.5}, "partial_rotary_factor"),
        ({"rope_theta": 1e6, "partial_rotary_factor": 0}, "partial_rotary_factor"),
        ({"rope_parameters": {}}, "rope_parameters.rope_theta"),
        ({"rope_parameters": {"rope_theta": 1e6, "rope_type": "yarn"}}, "'yarn'"),
        ({"rope_theta": 1e6, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "'linear'"),
        ({"rope_theta": 1e6, "rope_scaling": {"type": "dynamic"}}, "'dynamic'"),
    ],
)
def test_rope_that_is_not_supported_is_refused(
    tmp_path: Path, values: dict[str, object], fragment: str
) -> None:
    text = config(tmp_path, **values).text
    with pytest.raises(CheckpointError, match=fragment):
        text.rope()


# ---- quantisation ----


@pytest.mark.parametrize("key", ["quantization", "quantization_config"])
def test_quantisation_is_read_under_both_names(tmp_path: Path, key: str) -> None:
    quantization = config(tmp_path, **{key: {"group_size": 64, "bits": 4}}).quantization
    assert quantization.of("model.layers.0.mlp.up_proj") == Affine(4, 64)


def test_quantisation_is_read_from_text_config(tmp_path: Path) -> None:
    section = {"group_size": 32, "bits": 6, "mode": "affine"}
    assert config(tmp_path, text_config={"quantization": section}).quantization.default == Affine(
        6, 32
    )


def test_no_section_means_not_quantised(tmp_path: Path) -> None:
    assert config(tmp_path, quantization_config=None).quantization.of("lm_head") is None


def test_overrides_apply_by_full_name_with_or_without_weight(tmp_path: Path) -> None:
    section = {
        "group_size": 64,
        "bits": 4,
        "model.layers.0.mlp.gate": {"group_size": 32, "bits": 8},
        "model.layers.1.mlp.gate.weight": {"bits": 8},
        "lm_head": False,
        "model.embed_tokens": True,
    }
    quantization = config(tmp_path, quantization=section).quantization
    assert quantization.of("model.layers.0.mlp.gate") == Affine(8, 32)
    assert quantization.of("model.layers.0.mlp.gate.weight") == Affine(8, 32)
    assert quantization.of("model.layers.1.mlp.gate") == Affine(8, 64)
    assert quantization.of("model.layers.2.mlp.gate") == Affine(4, 64)
    assert quantization.of("model.embed_tokens") == Affine(4, 64)
    assert quantization.of("lm_head") is None


@pytest.mark.parametrize(
    ("section", "fragments"),
    [
        (
            {"group_size": 32, "bits": 4, "mode": "mxfp4"},
            ("quantization.mode", "'mxfp4'", "affine"),
        ),
        ({"group_size": 64, "bits": 7}, ("quantization.bits", "7")),
        ({"group_size": 64, "bits": 1}, ("quantization.bits", "1")),
        ({"group_size": 48, "bits": 4}, ("quantization.group_size", "48")),
        ({"group_size": 64}, ("quantization.bits", "nothing")),
        ({"bits": 4}, ("quantization.group_size", "nothing")),
        ({"group_size": "64", "bits": 4}, ("quantization.group_size", "'64'")),
        ({"quant_method": "gptq", "bits": 4, "group_size": 64}, ("'gptq'", "MLX affine")),
        ({"quant_method": "fp8", "fmt": "e4m3"}, ("quant_method", "'fp8'", "MLX affine")),
        ({"group_size": 64, "bits": 4, "a.b": {"mode": "nvfp4"}}, ("a.b.mode", "'nvfp4'")),
        ({"group_size": 64, "bits": 4, "a.b": {"bits": 16}}, ("a.b.bits", "16")),
        ({"group_size": 64, "bits": 4, "a.b": 8}, ("quantization.a.b", "8")),
        ([4, 64], ("quantization", "an object")),
    ],
)
def test_other_quantisation_is_refused(
    tmp_path: Path, section: object, fragments: tuple[str, ...]
) -> None:
    write_config(tmp_path, quantization=section)
    refused(tmp_path, *fragments)


# ---- generation ----


def test_generation_config_may_be_missing(tmp_path: Path) -> None:
    assert config(tmp_path).generation == GenerationConfig()


def test_generation_defaults_are_read(tmp_path: Path) -> None:
    values = {
        "eos_token_id": [2, 1],
        "do_sample": True,
        "temperature": 1,
        "top_k": 20,
        "top_p": 0.95,
        "min_p": 0.0,
        "repetition_penalty": 1.05,
    }
    (tmp_path / "generation_config.json").write_text(json.dumps(values))
    read = config(tmp_path, eos_token_id=9).generation
    assert read == GenerationConfig(
        eos_token_ids=(2, 1),
        do_sample=True,
        temperature=1.0,
        top_k=20,
        top_p=0.95,
        min_p=0.0,
        repetition_penalty=1.05,
    )


@pytest.mark.parametrize(
    ("generation", "whole", "text", "ids"),
    [
        (3, 4, 5, (3,)),
        (0, 4, 5, (0,)),
        (None, 4, 5, (4,)),
        (None, [4, 6], 5, (4, 6)),
        (None, None, 5, (5,)),
        (None, None, None, ()),
    ],
)
def test_eos_is_what_the_first_file_says_that_names_one(
    tmp_path: Path, generation: object, whole: object, text: object, ids: tuple[int, ...]
) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": generation}))
    read = config(tmp_path, eos_token_id=whole, text_config={"eos_token_id": text})
    assert read.generation.eos_token_ids == ids


@pytest.mark.parametrize(
    "values",
    [{"eos_token_id": -1}, {"eos_token_id": "1"}, {"eos_token_id": [1, None]}, {"top_k": 0.5}],
    ids=repr,
)
def test_damaged_generation_config_is_refused(tmp_path: Path, values: dict[str, object]) -> None:
    write_config(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps(values))
    refused(tmp_path, *values, file_name="generation_config.json")
