"""How the program ends."""

from enum import IntEnum


class ExitCode(IntEnum):
    """What a shell sees."""

    DONE = 0
    FAILED = 1
    WRONG_USAGE = 2
    INTERRUPTED = 130
    BROKEN_PIPE = 141
    """The reader of the output went away."""
