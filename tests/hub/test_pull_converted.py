"""Pulling and converting at once: the bytes of a conversion, and never two copies of experts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hub_server import HEADER_NBYTES, NAME, FakeHub

import moeflux
from moeflux.checkpoint.convert_files import Progress
from moeflux.errors import ConversionError
from moeflux.hub import PullError, PullOptions, PullProgress, WrongBytesError, pull
from moeflux.hub.arriving import ArrivingFiles
from moeflux.hub.pull import used_nbytes
from moeflux.hub.record import RECORD_NAME, STAGING_NAME
from tiny_checkpoint import HfLayout, MlxLayout, TinyModel, write_hf, write_mlx

PACKED = PullOptions(convert=True)
N_LAYERS = 8


@pytest.fixture(scope="module")
def layered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Many layers in many shards, most of it experts."""
    folder = tmp_path_factory.mktemp("layered") / "source"
    model = TinyModel(kind="qwen3_moe", n_layers=N_LAYERS, n_experts=32)
    write_mlx(model, folder, MlxLayout(n_shards=N_LAYERS))
    return folder


def contents(folder: Path) -> dict[str, str]:
    """Digest of each file but the record of the pull."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != RECORD_NAME
    }


@pytest.mark.parametrize(
    "options",
    [PACKED, PullOptions(convert=True, bits=3, group_size=32)],
)
@pytest.mark.parametrize("kind", ["mlx", "hf"])
def test_the_result_is_that_of_converting_a_whole_copy(
    hub: FakeHub, settings: moeflux.Settings, tmp_path: Path, kind: str, options: PullOptions
) -> None:
    source = tmp_path / "source"
    if kind == "mlx":
        write_mlx(TinyModel(kind="qwen3_5_moe"), source, MlxLayout(n_shards=4, aligned=False))
    else:
        write_hf(TinyModel(kind="qwen3_next"), source, HfLayout(n_shards=5))
    hub.add(NAME, source)
    moeflux.convert(source, tmp_path / "whole", bits=options.bits, group_size=options.group_size)
    done = pull(NAME, options=options, settings=settings)
    assert contents(done.path) == contents(tmp_path / "whole")
    assert moeflux.verify(done.path).damaged == ()
    assert done.fetched_nbytes == hub_nbytes(hub, NAME)


def hub_nbytes(hub: FakeHub, name: str) -> int:
    return sum(len(data) for data in hub.repositories[name].values())


def test_the_disk_never_holds_two_copies_of_the_experts(
    hub: FakeHub, settings: moeflux.Settings, layered: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(NAME, layered)
    folder = Path(settings.models_folder) / NAME
    peak = 0

    def watched(method: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: object, **named: object) -> None:
            nonlocal peak
            peak = max(peak, used_nbytes(folder))
            method(*arguments, **named)
            peak = max(peak, used_nbytes(folder))

        return call

    for name in ("require", "release", "_fetch", "_drop_experts"):
        monkeypatch.setattr(ArrivingFiles, name, watched(getattr(ArrivingFiles, name)))
    done = pull(NAME, options=PACKED, settings=settings)
    result = used_nbytes(done.path)
    experts = moeflux.inspect(done.path).expert_nbytes
    dense = moeflux.inspect(done.path).dense_nbytes
    shard = max(path.stat().st_size for path in layered.glob("*.safetensors"))
    assert experts > 0.8 * result
    assert peak <= result + dense + 3 * shard
    assert peak < result + experts / 2


def test_a_conversion_that_was_cut_off_goes_on_and_fetches_no_shard_again(
    hub: FakeHub, settings: moeflux.Settings, layered: Path, tmp_path: Path
) -> None:
    hub.add(NAME, layered)
    sizes = {path.name: path.stat().st_size for path in layered.glob("*.safetensors")}
    cut = "model-00006-of-00008.safetensors"
    # The first two answers are the header's.
    hub.cuts[cut] = [HEADER_NBYTES, sizes[cut], sizes[cut] // 2] + [0] * 6
    with pytest.raises(PullError, match=rf"{cut}: .* are kept"):
        pull(NAME, options=PACKED, settings=settings)
    hub.cuts.clear()
    arrived = {name for name, size in sizes.items() if hub.nbytes_sent(name) >= size}
    hub.sent.clear()
    done = pull(NAME, options=PACKED, settings=settings)
    assert len(arrived) > 2
    assert not arrived & {file for file, _, _ in hub.sent}
    assert hub.nbytes_sent(cut) < sizes[cut]
    moeflux.convert(layered, tmp_path / "whole")
    assert contents(done.path) == contents(tmp_path / "whole")


def test_an_interrupt_anywhere_leaves_what_goes_on_to_the_same_bytes(
    hub: FakeHub, settings: moeflux.Settings, layered: Path, tmp_path: Path
) -> None:
    hub.add(NAME, layered)
    moeflux.convert(layered, tmp_path / "whole")

    def interrupt_after(share: float) -> Callable[[Progress], None]:
        def told(progress: Progress) -> None:
            if progress.done_nbytes > share * progress.total_nbytes:
                raise KeyboardInterrupt

        return told

    for share in (0.2, 0.5, 0.8):
        for kind in ("fetched", "converted"):
            stopping = PullProgress(**{kind: interrupt_after(share)})
            with pytest.raises(KeyboardInterrupt):
                pull(NAME, options=PACKED, settings=settings, progress=stopping)
    done = pull(NAME, options=PACKED, settings=settings)
    assert contents(done.path) == contents(tmp_path / "whole")


def test_wrong_bytes_of_a_shard_are_never_converted(
    hub: FakeHub, settings: moeflux.Settings, layered: Path, tmp_path: Path
) -> None:
    hub.add(NAME, layered)
    name = "model-00005-of-00008.safetensors"
    hub.damaged.add(name)
    with pytest.raises(WrongBytesError, match=name):
        pull(NAME, options=PACKED, settings=settings)
    hub.damaged.clear()
    done = pull(NAME, options=PACKED, settings=settings)
    moeflux.convert(layered, tmp_path / "whole")
    assert contents(done.path) == contents(tmp_path / "whole")


@pytest.mark.usefixtures("offered")
def test_nothing_of_the_source_is_left(settings: moeflux.Settings) -> None:
    done = pull(NAME, options=PACKED, settings=settings)
    assert not (done.path / STAGING_NAME).exists()
    assert not list(done.path.rglob("*.partial"))
    assert {path.name for path in done.path.glob("*.safetensors")} == {"dense.safetensors"}


def test_pulling_again_fetches_nothing(offered: FakeHub, settings: moeflux.Settings) -> None:
    pull(NAME, options=PACKED, settings=settings)
    offered.sent.clear()
    assert pull(NAME, options=PACKED, settings=settings).fetched_nbytes == 0
    assert offered.sent == []


@pytest.mark.usefixtures("offered")
def test_another_conversion_into_the_same_folder_is_refused(settings: moeflux.Settings) -> None:
    pull(NAME, options=PACKED, settings=settings)
    wanted = "holds org/tiny, experts packed, wanted org/tiny, 4 bits in groups of 32"
    with pytest.raises(PullError, match=wanted):
        pull(NAME, options=PullOptions(True, 4, 32), settings=settings)  # noqa: FBT003


def test_a_converted_model_that_has_changed_on_the_hub_is_not_mixed_with_it(
    offered: FakeHub, settings: moeflux.Settings, tmp_path: Path
) -> None:
    pull(NAME, options=PACKED, settings=settings)
    write_mlx(TinyModel(kind="qwen3_moe", n_experts=16), tmp_path / "other")
    offered.add(NAME, tmp_path / "other", commit="f" * 40)
    with pytest.raises(ConversionError, match="of another source"):
        pull(NAME, options=PACKED, settings=settings)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 4}, "ask for one as well"),
        ({"group_size": 32}, "ask for one as well"),
        ({"convert": True, "bits": 7}, "bits must be one of"),
        ({"convert": True, "group_size": 32}, "given without bits"),
    ],
)
def test_conversions_that_do_not_exist_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PullOptions(**options)  # type: ignore[arg-type]
