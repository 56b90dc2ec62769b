"""Which models are on this disk, and that only those are removed."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest
from hub_server import NAME, FakeHub

import moeflux
from moeflux.hub import (
    PullError,
    PullOptions,
    RemovalError,
    StoredModel,
    find_removal,
    pull,
    stored_models,
)
from moeflux.hub.pull import used_nbytes

pytestmark = pytest.mark.usefixtures("offered")


def in_the_hubs_folder(hub: FakeHub, name: str = NAME) -> Path:
    return Path(huggingface_hub.snapshot_download(name, endpoint=hub.endpoint))


def test_an_empty_disk_has_no_models(settings: moeflux.Settings) -> None:
    assert stored_models(settings) == []


def test_pulled_models_are_listed_where_they_are(
    settings: moeflux.Settings, offered: FakeHub, source: Path, tmp_path: Path
) -> None:
    offered.add("org/another", source)
    pull(NAME, settings=settings)
    pull("org/another", tmp_path / "mine", PullOptions(convert=True), settings=settings)
    home = tmp_path / "models" / NAME
    assert stored_models(settings) == [
        StoredModel("org/another", tmp_path / "mine", used_nbytes(tmp_path / "mine"), True, True),  # noqa: FBT003
        StoredModel(NAME, home, used_nbytes(home), True, True),  # noqa: FBT003
    ]


def test_an_unfinished_pull_is_listed_as_such(settings: moeflux.Settings, offered: FakeHub) -> None:
    offered.damaged.add("config.json")
    with pytest.raises(PullError):
        pull(NAME, settings=settings)
    (found,) = stored_models(settings)
    assert (found.name, found.finished) == (NAME, False)


def test_models_of_the_hubs_folder_are_listed(settings: moeflux.Settings, offered: FakeHub) -> None:
    folder = in_the_hubs_folder(offered)
    (found,) = stored_models(settings)
    assert (found.name, found.path, found.pulled) == (NAME, folder, False)
    assert found.nbytes == sum(len(data) for data in offered.repositories[NAME].values())


def test_removing_a_pulled_model_frees_what_it_took(settings: moeflux.Settings) -> None:
    folder = pull(NAME, settings=settings).path
    removal = find_removal(NAME, settings)
    assert (removal.path, removal.nbytes) == (folder, used_nbytes(folder))
    removal.run()
    assert not folder.exists()
    assert stored_models(settings) == []


@pytest.mark.parametrize("by_name", [True, False])
def test_removing_a_model_in_a_folder_of_ones_own_removes_its_link_too(
    settings: moeflux.Settings, tmp_path: Path, by_name: bool
) -> None:
    pull(NAME, tmp_path / "mine", settings=settings)
    find_removal(NAME if by_name else str(tmp_path / "mine"), settings).run()
    assert not (tmp_path / "mine").exists()
    assert not (tmp_path / "models" / NAME).is_symlink()


def test_a_link_whose_folder_is_gone_can_be_removed(
    settings: moeflux.Settings, tmp_path: Path
) -> None:
    pull(NAME, tmp_path / "mine", settings=settings)
    (tmp_path / "mine").rename(tmp_path / "elsewhere")
    removal = find_removal(NAME, settings)
    assert removal.nbytes == 0
    removal.run()
    assert not (tmp_path / "models" / NAME).is_symlink()
    assert (tmp_path / "elsewhere" / "config.json").exists()


def test_removing_from_the_hubs_folder_leaves_its_other_models(
    settings: moeflux.Settings, offered: FakeHub, source: Path
) -> None:
    offered.add("org/another", source, commit="a" * 40)
    folder = in_the_hubs_folder(offered)
    other = in_the_hubs_folder(offered, "org/another")
    removal = find_removal(NAME, settings)
    assert removal.nbytes == sum(len(data) for data in offered.repositories[NAME].values())
    removal.run()
    assert not folder.exists()
    assert (other / "config.json").read_bytes() == (source / "config.json").read_bytes()


def test_a_pulled_model_goes_before_its_copy_in_the_hubs_folder(
    settings: moeflux.Settings, offered: FakeHub
) -> None:
    folder = in_the_hubs_folder(offered)
    pulled = pull(NAME, settings=settings).path
    find_removal(NAME, settings).run()
    assert folder.exists()
    assert not pulled.exists()


def test_a_converted_folder_is_ours(
    settings: moeflux.Settings, source: Path, tmp_path: Path
) -> None:
    moeflux.convert(source, tmp_path / "packed")
    find_removal(str(tmp_path / "packed"), settings).run()
    assert not (tmp_path / "packed").exists()


@pytest.mark.parametrize("name", ["diary", "checkpoint"])
def test_a_folder_that_others_made_is_refused(
    settings: moeflux.Settings, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    with pytest.raises(RemovalError, match="has not been made by `moeflux pull`"):
        find_removal(str(folder), settings)
    assert folder.exists()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("demo", "comes with the package"),
        ("org/absent", "neither pulled nor in the hub's folder"),
        ("/no/such/folder", "no such folder, and not a hub id"),
        ("", "no such folder, and not a hub id"),
    ],
)
def test_what_is_not_there_is_refused(settings: moeflux.Settings, model: str, message: str) -> None:
    with pytest.raises(RemovalError, match=message):
        find_removal(model, settings)


def test_the_home_of_nobody_has_no_model(settings: moeflux.Settings) -> None:
    with pytest.raises(ValueError, match="~no-such-user/x: there is no such home"):
        find_removal("~no-such-user/x", settings)
