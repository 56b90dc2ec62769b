"""A hub on the loopback interface: the two endpoints that a pull uses, and what can go wrong."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

NAME = "org/tiny"
"""Of the repository that most tests pull."""
CHUNK_NBYTES = 4096
"""What the client writes at a time; what it has of the next is lost where a connection breaks."""
HEADER_NBYTES = 100
"""What the client asks for to learn how long a shard's header is: less than it takes."""
COMMIT = "0123456789abcdef0123456789abcdef01234567"
LFS_SUFFIXES = (".safetensors", "tokenizer.json")


@dataclass
class FakeHub:
    """Repositories by name, faults to come, and what was asked for."""

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    commits: dict[str, str] = field(default_factory=dict)
    error_codes: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Of repositories that are refused: status and the hub's own code."""
    cuts: dict[str, list[int]] = field(default_factory=dict)
    """Bytes of a file after which the connection breaks, one for each answer."""
    damaged: set[str] = field(default_factory=set)
    """Files whose last byte is sent wrong."""
    ignores_ranges: bool = False
    sent: list[tuple[str, int, int]] = field(default_factory=list)
    """Name, first byte and number of bytes of each answer with content of a file."""
    endpoint: str = ""

    def add(self, name: str, folder: Path, commit: str = COMMIT) -> None:
        """Offer every file of a folder."""
        self.commits[name] = commit
        self.repositories[name] = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    def nbytes_sent(self, name: str) -> int:
        return sum(nbytes for file, _, nbytes in self.sent if file == name)

    def metadata(self, name: str) -> dict[str, object]:
        siblings = [_sibling(file, data) for file, data in self.repositories[name].items()]
        return {"id": name, "modelId": name, "sha": self.commits[name], "siblings": siblings}

    def tree(self, name: str) -> list[dict[str, object]]:
        return [
            {"type": "file", "path": file, "oid": _blob(data), **_size_of(file, data)}
            for file, data in self.repositories[name].items()
        ]


def _sibling(file: str, data: bytes) -> dict[str, object]:
    return {"rfilename": file, "blobId": _blob(data), **_size_of(file, data)}


def _size_of(file: str, data: bytes) -> dict[str, object]:
    if not file.endswith(LFS_SUFFIXES):
        return {"size": len(data)}
    lfs = {"sha256": _checksum(file, data), "size": len(data), "pointerSize": 134}
    return {"size": len(data), "lfs": lfs | {"oid": lfs["sha256"]}}


def _checksum(file: str, data: bytes) -> str:
    return hashlib.sha256(data).hexdigest() if file.endswith(LFS_SUFFIXES) else _blob(data)


def _blob(data: bytes) -> str:
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self._answer(with_content=True)

    def do_HEAD(self) -> None:
        self._answer(with_content=False)

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, *, with_content: bool) -> None:
        hub = self.server.hub
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        is_api = parts[:2] == ["api", "models"]
        name = "/".join(parts[2:4] if is_api else parts[:2])
        revision = parts[5] if is_api and len(parts) > 5 else "" if is_api else parts[3]
        if name in hub.error_codes or name not in hub.repositories:
            self._refuse(*hub.error_codes.get(name, (404, "RepoNotFound")))
        elif revision not in ("", "main", hub.commits[name]):
            self._refuse(404, "RevisionNotFound")
        elif is_api and "tree" in parts:
            self._send(hub.tree(name))
        elif is_api:
            self._send(hub.metadata(name))
        else:
            self._file("/".join(parts[4:]), hub.repositories[name], hub.commits[name], with_content)

    def _send(self, values: object) -> None:
        data = json.dumps(values).encode()
        self._head(200, len(data))
        self.wfile.write(data)

    def _refuse(self, status: int, code: str) -> None:
        self._head(status, 0, {"X-Error-Code": code})

    def _file(self, file: str, files: dict[str, bytes], commit: str, with_content: bool) -> None:
        if file not in files:
            self._refuse(404, "EntryNotFound")
            return
        hub, data = self.server.hub, files[file]
        first, end = 0, len(data)
        asked = None if hub.ignores_ranges else self.headers.get("Range")
        if asked is not None:
            begin, _, last = asked.removeprefix("bytes=").partition("-")
            first, end = int(begin), min(len(data), int(last) + 1 if last else len(data))
        content = data[first:end]
        if file in hub.damaged and end == len(data):
            content = content[:-1] + bytes([content[-1] ^ 1])
        headers = {"X-Repo-Commit": commit, "ETag": f'"{_checksum(file, data)}"'}
        if asked:
            headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(data)}"
        self._head(206 if asked else 200, len(content), headers)
        if not with_content:
            return
        cuts = hub.cuts.get(file)
        if cuts:
            content = content[: cuts.pop(0)]
            self.close_connection = True
        hub.sent.append((file, first, len(content)))
        self.wfile.write(content)
        self.wfile.flush()

    def _head(self, status: int, nbytes: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(nbytes))
        self.end_headers()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, hub: FakeHub) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub

    def handle_error(self, *_: object) -> None:
        """A client that goes away is what some tests are about."""


@contextmanager
def running_hub() -> Iterator[FakeHub]:
    """A hub that answers at its `endpoint` until the end of the block."""
    hub = FakeHub()
    server = _Server(hub)
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
