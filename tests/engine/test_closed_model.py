"""A model that is closed: its sessions say so, and a step under way is not cut short."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest

import moeflux
from moeflux.experts.reads import Read


@pytest.mark.parametrize(
    "use",
    [
        lambda session: session.decode(3),
        lambda session: session.prefill([3, 4]),
        lambda session: session.prefill_all_logits([3, 4]),
        lambda session: session.reset(),
    ],
    ids=["decode", "prefill", "prefill_all_logits", "reset"],
)
def test_session_of_a_closed_model_says_so(
    hybrid: moeflux.Model, use: Callable[[moeflux.Session], object]
) -> None:
    session = hybrid.session()
    session.prefill([1, 2])
    hybrid.close()
    with pytest.raises(moeflux.SessionStateError, match="model of this session is closed"):
        use(session)
    assert session.position == 2


def test_close_is_idempotent(hybrid: moeflux.Model) -> None:
    hybrid.session().prefill([1, 2])
    hybrid.close()
    hybrid.close()
    hybrid.runtime.close()


def test_close_waits_for_the_step_of_another_thread(
    hybrid: moeflux.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, go_on = threading.Event(), threading.Event()
    reads = hybrid.runtime.experts._reads
    wait = reads.wait

    def wait_when_told(read: Read, since: float) -> None:
        reading.set()
        assert go_on.wait(60)
        wait(read, since)

    monkeypatch.setattr(reads, "wait", wait_when_told)
    results: list[np.ndarray] = []
    session = hybrid.session()
    step = threading.Thread(target=lambda: results.append(session.prefill([1, 2, 3])))
    closing = threading.Thread(target=hybrid.close)
    step.start()
    assert reading.wait(60)
    closing.start()
    closing.join(0.2)
    assert closing.is_alive()
    go_on.set()
    step.join(60)
    closing.join(60)
    assert len(results) == 1
    with pytest.raises(moeflux.SessionStateError, match="closed"):
        session.decode(4)
