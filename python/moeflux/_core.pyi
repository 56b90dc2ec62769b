"""Native core: devices, buffers, command buffers and reads. Knows bytes and kernels, no model."""

from collections.abc import Sequence
from enum import Enum
from os import PathLike
from typing import Protocol, final

from typing_extensions import Buffer as SupportsBuffer

__version__: str

def crc32c(data: SupportsBuffer, initial: int = 0) -> int:
    """CRC32C (RFC 3720) of C-contiguous bytes.

    `initial` is the checksum of the bytes before them.
    """

@final
class CudaOptions:
    """Where CUDA is found, and how long its work may take."""

    def __init__(
        self,
        driver: str = "libcuda.so.1",
        compilers: Sequence[str] = ("libnvrtc.so.13", "libnvrtc.so.12"),
        kernel_folder: str = "",
        longest_wait_seconds: float = 120.0,
    ) -> None:
        """`compilers`: where NVRTC may be, the best first. `kernel_folder`: "" keeps no kernels."""

def device_names(cuda: CudaOptions = ...) -> list[str]:
    """Backends that this build has and this machine can run, best first."""

def open_device(
    name: str,
    n_threads: int = 0,
    instruction_set: str = "",
    activations: str = "float32",
    cuda: CudaOptions = ...,
) -> Device:
    """Open a backend by name.

    `n_threads` 0 means one per core; `instruction_set` "" means the best this processor has;
    `activations` are held as float32 or, which is lossy, as int8. All of these concern the CPU
    backend only. Raises DeviceError, naming the backends of this build, if it is unknown or
    unavailable.
    """

def measure_read_bandwidth(nbytes: int, n_threads: int = 0) -> float:
    """Best bytes per second of n_threads (0: one per core) that together read nbytes of memory."""

@final
class Step:
    """All that changes between two replays: position, n_tokens, and whether it is a prompt's part.

    For prompts a backend may sum in another order.
    """

    def __init__(self, position: int, n_tokens: int, prefill: bool = False) -> None: ...
    @property
    def position(self) -> int: ...
    @property
    def n_tokens(self) -> int: ...
    @property
    def prefill(self) -> bool: ...

class Encoder(Protocol):
    """What ops dispatch into: a CommandBuffer or a Recording."""

    @property
    def device(self) -> Device: ...
    def dispatch(self, pipeline: Pipeline, buffers: Sequence[Buffer], params: bytes) -> None: ...

class CaptureTarget(Enum):
    """What a GPU trace records: all work of the device, of its queue, or inside a scope."""

    DEVICE = ...
    QUEUE = ...
    SCOPE = ...

@final
class Device:
    @property
    def name(self) -> str: ...
    @property
    def description(self) -> str: ...
    def buffer(self, nbytes: int, host: bool = False) -> Buffer:
        """A zeroed buffer. Raises OutOfMemoryError; ValueError for nbytes < 1."""
    def record_memory(self, nbytes: int) -> Buffer:
        """Memory of the host for copies to the device, page-locked where that works."""
    def wrap(self, mapping: Mapping) -> Buffer:
        """The whole mapping as a buffer, without a copy.

        A device with memory of its own copies each view when a dispatch first takes it.
        """
    def upload(self, data: SupportsBuffer) -> Buffer:
        """A new buffer with a copy of `data` (C-contiguous)."""
    def download(self, buffer: Buffer) -> bytes:
        """A copy of the buffer's bytes. The caller has waited for the work that writes them."""
    def pipeline(self, kernel: str, **constants: int) -> Pipeline:
        """The kernel specialised by its constants, compiled once and cached.

        Raises DeviceError for an unknown kernel or constant.
        """
    def queue(self) -> Queue: ...
    def record(self) -> Recording: ...
    def read_pool(self, n_workers: int = 8) -> ReadPool: ...
    def kernels(self) -> list[str]: ...
    def warm_all(self) -> None:
        """Compile what was asked for so far, so that no dispatch has to wait for the compiler."""
    @property
    def n_compiled(self) -> int:
        """Compiled variants of kernels; 0 where nothing is compiled at run time."""
    @property
    def tokens_at_once(self) -> int:
        """Tokens of a prompt that keep it busy: more of them at once are hardly faster."""
    def memory(self) -> dict[str, int]:
        """Bytes by name, empty where the device cannot tell.

        "free" and "total" are those of a device with memory of its own, "allocated" is what this
        object has of it, and "staging" what every thread that reads to it takes of the host's.
        """
    @property
    def supports_capture(self) -> bool:
        """Whether start_capture can work in this process."""
    @property
    def is_capturing(self) -> bool:
        """Whether this process captures a GPU trace."""
    def start_capture(
        self, path: str | PathLike[str], target: CaptureTarget = CaptureTarget.QUEUE
    ) -> None:
        """Trace what is committed from here to stop_capture into a new bundle at `path`.

        Raises CaptureUnsupportedError, AlreadyCapturingError or CaptureError.
        """
    def stop_capture(self) -> None:
        """Wait for committed work, then write the trace. Does nothing without a capture."""
    def begin_scope(self) -> None:
        """Begin what CaptureTarget.SCOPE records."""
    def end_scope(self) -> None: ...

