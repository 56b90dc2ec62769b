"""Pulling from a hub: the same bytes whatever breaks on the way, or one error that says what."""

from __future__ import annotations

import resource
import shutil
from pathlib import Path

import pytest
from hub_server import CHUNK_NBYTES, NAME, FakeHub

import moeflux
from moeflux.checkpoint.convert_files import Progress, exclusive
from moeflux.hub import PullError, PullProgress, WrongBytesError, pull, resolve
from moeflux.hub.record import STAGING_NAME

SHARDS = tuple(f"model-{number:05}-of-00003.safetensors" for number in (1, 2, 3))
WANTED = {
    *("config.json", "generation_config.json", "model.safetensors.index.json", "README.md"),
    *("tokenizer.json", "tokenizer_config.json", *SHARDS),
}


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.name != "moeflux.pull.json"
    }


def wanted_from(source: Path) -> dict[str, bytes]:
    return {name: (source / name).read_bytes() for name in WANTED}


def test_every_file_that_a_checkpoint_needs_arrives(
    offered: FakeHub, settings: moeflux.Settings, source: Path, tmp_path: Path
) -> None:
    done = pull(NAME, settings=settings)
    assert done.path == tmp_path / "models" / "org" / "tiny"
    assert done.commit == offered.commits[NAME]
    assert files_in(done.path) == wanted_from(source)
    assert done.fetched_nbytes == sum(len(data) for data in wanted_from(source).values())


