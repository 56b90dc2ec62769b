"""The page's files, their headers, and /live in front of a model, without one, and with keys."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.resources import files
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.testclient import TestClient

from moeflux.server.app import create_app
from moeflux.server.model_holder import ModelHolder
from moeflux.server.options import ServerOptions
from moeflux.server.page.routes import CONTENT_TYPES

STATIC = files("moeflux.server.page") / "static"
NAMES = sorted(entry.name for entry in STATIC.iterdir() if not entry.name.startswith("."))
KEY = "a-secret-key"

Connect = Callable[..., TestClient]


class View:
    """Repeats what it was told."""

    def look(self, seen: int | None = None) -> dict[str, Any]:
        return {"model": "tiny", "seen": seen}


@pytest.fixture
def connect() -> Connect:
    def connect(*keys: str, view: View | None = None) -> TestClient:
        """A client of an application that has loaded a model if there is a view of it."""
        holder: Any = ModelHolder(lambda: holder.served, lambda: None)
        if view is not None:
            holder._served, holder.state = SimpleNamespace(view=view), "ready"
        app = create_app(holder, ServerOptions(api_keys=keys))
        return TestClient(app, base_url="http://localhost")

    return connect


def test_the_page_is_at_the_root(connect: Connect) -> None:
    response = connect().get("/")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.content == (STATIC / "index.html").read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_every_file_comes_with_its_type_and_a_strict_policy(connect: Connect, name: str) -> None:
    response = connect().get(f"/static/{name}")
    assert response.status_code == 200
    assert response.content == (STATIC / name).read_bytes()
    assert response.headers["content-type"] == CONTENT_TYPES["." + name.rsplit(".", maxsplit=1)[-1]]
    assert response.headers["x-content-type-options"] == "nosniff"
    policy = dict(
        part.split(" ", 1) for part in response.headers["content-security-policy"].split("; ")
    )
    assert policy["default-src"] == "'self'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert policy.keys().isdisjoint({"script-src", "style-src", "connect-src", "img-src"})


def test_the_page_names_no_other_host_and_runs_no_inline_code() -> None:
    text = "".join((STATIC / name).read_text() for name in NAMES)
    text = text.replace("http://www.w3.org/2000/svg", "")  # a name, not a request
    assert re.findall(r"https?://|//[a-z]+\.[a-z]", text) == []
    page = (STATIC / "index.html").read_text()
    assert (
        re.findall(r"<script(?! type=\"module\" src=\"/static/)|<style|\son\w+=|\sstyle=", page)
        == []
    )
    sinks = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\(|setHTML"
    assert re.findall(sinks, text) == []


@pytest.mark.parametrize(
    "name", ["none.js", "..%2fpage.py", "%2e%2e/page.py", "index.html%00", "."]
)
def test_other_files_are_not_there(connect: Connect, name: str) -> None:
    assert connect().get(f"/static/{name}").status_code == 404


def test_live_tells_the_state_until_there_is_a_model(connect: Connect) -> None:
    response = connect().get("/live")
    assert response.json() == {"state": "loading"}
    assert response.headers["cache-control"] == "no-store"


def test_live_gives_a_look_at_the_model(connect: Connect) -> None:
    client = connect(view=View())
    assert client.get("/live").json() == {"state": "ready", "model": "tiny", "seen": None}
    assert client.get("/live?seen=7").json()["seen"] == 7


def test_with_a_key_the_files_are_open_and_the_live_view_is_not(connect: Connect) -> None:
    client = connect(KEY, view=View())
    assert client.get("/").status_code == 200
    assert client.get("/static/app.js").status_code == 200
    assert client.get("/live").status_code == 401
    assert client.get("/live", headers={"authorization": "Bearer wrong-key"}).status_code == 401
    found = client.get("/live", headers={"authorization": f"Bearer {KEY}"})
    assert found.json()["model"] == "tiny"
