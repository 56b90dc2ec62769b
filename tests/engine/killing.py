"""Kills its own process at a chosen system call."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from typing import Any


def kill_at(n_calls: int, names: Sequence[str]) -> None:
    """Kill this process in place of the call number `n_calls` of those functions of os."""
    left = n_calls

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def function(*arguments: Any, **keywords: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **keywords)

        return function

    for name in names:
        setattr(os, name, counted(getattr(os, name)))


def was_killed(status: int) -> bool:
    """Whether a child ended so, by what waitpid says of it. Raises RuntimeError if it failed."""
    if status and not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
        raise RuntimeError(f"the child ended with status {status}")
    return status != 0
