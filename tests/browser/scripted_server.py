"""The page over loopback in front of a model that says what a test tells it to."""

from __future__ import annotations

import asyncio
import json
import threading
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from moeflux.server.page.routes import page_router
from moeflux.server.run import listening_socket, url

SECONDS = 60
"""That anything in a test may take on a busy machine."""
RECEIPT = {
    "generated_tokens": 128,
    "prefill": {"tokens_per_second": 512.0, "bytes_read": 4_000_000, "n_tokens": 900},
    "decode": {
        "tokens_per_second": 42.5,
        "bytes_read": 6_500_000,
        "n_tokens": 127,
        "hit_rate": 0.975,
    },
}


@dataclass
class ScriptedView:
    """What /live says; a large model that is at work."""

    layer_sizes: Sequence[int] = (512,) * 94
    cells: bytes = bytes(94 * 512)
    version: int = 1
    n_active: int = 0

    def look(self, seen: int | None = None) -> dict[str, Any]:
        cells = None if seen == self.version else b64encode(self.cells).decode()
        presence = [cell >> 6 for cell in self.cells]
        return {
            "model": "Qwen3.5-397B-A17B-4bit",
            "device": "metal",
            "context_size": 32768,
            "jobs": {"n_active": self.n_active, "n_queued": 0, "max_active": 4, "n_finished": 7},
            "decode": {"n_tokens": 4321, "tokens_per_second": 8.25},
            "prefill": {"n_tokens": 9876, "tokens_per_second": 310.0},
            "reads": {
                "bytes": 1_234_000_000_000,
                "bytes_per_second": 6_240_000_000.0,
                "hit_rate": 0.71,
                "recent_hit_rate": 0.834,
            },
            "memory": {"resident": 47_900_000_000, "peak": 48_000_000_000, "cap": 48_000_000_000},
            "experts": {
                "layers": list(range(len(self.layer_sizes))),
                "layer_sizes": list(self.layer_sizes),
                "n_slots": 6400,
                "slot_nbytes": 6_750_208,
                "n_resident": presence.count(1),
                "n_reading": presence.count(2),
                "version": self.version,
                "cells": cells,
            },
        }

    def show(self, cells: bytes) -> None:
        """Another picture."""
        self.cells, self.version = cells, self.version + 1


class ScriptedHolder:
    """Has the scripted view as a model, unless it is said to load."""

    def __init__(self, server: ScriptedServer) -> None:
        self._server = server

    @property
    def state(self) -> str:
        return "loading" if self._server.is_loading else "ready"

    @property
    def served(self) -> Any:
        return None if self._server.is_loading else SimpleNamespace(view=self._server.view)


@dataclass
class ScriptedServer:
    """Answers stream what say() and its like put, until finish() or fail()."""

    url: str = ""
    view: ScriptedView = field(default_factory=ScriptedView)
    key: str = ""
    """Requests need it, if there is one."""
    is_loading: bool = False
    is_down: bool = False
    """/live fails."""
    refusal: tuple[int, str] | None = None
    """Status and message of every further answer."""
    requests: list[dict[str, Any]] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)
    """The client of an answer was gone before its end."""
    _loop: asyncio.AbstractEventLoop | None = None
    _chunks: asyncio.Queue[str | None] = field(default_factory=asyncio.Queue)

    def say(self, text: str) -> None:
        self._chunk({"content": text})

    def think(self, text: str) -> None:
        self._chunk({"reasoning_content": text})

    def read_prompt(self, n_done: int, n_tokens: int, n_cached: int = 0) -> None:
        prefill = {"n_done": n_done, "n_cached": n_cached, "n_tokens": n_tokens}
        self._chunk({}, moeflux={"prefill": prefill})

    def finish(self, reason: str = "stop") -> None:
        self._chunk({}, reason, moeflux={"receipt": RECEIPT, "stop_text": None})
        self._put("[DONE]")
        self._put(None)

    def fail(self, message: str) -> None:
        self._put(json.dumps({"error": {"message": message}}))
        self._put(None)

    def hang_up(self) -> None:
        """End the stream in the middle."""
        self._put(None)

    def application(self) -> FastAPI:
        """The page's own routes, and a chat completion that follows the script."""
        holder: Any = ScriptedHolder(self)
        app = FastAPI()
        app.include_router(page_router(holder))

        @app.middleware("http")
        async def guard(request: Request, call_next: Any) -> Response:
            path, given = request.url.path, request.headers.get("authorization")
            if self.is_down and path == "/live":
                return _error(503, "down")
            is_open = not self.key or path == "/" or path.startswith("/static/")
            if is_open or given == f"Bearer {self.key}":
                found: Response = await call_next(request)
                return found
            return _error(401, "a key is needed" if given is None else "wrong API key")

        @app.post("/v1/chat/completions")
        async def complete(request: Request) -> Response:
            self._loop = asyncio.get_running_loop()
            self.requests.append(await request.json())
            if self.refusal is not None:
                return _error(*self.refusal)
            self._chunks = asyncio.Queue()
            return StreamingResponse(self._events(), media_type="text/event-stream")

        return app

    async def _events(self) -> AsyncIterator[str]:
        is_over = False
        try:
            while (chunk := await self._chunks.get()) is not None:
                yield f"data: {chunk}\n\n"
            is_over = True
        finally:
            if not is_over:
                self.left.set()

    def _chunk(self, delta: dict[str, Any], reason: str | None = None, **extra: Any) -> None:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        self._put(json.dumps({"choices": [choice]} | extra))

    def _put(self, chunk: str | None) -> None:
        assert self._loop is not None, "nobody has asked yet"
        self._loop.call_soon_threadsafe(self._chunks.put_nowait, chunk)


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": {"message": message}}, status)


@contextmanager
def scripted_server() -> Iterator[ScriptedServer]:
    """In a thread, on a free port."""
    listener = listening_socket("127.0.0.1", 0)
    scripted = ScriptedServer(url(listener))
    config = uvicorn.Config(
        scripted.application(), http="h11", ws="none", log_config=None, timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield scripted
    finally:
        server.should_exit = True
        thread.join()
