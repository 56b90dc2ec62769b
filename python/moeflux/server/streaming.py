"""Server-sent events, and clients that leave. Knows no API."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from moeflux.server.errors import SERVER_ERROR, ApiError, api_error_of

_log = logging.getLogger(__name__)

Result = TypeVar("Result")


class ClientGoneError(Exception):
    """Nobody waits for the answer any more."""


def json_text(value: object) -> str:
    """Compact JSON. Raises ValueError for NaN and infinities."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def sse(data: Mapping[str, Any], event: str | None = None) -> str:
    """One event of a stream."""
    name = "" if event is None else f"event: {event}\n"
    return f"{name}data: {json_text(data)}\n\n"


class EventStream(Response):
    """Sends events as they come. When the client leaves or fails, `close` is called at once."""

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[str, None],
        close: Callable[[], None],
        on_error: Callable[[ApiError], str],
    ) -> None:
        """`on_error` writes the event that tells of an error in the middle."""
        self.status_code = 200
        self.background = None
        self._events, self._close, self._on_error = events, close, on_error
        self.init_headers({"cache-control": "no-store", "x-accel-buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        try:
            await until_gone(receive, self._send(send))
        except ClientGoneError:
            pass
        except TimeoutError:
            _log.info("a client did not read its stream in time")
        finally:
            self._close()
            await self._events.aclose()

    async def _send(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        async for text in self._told(self._events):
            await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
            # Neither events nor sends wait where many are ready: others get their turn here.
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _told(self, events: AsyncIterator[str]) -> AsyncIterator[str]:
        """The events, and an error among them as the last."""
        while True:
            try:
                text = await anext(events)
            except StopAsyncIteration:
                return
            except Exception as error:  # noqa: BLE001 - told to the client, and logged
                yield self._on_error(logged(error))
                return
            yield text


async def until_gone(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`, which is cancelled when the client leaves: ClientGoneError then."""
    working = asyncio.create_task(work)
    watching = asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGoneError
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


def logged(error: Exception) -> ApiError:
    """What to tell a client of an error; the log has all of it where it is the server's fault."""
    told = api_error_of(error)
    if told.status == SERVER_ERROR and not isinstance(error, ApiError):
        _log.error("a request failed: %s", error, exc_info=error)
    return told


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
