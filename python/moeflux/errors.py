"""Exceptions of moeflux. Each message says what was wanted, what was got, and of which thing."""

from collections.abc import Sequence
from pathlib import Path


class MoefluxError(Exception):
    """Base of every error that moeflux raises on purpose."""


class DeviceError(MoefluxError):
    """A device refused or failed: unavailable, unknown kernel, bad dispatch, failed work."""


class OutOfMemoryError(DeviceError, MemoryError):
    """A buffer of `nbytes` could not be had."""

    def __init__(self, message: str, nbytes: int = 0) -> None:
        super().__init__(message)
        self.nbytes = nbytes


class NoDeviceError(DeviceError):
    """This build or machine has no device of the backend that was asked for."""


class NoDeviceMemoryError(DeviceError, ValueError):
    """A cap on the memory of a device that has none of its own."""


class CompileError(DeviceError):
    """A shader `source` does not compile on this device; `log` is what its compiler said."""

    def __init__(self, message: str, source: str = "", log: str = "") -> None:
        super().__init__(message)
        self.source = source
        self.log = log


class KernelNotFoundError(DeviceError, LookupError):
    """The device has no such `kernel`; `available` are those that it has."""

    def __init__(self, message: str, kernel: str = "", available: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.kernel = kernel
        self.available = tuple(available)


class PipelineError(DeviceError):
    """A `kernel` cannot be specialised by its constants, or does not fit the device."""

    def __init__(self, message: str, kernel: str = "") -> None:
        super().__init__(message)
        self.kernel = kernel


class CommandBufferError(DeviceError):
    """Committed work failed on the device: `label`, and `domain` and `code` in its own words.

    `encoders` tells, where the system does, how far each part came: (label, "completed",
    "affected", "faulted", "pending" or "unknown").
    """

    def __init__(
        self,
        message: str,
        label: str = "",
        domain: str = "",
        code: int = 0,
        encoders: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(message)
        self.label = label
        self.domain = domain
        self.code = code
        self.encoders = tuple(encoders)


class CommandOutOfMemoryError(CommandBufferError, MemoryError):
    """The device had no memory to run the work."""


class CommandTimeoutError(CommandBufferError, TimeoutError):
    """The work ran longer than the system allows."""


class PageFaultError(CommandBufferError):
    """A kernel touched memory that is not there."""


class AccessRevokedError(CommandBufferError):
    """The system took the device from this process, or never gave it."""


class InvalidResourceError(CommandBufferError):
    """A buffer of the work was gone or not resident."""


class DeviceRemovedError(CommandBufferError):
    """The device was removed while it worked."""


class CaptureError(DeviceError):
    """A GPU trace could not be captured."""


class CaptureUnsupportedError(CaptureError):
    """The device or the process may not capture GPU traces."""


class AlreadyCapturingError(CaptureError):
    """Another capture is under way; a process has one at a time."""


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


class TruncationError(SessionStateError):
    """A position between checkpoints of a model with recurrent states: `position`, `nearest`."""

    def __init__(self, position: int, nearest: int) -> None:
        super().__init__(
            f"the session cannot be cut at position {position} without prefilling tokens again: "
            f"the nearest checkpoint below is at position {nearest}"
        )
        self.position = position
        self.nearest = nearest


class SnapshotError(MoefluxError):
    """A snapshot cannot be written or read: `path`."""

    def __init__(self, message: str, path: Path) -> None:
        super().__init__(message)
        self.path = path


class SnapshotDamagedError(SnapshotError):
    """The file is no snapshot, or not as it was written."""


class SnapshotMismatchError(SnapshotError):
    """A whole snapshot, but of another model, device or version.

    `tokens`, where they can be read, may be prefilled instead.
    """

    def __init__(self, message: str, path: Path, tokens: Sequence[int] = ()) -> None:
        super().__init__(message, path)
        self.tokens = tuple(tokens)


class ChatTemplateError(MoefluxError, ValueError):
    """The checkpoint has no usable chat template, or the template refused the messages."""


class ConstraintError(MoefluxError, ValueError):
    """A constraint on generated text is wrong, cannot be enforced, or was broken."""


class LogitsError(MoefluxError, ArithmeticError):
    """Logits that no token can be drawn from: not a vector, NaN, infinite, or all excluded."""
