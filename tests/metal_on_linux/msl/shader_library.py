"""Compiles shaders and runs their kernels on NumPy arrays, through csrc/msl/run.h."""

import ctypes
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

KERNELS = Path(__file__).resolve().parent / "kernels"
TOOLS = Path(__file__).resolve().parents[3] / "csrc" / "msl"
# From a shader's text to what a tool says of it.
ErrorOf = Callable[[str], str]
MAX_BUFFERS = 31
MESSAGE_BYTES = 1024
STATUS_NAMES = (
    "OK",
    "UNKNOWN_KERNEL",
    "WRONG_CONSTANT",
    "WRONG_BINDING",
    "LIMIT",
    "DIVERGENT_BARRIER",
    "RACE",
    "UNINITIALISED_READ",
    "OUT_OF_BOUNDS",
    "HOST",
)


class ConstantValue(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("bytes", ctypes.c_void_p),
        ("nbytes", ctypes.c_size_t),
    )


class BoundBuffer(ctypes.Structure):
    _fields_ = (("address", ctypes.c_void_p), ("nbytes", ctypes.c_size_t))


class Dispatch(ctypes.Structure):
    _fields_ = (
        ("pipeline", ctypes.c_void_p),
        ("buffers", BoundBuffer * MAX_BUFFERS),
        ("threadgroup_nbytes", ctypes.c_size_t * MAX_BUFFERS),
        ("threadgroups", ctypes.c_uint32 * 3),
        ("threads", ctypes.c_uint32 * 3),
        ("order", ctypes.c_uint32),
        ("workers", ctypes.c_uint32),
    )


class Report(ctypes.Structure):
    _fields_ = (
        ("barriers", ctypes.c_uint64),
        ("simd_operations", ctypes.c_uint64),
        ("divergent_operations", ctypes.c_uint64),
        ("races", ctypes.c_uint64),
        ("divergence", ctypes.c_char * 256),
        ("message", ctypes.c_char * MESSAGE_BYTES),
    )


class ShaderFault(Exception):
    """A dispatch that did not end well; `status` is its name in run.h without MSL_."""

    def __init__(self, status: str, message: str, races: int) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.races = races


@dataclass(frozen=True)
class Launch:
    """How a kernel runs; sizes may leave out trailing ones."""

    threadgroups: tuple[int, ...] = (1,)
    threads: tuple[int, ...] = (32,)
    threadgroup_nbytes: tuple[int, ...] = ()
    order: int = 0
    workers: int = 1


def three(sizes: tuple[int, ...]) -> tuple[int, ...]:
    return (*sizes, 1, 1)[:3]


def run_tool(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOLS / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def place(shader: Path, name: str) -> str:
    """`file:line` of the line that ends with `// PLACE name`."""
    lines = shader.read_text().split("\n")
    numbers = [i for i, line in enumerate(lines, 1) if line.endswith(f"// PLACE {name}")]
    assert len(numbers) == 1, name
    return f"{shader.name}:{numbers[0]}"


class ShaderLibrary:
    """One compiled shader. Arrays are bound in the order in which they are given, from index 0."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._library = ctypes.CDLL(str(path))
        self._library.msl_mode.restype = ctypes.c_char_p

    @staticmethod
    def compiled(shader: Path, cache: Path, *options: str) -> Path:
        result = run_tool("compile.py", shader, "--cache", cache, *options)
        assert result.returncode == 0, result.stderr
        return Path(result.stdout.strip())

    @classmethod
    def compile(cls, shader: Path, cache: Path, *options: str) -> "ShaderLibrary":
        return cls(cls.compiled(shader, cache, *options))

    @property
    def mode(self) -> str:
        return str(self._library.msl_mode().decode())

    @property
    def kernels(self) -> list[str]:
        self._library.msl_kernel_at.restype = ctypes.POINTER(ctypes.c_char_p)
        count = self._library.msl_kernel_count()
        return [self._library.msl_kernel_at(i)[0].decode() for i in range(count)]

    def pipeline(self, kernel: str, **constants: np.generic) -> "Pipeline":
        return Pipeline(self._library, kernel, constants)

    def run(self, kernel: str, *arrays: NDArray[np.generic], launch: Launch) -> Report:
        return self.pipeline(kernel).run(*arrays, launch=launch)


class Pipeline:
    def __init__(self, library: ctypes.CDLL, kernel: str, constants: dict[str, np.generic]) -> None:
        self._library = library
        values = (ConstantValue * len(constants))()
        bytes_of = {name: value.tobytes() for name, value in constants.items()}
        for row, (name, value) in zip(values, bytes_of.items(), strict=True):
            row.name = name.encode()
            row.bytes = ctypes.cast(ctypes.c_char_p(value), ctypes.c_void_p)
            row.nbytes = len(value)
        self._pointer = ctypes.c_void_p()
        message = ctypes.create_string_buffer(MESSAGE_BYTES)
        status = library.msl_pipeline_create(
            kernel.encode(), values, len(constants), ctypes.byref(self._pointer), message
        )
        if status != 0:
            raise ShaderFault(STATUS_NAMES[status], message.value.decode(), 0)

    def __del__(self) -> None:
        self._library.msl_pipeline_destroy(self._pointer)

    def run(self, *arrays: NDArray[np.generic] | None, launch: Launch) -> Report:
        dispatch = Dispatch()
        dispatch.pipeline = self._pointer
        for bound, array in zip(dispatch.buffers, arrays, strict=False):
            if array is not None:
                assert array.flags.c_contiguous
                bound.address = array.ctypes.data
                bound.nbytes = array.nbytes
        for i, nbytes in enumerate(launch.threadgroup_nbytes):
            dispatch.threadgroup_nbytes[i] = nbytes
        dispatch.threadgroups[:] = three(launch.threadgroups)
        dispatch.threads[:] = three(launch.threads)
        dispatch.order = launch.order
        dispatch.workers = launch.workers
        report = Report()
        status = self._library.msl_run(ctypes.byref(dispatch), ctypes.byref(report))
        if status != 0:
            raise ShaderFault(STATUS_NAMES[status], report.message.decode(), report.races)
        return report
