"""Exceptions of moeflux. Each message says what was wanted, what was got, and of which thing."""


class MoefluxError(Exception):
    """Base of every error that moeflux raises on purpose."""


class DeviceError(MoefluxError):
    """A device refused or failed: unavailable, unknown kernel, bad dispatch, failed work."""


class OutOfMemoryError(DeviceError, MemoryError):
    """A buffer of `nbytes` could not be had."""

    def __init__(self, message: str, nbytes: int = 0) -> None:
        super().__init__(message)
        self.nbytes = nbytes


class CheckpointError(MoefluxError):
    """A checkpoint is damaged, incomplete or of an unknown kind.

    Names the file and, where known, the tensor.
    """


class ConversionError(MoefluxError):
    """A conversion cannot start or go on: space, permission, a folder in use.

    Says what is kept of the work done.
    """


class ReadError(MoefluxError, OSError):
    """A read failed or came short: `path`, `offset`, `wanted`, `got`, `errno` (0 if short)."""

    def __init__(
        self,
        message: str,
        path: str = "",
        offset: int = 0,
        wanted: int = 0,
        got: int = 0,
        errno: int = 0,
    ) -> None:
        super().__init__(message)
        self.path = path
        self.offset = offset
        self.wanted = wanted
        self.got = got
        self.errno = errno


class ChecksumError(ReadError):
    """All bytes arrived, but not the right ones: `wanted_checksum` and `got_checksum` (CRC32C)."""

    def __init__(
        self,
        message: str,
        path: str,
        offset: int,
        nbytes: int,
        wanted_checksum: int,
        got_checksum: int,
    ) -> None:
        super().__init__(message, path, offset, nbytes, nbytes)
        self.wanted_checksum = wanted_checksum
        self.got_checksum = got_checksum


class ExpertReadError(ReadError):
    """The experts of a layer could not be read: the ReadError of `expert` of `layer`."""

    def __init__(self, layer: int, expert: int, error: ReadError) -> None:
        super().__init__(
            f"layer {layer} expert {expert}: {error}",
            error.path,
            error.offset,
            error.wanted,
            error.got,
            error.errno or 0,
        )
        self.layer = layer
        self.expert = expert


class ReadCancelled(MoefluxError):
    """A read was cancelled before all of its bytes arrived."""


class ReadTimeoutError(ReadError, TimeoutError):
    """A read did not finish within the time allowed."""


class ContextOverflowError(MoefluxError, ValueError):
    """More tokens than the context holds: `position`, `n_tokens`, `context_size`."""

    def __init__(self, position: int, n_tokens: int, context_size: int) -> None:
        super().__init__(
            f"{n_tokens} tokens at position {position} exceed the context "
            f"of {context_size} positions"
        )
        self.position = position
        self.n_tokens = n_tokens
        self.context_size = context_size


class SessionStateError(MoefluxError):
    """The session cannot be used as asked, for example after an error inside a token."""


class ChatTemplateError(MoefluxError, ValueError):
    """The checkpoint has no usable chat template, or the template refused the messages."""


class LogitsError(MoefluxError, ArithmeticError):
    """Logits that no token can be drawn from: not a vector, NaN, infinite, or all excluded."""