@pytest.mark.usefixtures("offered")
def test_a_pulled_model_is_found_under_its_name(
    settings: moeflux.Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOEFLUX_MODELS_FOLDER", settings.models_folder)
    pull(NAME, settings=settings)
    assert resolve(NAME) == tmp_path / "models" / "org" / "tiny"
    with moeflux.load(NAME, device="cpu") as model:
        assert model.config.model_type == "qwen3_moe"


@pytest.mark.usefixtures("offered")
def test_a_model_pulled_to_a_folder_of_ones_own_is_found_under_its_name_too(
    settings: moeflux.Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: Path
) -> None:
    monkeypatch.setenv("MOEFLUX_MODELS_FOLDER", settings.models_folder)
    done = pull(NAME, tmp_path / "mine", settings=settings)
    assert done.path == tmp_path / "mine"
    assert files_in(done.path) == wanted_from(source)
    assert resolve(NAME).resolve() == done.path


def test_a_connection_that_breaks_is_taken_up_where_it_broke(
    offered: FakeHub, settings: moeflux.Settings, source: Path
) -> None:
    size = (source / SHARDS[1]).stat().st_size
    offered.cuts[SHARDS[1]] = [size // 2, size // 4]
    done = pull(NAME, settings=settings)
    assert files_in(done.path) == wanted_from(source)
    assert size <= offered.nbytes_sent(SHARDS[1]) < size + 2 * CHUNK_NBYTES


def test_a_pull_that_failed_goes_on_from_what_has_arrived(
    offered: FakeHub, settings: moeflux.Settings, source: Path
) -> None:
    size = (source / SHARDS[1]).stat().st_size
    offered.cuts[SHARDS[1]] = [size // 2] + [0] * 6
    with pytest.raises(PullError, match=f"{SHARDS[1]}: .* are kept: run the same command again"):
        pull(NAME, settings=settings)
    offered.cuts.clear()
    done = pull(NAME, settings=settings)
    assert files_in(done.path) == wanted_from(source)
    for name in WANTED:
        size, sent = (source / name).stat().st_size, offered.nbytes_sent(name)
        assert size <= sent < size + (CHUNK_NBYTES if name == SHARDS[1] else 1)
    assert done.fetched_nbytes < sum((source / name).stat().st_size for name in WANTED)


def test_a_file_that_had_arrived_is_not_fetched_again_unless_it_has_changed(
    offered: FakeHub, settings: moeflux.Settings, source: Path
) -> None:
    """A kill comes between a file's arrival and its move to its place."""
    offered.cuts[SHARDS[0]] = [0] * 6
    with pytest.raises(PullError):
        pull(NAME, settings=settings)
    staging = Path(settings.models_folder) / NAME / STAGING_NAME
    whole = (source / SHARDS[1]).read_bytes()
    (staging / SHARDS[1]).write_bytes(whole)
    (staging / SHARDS[2]).write_bytes(bytes((source / SHARDS[2]).stat().st_size))
    offered.cuts.clear()
    offered.sent.clear()
    assert files_in(pull(NAME, settings=settings).path) == wanted_from(source)
    assert offered.nbytes_sent(SHARDS[1]) == 0
    assert offered.nbytes_sent(SHARDS[2]) == (source / SHARDS[2]).stat().st_size


def test_an_unfinished_pull_is_no_model(
    offered: FakeHub, settings: moeflux.Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOEFLUX_MODELS_FOLDER", settings.models_folder)
    offered.cuts[SHARDS[0]] = [10] + [0] * 6
    with pytest.raises(PullError):
        pull(NAME, settings=settings)
    with pytest.raises(moeflux.CheckpointError, match=r"is not whole yet .* run `moeflux pull`"):
        resolve(NAME)


def test_a_hub_that_sends_files_only_whole_is_understood(
    offered: FakeHub, settings: moeflux.Settings, source: Path
) -> None:
    offered.ignores_ranges = True
    size = (source / SHARDS[1]).stat().st_size
    offered.cuts[SHARDS[1]] = [size // 2]
    told: list[Progress] = []
    done = pull(NAME, settings=settings, progress=PullProgress(fetched=told.append))
    assert files_in(done.path) == wanted_from(source)
    total = sum((source / name).stat().st_size for name in WANTED)
    assert (told[-1].done_nbytes, told[-1].total_nbytes) == (total, total)


@pytest.mark.parametrize("name", [SHARDS[1], "config.json"])
def test_wrong_bytes_are_an_error_that_names_the_file_and_are_removed(
    offered: FakeHub, settings: moeflux.Settings, source: Path, tmp_path: Path, name: str
) -> None:
    offered.damaged.add(name)
    with pytest.raises(WrongBytesError, match=f"{name}: wanted checksum") as caught:
        pull(NAME, settings=settings)
    assert caught.value.file == name
    assert caught.value.wanted != caught.value.got
    assert not list(tmp_path.glob(f"models/**/{name}*"))
    offered.damaged.clear()
    assert files_in(pull(NAME, settings=settings).path) == wanted_from(source)


def test_pulling_again_fetches_nothing(offered: FakeHub, settings: moeflux.Settings) -> None:
    pull(NAME, settings=settings)
    offered.sent.clear()
    assert pull(NAME, settings=settings).fetched_nbytes == 0
    assert offered.sent == []


def test_pulling_again_fetches_what_has_changed(
    offered: FakeHub, settings: moeflux.Settings
) -> None:
    pull(NAME, settings=settings)
    offered.sent.clear()
    offered.repositories[NAME]["README.md"] = b"Another word.\n"
    offered.commits[NAME] = "f" * 40
    done = pull(NAME, settings=settings)
    assert done.commit == "f" * 40
    assert (done.path / "README.md").read_bytes() == b"Another word.\n"
    assert [file for file, _, _ in offered.sent] == ["README.md"]


def test_an_unfinished_pull_goes_on_at_its_own_commit(
    offered: FakeHub, settings: moeflux.Settings
) -> None:
    offered.cuts[SHARDS[0]] = [10] + [0] * 6
    with pytest.raises(PullError):
        pull(NAME, settings=settings)
    before, offered.commits[NAME] = offered.commits[NAME], "f" * 40
    with pytest.raises(PullError, match=f"no revision '{before}' on the hub"):
        pull(NAME, settings=settings)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((404, "RepoNotFound"), "no such model on the hub that you may see"),
        ((403, "GatedRepo"), "its owner grants access on the hub"),
        ((500, ""), "org/tiny: the hub answers: .*500"),
    ],
)
def test_a_refusal_of_the_hub_is_told(
    offered: FakeHub, settings: moeflux.Settings, answer: tuple[int, str], message: str
) -> None:
    offered.error_codes[NAME] = answer
    with pytest.raises(PullError, match=message):
        pull(NAME, settings=settings)
    assert not (Path(settings.models_folder) / NAME).exists()


@pytest.mark.usefixtures("offered")
def test_a_revision_that_is_not_there_is_told(settings: moeflux.Settings) -> None:
    with pytest.raises(PullError, match="no revision 'v2' on the hub"):
        pull(f"{NAME}@v2", settings=settings)


def test_a_hub_that_cannot_be_reached_is_told(tmp_path: Path) -> None:
    settings = moeflux.Settings(
        hub_endpoint="http://127.0.0.1:1", models_folder=str(tmp_path / "models")
    )
    with pytest.raises(PullError, match="the hub cannot be reached"):
        pull(NAME, settings=settings)


@pytest.mark.usefixtures("offered")
def test_a_full_disk_is_told_before_anything_is_fetched(
    settings: moeflux.Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(PullError, match=r"needs .* more, the file system has 1 kB free"):
        pull(NAME, settings=settings)


@pytest.mark.usefixtures("offered")
def test_a_disk_that_fills_up_keeps_what_has_arrived(
    settings: moeflux.Settings, source: Path
) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    try:
        with pytest.raises(PullError, match=r"no space left; .* are kept"):
            pull(NAME, settings=settings)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    done = pull(NAME, settings=settings)
    assert files_in(done.path) == wanted_from(source)


def test_a_folder_with_other_things_is_left_alone(
    offered: FakeHub, settings: moeflux.Settings, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("dear diary")
    with pytest.raises(PullError, match="wanted a new, empty or unfinished folder, found 'diary"):
        pull(NAME, tmp_path / "mine", settings=settings)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["diary.txt"]
    assert offered.sent == []


@pytest.mark.usefixtures("offered")
def test_a_folder_of_another_model_is_left_alone(
    offered: FakeHub, settings: moeflux.Settings, source: Path, tmp_path: Path
) -> None:
    offered.add("org/other", source)
    pull(NAME, tmp_path / "mine", settings=settings)
    with pytest.raises(PullError, match="holds org/tiny as it is on the hub, wanted org/other"):
        pull("org/other", tmp_path / "mine", settings=settings)


@pytest.mark.usefixtures("offered")
def test_two_pulls_into_one_folder_are_one_too_many(
    settings: moeflux.Settings, tmp_path: Path
) -> None:
    staging = tmp_path / "mine" / STAGING_NAME
    staging.mkdir(parents=True)
    with (
        exclusive(staging),
        pytest.raises(PullError, match="another process is pulling into it"),
    ):
        pull(NAME, tmp_path / "mine", settings=settings)


@pytest.mark.parametrize("file", ["../out.jinja", "/etc/out.jinja", "..\\out.jinja"])
def test_a_file_outside_the_folder_is_refused(
    offered: FakeHub, settings: moeflux.Settings, file: str
) -> None:
    offered.repositories[NAME][file] = b"{}"
    with pytest.raises(PullError, match="wanted file names inside a folder"):
        pull(NAME, settings=settings)


def test_a_repository_without_a_configuration_is_no_model(
    offered: FakeHub, settings: moeflux.Settings
) -> None:
    del offered.repositories[NAME]["config.json"]
    with pytest.raises(PullError, match=r"wanted a model with a config\.json"):
        pull(NAME, settings=settings)


@pytest.mark.parametrize("name", ["demo", "tiny", "./folder", "a/b/c"])
def test_only_a_hub_id_can_be_pulled(settings: moeflux.Settings, name: str) -> None:
    with pytest.raises(ValueError, match="wanted a hub id"):
        pull(name, settings=settings)


@pytest.mark.usefixtures("offered")
def test_progress_ends_with_everything(settings: moeflux.Settings, source: Path) -> None:
    told: list[Progress] = []
    pull(NAME, settings=settings, progress=PullProgress(fetched=told.append))
    total = sum((source / name).stat().st_size for name in WANTED)
    assert {progress.total_nbytes for progress in told} == {total}
    assert told[-1].done_nbytes == total
    assert told[-1].file == "config.json"


def test_the_home_of_nobody_takes_no_model(settings: moeflux.Settings) -> None:
    with pytest.raises(ValueError, match="~no-such-user/x: there is no such home"):
        pull(NAME, Path("~no-such-user/x"), settings=settings)
