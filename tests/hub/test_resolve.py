"""What a model may be called, and what a user reads when there is none of that name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from moeflux.errors import CheckpointError
from moeflux.hub import resolve

Download = Callable[..., str]


def fail_with(error: Exception) -> Download:
    def download(*_: object, **__: object) -> str:
        raise error

    return download


def hub_error(kind: type[Exception]) -> Exception:
    """An error of the hub without the HTTP response that its constructor wants."""
    error = kind.__new__(kind)
    error.args = ("404 Client Error.\nRequest ID: 1",)
    return error


def test_folder_is_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve(tmp_path) == tmp_path
    assert resolve("org/name") == Path("org/name")


def test_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "models").mkdir()
    assert resolve("~/models") == tmp_path / "models"


def test_demo_is_the_packages_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "config.json").touch()
    monkeypatch.setattr("importlib.resources.files", lambda _: tmp_path)
    assert resolve("demo") == folder


def test_installation_without_the_demo_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.resources.files", lambda _: tmp_path)
    with pytest.raises(CheckpointError, match="has no demo model"):
        resolve("demo")


def test_hub_id_is_downloaded_without_what_is_not_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, object] = {}

    def download(repository: str, **arguments: object) -> str:
        asked.update(arguments, repository=repository)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve("org/Name-1.5_x@refs/pr/1") == tmp_path
    assert asked["repository"] == "org/Name-1.5_x"
    assert asked["revision"] == "refs/pr/1"
    names = [
        *("config.json", "tokenizer.json", "chat_template.jinja", "model-1-of-2.safetensors"),
        *("README.md", "model.bin", "original/model.safetensors", "consolidated.safetensors"),
        *("additional_chat_templates/tool_use.jinja", "model.gguf"),
    ]
    wanted = huggingface_hub.utils.filter_repo_objects(
        names, allow_patterns=asked["allow_patterns"], ignore_patterns=asked["ignore_patterns"]
    )
    assert [*wanted] == [*names[:4], "additional_chat_templates/tool_use.jinja"]


def test_model_in_the_local_cache_is_found_without_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "models--org--name"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert resolve("org/name") == snapshot


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (hub_error(errors.GatedRepoError), "its owner grants access"),
        (hub_error(errors.RepositoryNotFoundError), "no such model on the hub"),
        (hub_error(errors.RevisionNotFoundError), "no revision 'x' on the hub"),
        (errors.LocalEntryNotFoundError("offline"), "the hub cannot be reached"),
        (OSError(28, "No space left on device"), "cannot be downloaded: .*No space left"),
    ],
)
def test_failed_download_is_a_checkpoint_error(
    monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail_with(error))
    with pytest.raises(CheckpointError, match=f"org/name: .*{message}"):
        resolve("org/name@x")


@pytest.mark.parametrize(
    "name", ["/no/such/folder", "./model", "model", "a/b/c", "", "../up", "org/na me", "~nobody/x"]
)
def test_name_of_nothing_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="no such folder, and not a hub id"):
        resolve(name)


def test_home_of_nobody_is_refused() -> None:
    with pytest.raises(CheckpointError, match="home directory"):
        resolve("~no-such-user/model")


def test_file_is_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(CheckpointError, match="wanted the folder of a checkpoint, got a file"):
        resolve(tmp_path / "model.safetensors")
