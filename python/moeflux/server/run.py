"""Runs a server until it is told to stop: socket, signals, and what it says of itself."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

import moeflux
from moeflux.engine.budget import prefix_memory_nbytes
from moeflux.memory import format_size, parse_size, resident_memory
from moeflux.server.app import create_app
from moeflux.server.loading import ModelSource
from moeflux.server.model_holder import ModelHolder
from moeflux.server.options import ServerOptions
from moeflux.server.served_model import ServedModel

MAX_HEADERS = 64 * 1024
"""Bytes of a request's line and headers."""
TELLING_SECONDS = 5
"""For telling clients that their requests were cut off."""


class _Server(uvicorn.Server):
    """Ends by itself after a signal, where uvicorn raises it once more or drops what runs."""

    def __init__(
        self, config: uvicorn.Config, on_stop: Callable[[], None], on_hurry: Callable[[], None]
    ) -> None:
        """`on_hurry`: a second Ctrl-C."""
        super().__init__(config)
        self._on_stop, self._on_hurry = on_stop, on_hurry

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if not self.should_exit:
            self.should_exit = True
            self._on_stop()
        elif sig == signal.SIGINT:
            self._on_hurry()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        handled = (signal.SIGINT, signal.SIGTERM)
        earlier = {number: signal.signal(number, self.handle_exit) for number in handled}
        try:
            yield
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)


def run_server(source: ModelSource, options: ServerOptions, say: Callable[[str], None]) -> bool:
    """Serve until SIGINT or SIGTERM, then let running requests end.

    `say` gets lines for people. True after an orderly end, False if the model could not be loaded.
    Raises OSError for an address that cannot be listened on.
    """
    listener = listening_socket(options.host, options.port)
    address = url(listener)
    holder = ModelHolder(lambda: source.load(options), source.close)

    def stop() -> None:
        if holder.state == "ready":
            say("stopping: running requests may end, further ones are refused")
        holder.stop_taking()
        cut_off_after(options.drain_timeout)

    def hurry() -> None:
        say("stopping now: running requests are cut off")
        cut_off_after(0)

    def cut_off_after(seconds: float) -> None:
        # In a thread: the signal may have come while this one holds a lock of the scheduler.
        timer = threading.Timer(seconds, holder.cut_off)
        timer.daemon = True
        timer.start()

    def fail(error: Exception) -> None:
        say(f"error: {error}")
        server.should_exit = True

    def tell(served: ServedModel) -> None:
        for line in description(served, source, options, address):
            say(line)

    config = uvicorn.Config(
        create_app(holder, options),
        http="h11",
        ws="none",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=options.max_connections,
        h11_max_incomplete_event_size=MAX_HEADERS,
        timeout_graceful_shutdown=round(options.drain_timeout) + TELLING_SECONDS,
    )
    server = _Server(config, stop, hurry)
    holder.on_ready, holder.on_failed = tell, fail
    say(f"loading {source.model}; {address}/health says when it is ready")
    server.run(sockets=[listener])
    return holder.error is None


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket that is bound. Raises OSError naming the address."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
        family, *_, address = found[0]
        listener = socket.create_server(address[:2], family=family)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(f"cannot listen on {host}:{port}: {reason}") from error
    # Connections inherit it: else each short piece of a stream waits for the one before.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def url(listener: socket.socket) -> str:
    """Where clients find a socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def description(
    served: ServedModel, source: ModelSource, options: ServerOptions, address: str
) -> Iterator[str]:
    """What a server that is ready says of itself."""
    yield f"moeflux {moeflux.__version__} serves {served.name!r}"
    yield f"  page               {address}/"
    yield f"  OpenAI clients     base_url {address}/v1"
    yield f"  Anthropic clients  base_url {address}"
    yield f"  health, metrics    {address}/health {address}/metrics"
    model = source.loaded
    if model is not None:
        cap = source.memory
        limit = "no cap" if cap is None else f"cap {format_size(parse_size(cap))}"
        experts, n_records = model.runtime.experts, model.placement.n_records
        yield (
            f"  memory             {format_size(resident_memory())} in use, {limit}, "
            f"{experts.n_slots} slots for {experts.n_experts} experts"
            f"{f', {n_records} of them in RAM' if n_records else ''}"
        )
        kept = prefix_memory_nbytes(model.settings)
        yield f"  repeated prompts   {f'kept in {format_size(kept)}' if kept else 'not kept'}"
    yield (
        f"  context            {served.context_size} tokens a request, {options.max_active} "
        f"requests in turns, {options.max_queued} waiting"
    )
    yield f"  API key            {'needed' if options.api_keys else 'none: this machine only'}"
