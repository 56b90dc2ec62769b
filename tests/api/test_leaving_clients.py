"""A client that leaves `moeflux serve demo` in the middle of an answer ends the work for it."""

from __future__ import annotations

import re
import threading

import httpx
import pytest
from server_processes import SECONDS, ServerProcess


def decoded(client: httpx.Client) -> int:
    """Tokens that the server has decoded."""
    found = re.search(
        r'moeflux_work_tokens_total{phase="decode"} (\S+)', client.get("/metrics").text
    )
    assert found is not None
    return int(float(found[1]))


@pytest.mark.parametrize("streams", [True, False])
def test_nothing_is_decoded_for_a_client_that_has_left(demo: ServerProcess, streams: bool) -> None:
    body = {
        "model": "demo",
        "prompt": "def f(",
        "max_tokens": 4000,
        "stream": streams,
        # An answer that does not end by itself.
        "logit_bias": {"8183": -100, "8185": -100},
    }
    with httpx.Client(base_url=demo.url, timeout=SECONDS) as client:
        before = decoded(client)
        with httpx.Client(base_url=demo.url, timeout=1.0) as leaving:
            if streams:
                with leaving.stream("POST", "/v1/completions", json=body) as response:
                    lines = response.iter_lines()
                    for _ in range(8):
                        assert next(lines) is not None
            else:
                with pytest.raises(httpx.ReadTimeout):
                    leaving.post("/v1/completions", json=body)
        for _ in range(1000):
            if not client.get("/health").json()["n_active"]:
                break
            threading.Event().wait(0.02)
        after = decoded(client)
        assert 0 < after - before < 3000
        assert decoded(client) == after
