"""ASGI layers in front of every route: who may ask, how large a body, how slow a client."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moeflux.server.errors import ApiError
from moeflux.server.options import ServerOptions, is_loopback

OPEN_PATHS = frozenset({"/", "/health", "/health/live", "/health/ready"})
OPEN_PREFIX = "/static/"
"""With the paths above, what needs no key: it tells nothing of requests or of the model."""


async def send_error(error: ApiError, scope: Scope, send: Send) -> None:
    """Answer with an error in the shape of the API that was asked."""
    body = json.dumps(error.body(scope["path"])).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body))}
    pairs = [(k.encode(), v.encode()) for k, v in (headers | error.headers()).items()]
    await send({"type": "http.response.start", "status": error.status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


class KeyGuard:
    """Lets requests with a key through; without keys, those that name this machine as their host.

    The latter keeps out web pages whose name was made to point here (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, options: ServerOptions) -> None:
        self._app = app
        self._keys = [key.encode() for key in options.api_keys]
        self._host = options.host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = self._refusal(scope) if scope["type"] == "http" else None
        if error is not None:
            await send_error(error, scope, send)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> ApiError | None:
        headers = Headers(scope=scope)
        if not self._keys:
            host = _host_name(headers.get("host", ""))
            if not host or host == self._host or is_loopback(host):
                return None
            return ApiError(403, f"requests for the host {host!r} need an API key", code="host")
        path: str = scope["path"]
        if path in OPEN_PATHS or path.startswith(OPEN_PREFIX) or scope["method"] == "OPTIONS":
            return None
        given = _given_keys(headers)
        if not given:
            return ApiError(401, "an API key is needed", code="missing_api_key")
        # Every pair is compared, so that time tells nothing.
        matches = [hmac.compare_digest(key, one) for key in self._keys for one in given]
        return None if any(matches) else ApiError(401, "wrong API key", code="invalid_api_key")


class BodyGuard:
    """Reads a request's body before the route is called: within size and time, or an error."""

    def __init__(self, app: ASGIApp, options: ServerOptions) -> None:
        self._app = app
        self._max = options.max_body
        self._bodies = _Bodies(max(options.max_bodies, options.max_body))
        self._timeout = options.body_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with self._bodies.holding() as hold:
            try:
                async with asyncio.timeout(self._timeout):
                    body = await self._read(Headers(scope=scope), receive, hold)
            except TimeoutError:
                slow = ApiError(408, f"the body did not arrive within {self._timeout:g} s")
                await send_error(slow, scope, send)
            except ApiError as error:
                await send_error(error, scope, send)
            else:
                if body is not None:
                    await self._app(scope, _replay(body, receive), send)

    async def _read(
        self, headers: Headers, receive: Receive, hold: Callable[[int], None]
    ) -> bytes | None:
        """The whole body; None where the client left."""
        announced = headers.get("content-length", "0")
        if announced.isdecimal() and len(announced) < 20 and int(announced) > self._max:
            raise self._too_large()
        pieces: list[bytes] = []
        n_bytes = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            piece = message.get("body", b"")
            n_bytes += len(piece)
            if n_bytes > self._max:
                raise self._too_large()
            hold(len(piece))
            pieces.append(piece)
            if not message.get("more_body", False):
                return b"".join(pieces)

    def _too_large(self) -> ApiError:
        return ApiError(413, f"the body has more than {self._max} bytes", code="body_too_large")


class _Bodies:
    """Bytes of the bodies of all requests in flight, on one event loop."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._n_held = 0

    @contextmanager
    def holding(self) -> Iterator[Callable[[int], None]]:
        """Counts the bytes of one request until it ends; ApiError (429) beyond the limit."""
        n_own = 0

        def hold(n_bytes: int) -> None:
            nonlocal n_own
            if self._n_held + n_bytes > self._most:
                full = f"the bodies of all requests together have more than {self._most} bytes"
                raise ApiError(429, full, code="bodies_too_large", retry_after=1)
            n_own += n_bytes
            self._n_held += n_bytes

        try:
            yield hold
        finally:
            self._n_held -= n_own


class SendGuard:
    """Gives a response up whose client does not read."""

    def __init__(self, app: ASGIApp, options: ServerOptions) -> None:
        self._app = app
        self._timeout = options.send_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(self._timeout):
                await send(message)

        await self._app(scope, receive, send_in_time if scope["type"] == "http" else send)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A receive that gives the body once and then what follows."""
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


def _given_keys(headers: Headers) -> Collection[bytes]:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    keys = [token.strip()] if scheme.lower() == "bearer" else []
    keys += headers.getlist("x-api-key")
    return [key.encode("utf-8", "surrogateescape") for key in keys if key]


def _host_name(host: str) -> str:
    """A Host header without its port."""
    if host.startswith("["):
        return host.partition("]")[0].strip("[]")
    return host.partition(":")[0]
