"""A packed checkpoint holds the bytes of its source, in one aligned record per expert."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conversion_sources import N_EXPERTS, N_LAYERS, WRITERS, Sources
from stored_files import digests, expert_blocks, headers, read_tensors, record

import moeflux
from moeflux._core import crc32c
from moeflux.checkpoint import Checkpoint
from moeflux.checkpoint.convert import convert
from moeflux.checkpoint.convert_files import Progress

PROMPT = [3 + (11 * index) % 300 for index in range(20)]


@pytest.fixture(scope="module", params=sorted(WRITERS))
def converted(
    request: pytest.FixtureRequest,
    source_folder: Sources,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Path]:
    """Source and destination of a conversion that keeps all bytes."""
    source = source_folder(request.param)
    destination = tmp_path_factory.mktemp("packed") / request.param
    convert(source, destination)
    return source, destination


def test_every_record_has_the_bytes_of_the_source(converted: tuple[Path, Path]) -> None:
    source, destination = converted
    if (source / "packed_experts").exists():
        source = source.with_name(f"{source.name}-source")
    tensors = read_tensors(source)
    for layer in range(N_LAYERS):
        records = [record(expert_blocks(tensors, layer, expert)) for expert in range(N_EXPERTS)]
        file = destination / "experts" / f"layer_{layer:02}.bin"
        assert file.read_bytes() == b"".join(records)


def test_an_expert_is_one_range_with_the_checksum_of_its_bytes(
    converted: tuple[Path, Path],
) -> None:
    checkpoint = Checkpoint.open(converted[1])
    source = checkpoint.expert_source
    for layer in source.layers:
        experts = checkpoint.experts(layer, source.shape(layer))
        for expert in range(N_EXPERTS):
            (part,) = experts.ranges(expert)
            assert part.offset % 16384 == part.record_offset == 0
            assert part.nbytes == experts.record_nbytes
            data = part.path.read_bytes()[part.offset : part.offset + part.nbytes]
            assert experts.checksum(expert) == crc32c(data)


def test_experts_of_a_source_have_no_checksum(source_folder: Sources) -> None:
    checkpoint = Checkpoint.open(source_folder("mlx"))
    experts = checkpoint.experts(0, checkpoint.expert_source.shape(0))
    assert experts.checksum(0) is None


def test_every_tensor_starts_at_a_multiple_of_64_bytes(converted: tuple[Path, Path]) -> None:
    entries = headers(converted[1] / "dense.safetensors")
    offsets = {name: begin for name, (_, _, begin, _) in entries.items() if "padding" not in name}
    assert {name: begin for name, begin in offsets.items() if begin % 64} == {}


def test_sizes_and_places_are_those_of_the_source(converted: tuple[Path, Path]) -> None:
    source, packed = (Checkpoint.open(folder) for folder in converted)
    assert packed.style == "mlx"
    assert packed.expert_source.layers == source.expert_source.layers
    for layer in range(N_LAYERS):
        shape = source.expert_source.shape(layer)
        assert packed.expert_source.shape(layer) == shape
        assert packed.experts(layer, shape).places == source.experts(layer, shape).places


def test_logits_are_those_of_the_source_bit_for_bit(converted: tuple[Path, Path]) -> None:
    source, destination = converted
    if (source / "packed_experts").exists():
        source = source.with_name(f"{source.name}-source")
    logits = []
    for folder in (source, destination):
        with moeflux.load(folder, device="cpu") as model:
            session = model.session()
            logits.append(np.stack([session.prefill(PROMPT), session.decode(7)]))
    np.testing.assert_array_equal(logits[0].view(np.uint32), logits[1].view(np.uint32))


def test_raw_norms_and_convolutions_get_the_form_of_mlx(
    source_folder: Sources, tmp_path: Path
) -> None:
    raw = read_tensors(source_folder("hf"))
    convert(source_folder("hf"), tmp_path / "packed")
    packed = read_tensors(tmp_path / "packed")
    old, new = "model.language_model.layers.0.", "language_model.model.layers.0."
    norm = raw[f"{old}input_layernorm.weight"].astype(np.uint32) << 16
    shifted = np.float32(1) + norm.view(np.float32)
    np.testing.assert_array_equal(packed[f"{new}input_layernorm.weight"], shifted)
    plain = f"{old}linear_attn.norm.weight", f"{new}linear_attn.norm.weight"
    np.testing.assert_array_equal(packed[plain[1]], raw[plain[0]])
    convolution = raw[f"{old}linear_attn.conv1d.weight"]
    channels, _, kernel_size = convolution.shape
    assert packed[f"{new}linear_attn.conv1d.weight"].shape == (channels, kernel_size, 1)
    assert packed[f"{new}linear_attn.conv1d.weight"].tobytes() == convolution.tobytes()


def test_weights_beside_the_text_model_are_left_out(source_folder: Sources, tmp_path: Path) -> None:
    source = source_folder("mlx")
    folder = tmp_path / "source"
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    data = np.arange(8, dtype=np.uint16).tobytes()
    values = {"vision_tower.x": {"dtype": "BF16", "shape": [8], "data_offsets": [0, 16]}}
    text = json.dumps(values).encode()
    (folder / "vision.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    convert(source, tmp_path / "without")
    convert(folder, tmp_path / "with")
    assert (tmp_path / "with" / "dense.safetensors").read_bytes() == (
        tmp_path / "without" / "dense.safetensors"
    ).read_bytes()


def test_configuration_and_tokenizer_come_along_unchanged(
    source_folder: Sources, tmp_path: Path
) -> None:
    source = source_folder("mlx")
    convert(source, tmp_path / "packed")
    names = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]
    for name in names:
        assert (tmp_path / "packed" / name).read_bytes() == (source / name).read_bytes()


def test_packing_a_packed_checkpoint_gives_the_same_weights(
    source_folder: Sources, tmp_path: Path
) -> None:
    convert(source_folder("mlx-mixed"), tmp_path / "once")
    convert(tmp_path / "once", tmp_path / "twice")
    once, twice = digests(tmp_path / "once"), digests(tmp_path / "twice")
    assert once.pop("moeflux.json") != twice.pop("moeflux.json")
    assert once == twice


def test_progress_ends_with_the_bytes_that_the_weights_have(
    source_folder: Sources, tmp_path: Path
) -> None:
    seen: list[Progress] = []
    done = convert(source_folder("hf"), tmp_path / "packed", progress=seen.append)
    weights = [*(tmp_path / "packed/experts").iterdir(), tmp_path / "packed/dense.safetensors"]
    assert done.nbytes == sum(path.stat().st_size for path in weights)
    assert [progress.done_nbytes for progress in seen] == sorted(p.done_nbytes for p in seen)
    assert seen[-1].done_nbytes == seen[-1].total_nbytes == done.nbytes
