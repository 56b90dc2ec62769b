"""How a server is run. Knows no HTTP."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

MIB = 2**20


@dataclass(frozen=True)
class ServerOptions:
    """Where to listen, who may ask, and how much.

    Raises ValueError for an address beyond this machine without an API key, and for limits below 1.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    api_keys: tuple[str, ...] = ()
    """Any of them opens the API; none: everybody on this machine may ask."""
    cors_origins: tuple[str, ...] = ()
    """Web pages that a browser lets use the API; "*" for all."""
    aliases: tuple[str, ...] = ()
    """The model's names in requests, the first is its own; none: the name of its folder."""
    max_active: int = 4
    """Requests that generate at the same time, in turns."""
    max_queued: int = 32
    """Requests that wait; further ones are refused."""
    max_body: int = 8 * MIB
    """Bytes of a request's body."""
    max_bodies: int = 32 * MIB
    """Bytes of the bodies of all requests in flight, at least one of the largest."""
    max_connections: int = 512
    body_timeout: float = 30.0
    """Seconds that a request's body may take to arrive."""
    send_timeout: float = 60.0
    """Seconds that a client may take to read what was sent, before its request is given up."""
    drain_timeout: float = 30.0
    """Seconds that running requests get to end when the server is asked to stop."""

    def __post_init__(self) -> None:
        if not is_loopback(self.host) and not self.api_keys:
            raise ValueError(
                f"{self.host} can be reached from other machines: give an API key, "
                "or listen on 127.0.0.1"
            )
        if any(not key.isascii() or not key.isprintable() or " " in key for key in self.api_keys):
            raise ValueError("an API key must be printable ASCII without spaces")
        if any(len(key) < 8 for key in self.api_keys):
            raise ValueError("an API key must have at least 8 characters")
        for name in ("max_active", "max_body", "max_bodies", "max_connections"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.max_queued < 0:
            raise ValueError(f"max_queued must not be negative, got {self.max_queued}")


def is_loopback(host: str) -> bool:
    """Whether an address or "localhost" can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
