"""Fixtures: a hub on the loopback interface, and settings that know it and a folder for models."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import CHUNK_NBYTES, HEADER_NBYTES, NAME, FakeHub, running_hub
from huggingface_hub import constants, file_download

import moeflux
from moeflux.hub import download
from tiny_checkpoint import MlxLayout, TinyModel, write_mlx


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no test here takes the power away
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-folder"))
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", CHUNK_NBYTES)
    monkeypatch.setattr(download, "HEADER_NBYTES", HEADER_NBYTES)
    monkeypatch.setattr(file_download.time, "sleep", lambda _: None)
    with running_hub() as running:
        yield running


@pytest.fixture
def settings(hub: FakeHub, tmp_path: Path) -> moeflux.Settings:
    return moeflux.Settings(hub_endpoint=hub.endpoint, models_folder=str(tmp_path / "models"))


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quantised checkpoint in three shards, with documents."""
    folder = tmp_path_factory.mktemp("source") / "tiny"
    write_mlx(TinyModel(kind="qwen3_moe"), folder, MlxLayout(n_shards=3))
    (folder / "README.md").write_text("A tiny model.\n")
    (folder / "pytorch_model.bin").write_bytes(b"other weights")
    return folder


@pytest.fixture
def offered(hub: FakeHub, source: Path) -> FakeHub:
    """The hub with that checkpoint under NAME."""
    hub.add(NAME, source)
    return hub