@final
class Buffer:
    """Device bytes. Only with host=True it supports the buffer protocol: NumPy sees the bytes."""

    @property
    def nbytes(self) -> int: ...
    @property
    def host(self) -> bool: ...
    def view(self, offset: int, nbytes: int) -> Buffer:
        """A range of this buffer sharing its bytes. Raises ValueError beyond the end."""
    def populate(self) -> None:
        """Put memory behind every page in the background: first writes would wait for it."""
    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class Pipeline:
    @property
    def kernel(self) -> str: ...
    @property
    def constants(self) -> dict[str, int]: ...

@final
class Recording:
    @property
    def device(self) -> Device: ...
    def dispatch(self, pipeline: Pipeline, buffers: Sequence[Buffer], params: bytes) -> None:
        """Append a dispatch.

        Raises DeviceError for a wrong number of buffers or params size, or after the first replay.
        """
    def copy(self, source: Buffer, destination: Buffer) -> None: ...
    def zero(self, destination: Buffer) -> None: ...
    def __len__(self) -> int: ...

@final
class Queue:
    def command_buffer(self, step: Step, label: str = "") -> CommandBuffer: ...

@final
class CommandBuffer:
    @property
    def device(self) -> Device: ...
    @property
    def label(self) -> str: ...
    def dispatch(self, pipeline: Pipeline, buffers: Sequence[Buffer], params: bytes) -> None: ...
    def replay(self, recording: Recording) -> None: ...
    def copy(self, source: Buffer, destination: Buffer) -> None:
        """Copy bytes between buffers of equal nbytes, in order with the dispatches."""
    def zero(self, destination: Buffer) -> None: ...
    def commit(self) -> None:
        """Submit. Raises DeviceError if already committed."""
    def wait(self) -> None:
        """Block until finished (without the GIL).

        Raises DeviceError if not committed, or if the work failed.
        """
    @property
    def done(self) -> bool: ...
    @property
    def gpu_seconds(self) -> float:
        """Time the device spent on this command buffer. Raises DeviceError before it is done."""
    def keep_timings(self) -> None:
        """Note when each kernel runs. Raises DeviceError after commit."""
    @property
    def timings(self) -> list[tuple[str, float, float]]:
        """Kernel, begin and end in seconds since the commit, in the order of execution.

        Empty unless they were kept, or where the backend cannot tell. Raises DeviceError before it
        is done.
        """

@final
class Mapping:
    """A file mapped read-only; supports the buffer protocol."""

    def __init__(self, path: str | PathLike[str]) -> None: ...
    @property
    def nbytes(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class File:
    """A file opened for positioned reads. Closed when the last ticket that uses it is gone."""

    def __init__(self, path: str | PathLike[str], direct: bool = False) -> None:
        """`direct` bypasses the page cache. Raises FileNotFoundError or another OSError."""
    @property
    def path(self) -> str: ...
    @property
    def nbytes(self) -> int: ...

@final
class ReadRanges:
    """What is read together, one range after the other."""

    def __init__(self, ranges: Sequence[tuple[File, int, int, int]]) -> None:
        """Ranges (file, file offset, nbytes, buffer offset), at least one, and none of 0 bytes."""
    @property
    def nbytes(self) -> int: ...
    def __len__(self) -> int: ...

@final
class ReadPool:
    """Workers that read file ranges into buffers. Urgent reads overtake all others."""

    @property
    def n_workers(self) -> int: ...
    def submit(
        self, file: File, offset: int, nbytes: int, buffer: Buffer, urgent: bool = True
    ) -> ReadTicket:
        """Read nbytes at offset into the start of buffer.

        Raises ValueError if buffer is too small.
        """
    def submit_ranges(
        self,
        ranges: ReadRanges,
        buffer: Buffer,
        urgent: bool = True,
        checksum: int | None = None,
        record: Buffer | None = None,
        filled: bool = False,
    ) -> ReadTicket:
        """One ticket for several ranges.

        `checksum` is the CRC32C of their bytes, one range after the other; other bytes make the
        ticket fail. `record`: memory of the host, laid out as `buffer`, that the bytes go through;
        from one that is `filled` with them they are copied, and nothing is read. Raises DeviceError
        for a record that the host cannot address.
        """
    def drain(self) -> None:
        """Block until no read is queued or running."""
    def close(self) -> None:
        """Cancel queued reads, wait for running ones, stop the workers. Idempotent."""

@final
class ReadTicket:
    @property
    def done(self) -> bool:
        """No worker will touch the destination or the record any more."""
    @property
    def cancelled(self) -> bool: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def seconds(self) -> float:
        """From submit to done. Raises DeviceError before it is done."""
    def wait(self, timeout: float | None = None) -> None:
        """Block until done (without the GIL).

        Raises ReadError, ChecksumError for other bytes than those of the checksum, ReadCancelled,
        or ReadTimeoutError after `timeout` seconds.
        """
    def promote(self) -> None:
        """Make a queued read urgent."""
    def cancel(self) -> bool:
        """Drop what has not started. True if the ticket will not deliver all bytes."""
