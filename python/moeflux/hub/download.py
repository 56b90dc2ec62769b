"""One file from the hub: what came before an interruption is kept, and its checksum decides."""

from __future__ import annotations

import errno
import hashlib
import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

import huggingface_hub

from moeflux.checkpoint.convert_files import PARTIAL_SUFFIX
from moeflux.hub.repository import PullError, RemoteFile, Repository, reason
from moeflux.memory import format_size

HEADER_NBYTES = 2**17
"""Of a safetensors file that are asked for first: most headers are smaller."""
_LENGTH_NBYTES = 8
_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class WrongBytesError(PullError):
    """A file arrived whole, but with other bytes than the hub has: `file`, `wanted`, `got`."""

    def __init__(self, repository: str, file: str, wanted: str, got: str) -> None:
        super().__init__(
            f"{repository}: {file}: wanted checksum {wanted}, got {got}; "
            "the file is removed, run the same command again to fetch it anew"
        )
        self.file = file
        self.wanted = wanted
        self.got = got


def download(
    repository: Repository, file: RemoteFile, destination: Path, advance: Callable[[int], None]
) -> None:
    """Fetch a file, or the rest of it, and give it its name once its checksum is right.

    `advance` is told of bytes that are there now, those of an earlier run first; less than zero
    where the hub begins anew. Raises WrongBytesError, and PullError, after which a later call goes
    on from what has arrived.
    """
    partial = _partial(destination)
    if is_whole(file, destination):
        advance(file.nbytes)
        return
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("a+b") as output:
            _fetch_rest(repository, file, output, advance)
            output.flush()
            os.fsync(output.fileno())
        check(repository, file, partial)
        partial.replace(destination)
    except OSError as failure:
        raise _failed(repository, file, partial, failure) from failure


def arrived_nbytes(destination: Path) -> int:
    """What an earlier, interrupted download has left."""
    for path in (destination, _partial(destination)):
        if path.exists():
            return path.stat().st_size
    return 0


def check(repository: Repository, file: RemoteFile, path: Path) -> None:
    """Compare the bytes at `path` with the checksum of the hub.

    Removes it and raises WrongBytesError if they differ.
    """
    wanted, got = checksums(file, path)
    if wanted != got:
        path.unlink()
        raise WrongBytesError(repository.name, file.name, wanted, got)


def checksums(file: RemoteFile, path: Path) -> tuple[str, str]:
    """What the hub says and what the file has: SHA-256, or Git's SHA-1 of what is not in LFS."""
    with path.open("rb") as content:
        if file.sha256 is not None:
            got = hashlib.file_digest(content, "sha256").hexdigest()
            return f"sha256 {file.sha256}", f"sha256 {got}"
        digest = hashlib.sha1(usedforsecurity=False)
        digest.update(f"blob {path.stat().st_size}\0".encode())
        digest.update(content.read())
        return f"blob {file.blob_id}", f"blob {digest.hexdigest()}"


def is_whole(file: RemoteFile, path: Path) -> bool:
    """Whether the bytes at `path` are those of the hub; reads all of them."""
    if not path.is_file() or path.stat().st_size != file.nbytes:
        return False
    wanted, got = checksums(file, path)
    return wanted == got


def fetch_header(repository: Repository, file: RemoteFile) -> bytes:
    """The header of a safetensors file, its length included. Raises PullError."""
    data = _fetch_range(repository, file, min(HEADER_NBYTES, file.nbytes))
    nbytes = _LENGTH_NBYTES + int.from_bytes(data[:_LENGTH_NBYTES], "little")
    if nbytes > file.nbytes:
        raise PullError(
            f"{repository.name}: {file.name}: the header claims {nbytes} bytes, "
            f"the file has {file.nbytes}"
        )
    if nbytes > len(data):
        data = _fetch_range(repository, file, nbytes)
    return data[:nbytes]


class _Counted:
    """A file that tells how many bytes are written, and when they are cut off again."""

    def __init__(self, file: IO[bytes], advance: Callable[[int], None]) -> None:
        self._file = file
        self._advance = advance

    def write(self, data: bytes) -> int:
        n_written = self._file.write(data)
        self._advance(n_written)
        return n_written

    def seek(self, offset: int) -> int:
        return self._file.seek(offset)

    def tell(self) -> int:
        return self._file.tell()

    def truncate(self) -> int:
        self._file.flush()
        before = os.fstat(self._file.fileno()).st_size
        after = self._file.truncate()
        self._advance(after - before)
        return after


def _fetch_rest(
    repository: Repository, file: RemoteFile, output: IO[bytes], advance: Callable[[int], None]
) -> None:
    have = output.seek(0, os.SEEK_END)
    if have > file.nbytes:
        output.truncate(0)
        have = output.seek(0)
    advance(have)
    try:
        _get(repository, file, _Counted(output, advance), file.nbytes, have)
    except Exception as error:  # of the HTTP client, whichever huggingface_hub uses
        if isinstance(error, OSError) and not isinstance(
            error, huggingface_hub.errors.HfHubHTTPError
        ):
            raise
        raise PullError(
            f"{repository.name}: {file.name}: {reason(error, None)}; {_kept(output.tell(), file)}"
        ) from error


def _fetch_range(repository: Repository, file: RemoteFile, nbytes: int) -> bytes:
    data = io.BytesIO()
    span = {"Range": f"bytes=0-{nbytes - 1}"}
    try:
        _get(repository, file, data, nbytes, 0, span)
    except Exception as error:  # as above
        raise PullError(f"{repository.name}: {file.name}: {reason(error, None)}") from error
    return data.getvalue()


def _get(
    repository: Repository,
    file: RemoteFile,
    output: IO[bytes] | _Counted,
    nbytes: int,
    n_have: int,
    headers: Mapping[str, str] | None = None,
) -> None:
    """Write `nbytes` bytes, of which `n_have` are there; taken up again where a connection breaks.

    Raises what the hub's client raises, and OSError.
    """
    # The hub's HTTP client takes long to import, which other commands need not wait for.
    from huggingface_hub.file_download import http_get  # noqa: PLC0415
    from huggingface_hub.utils import silent_tqdm  # type: ignore[attr-defined]  # noqa: PLC0415

    http_get(
        repository.url(file),
        output,  # type: ignore[arg-type]
        resume_size=n_have,
        headers={**repository.headers(), **(headers or {})},
        expected_size=nbytes,
        tqdm_class=silent_tqdm,
    )


def _failed(repository: Repository, file: RemoteFile, partial: Path, failure: OSError) -> PullError:
    nbytes = partial.stat().st_size if partial.exists() else 0
    what = "no space left" if failure.errno in _FULL_ERRNOS else str(failure)
    return PullError(f"{repository.name}: {file.name}: {what}; {_kept(nbytes, file)}")


def _partial(destination: Path) -> Path:
    return destination.with_name(destination.name + PARTIAL_SUFFIX)


def _kept(nbytes: int, file: RemoteFile) -> str:
    return (
        f"{format_size(nbytes)} of {format_size(file.nbytes)} are kept: "
        "run the same command again to go on"
    )
