"""The table of a shader's kernels, as the translator finds it and as JSON."""

from dataclasses import asdict, dataclass
from typing import Any

# Sizes are those of Metal; function constants are scalars.
CONSTANT_TYPES = {
    "bool": 1,
    "char": 1,
    "uchar": 1,
    "short": 2,
    "ushort": 2,
    "int": 4,
    "uint": 4,
    "long": 8,
    "ulong": 8,
    "half": 2,
    "float": 4,
}


@dataclass(frozen=True)
class Argument:
    """One parameter of a kernel."""

    name: str
    kind: str  # buffer, threadgroup, builtin
    type: str  # without address space, `const`, `*` and `&`
    index: int | None = None  # of a buffer or of threadgroup memory
    builtin: str | None = None  # e.g. thread_position_in_grid
    address_space: str | None = None  # device, constant, threadgroup
    constant: bool = True  # the kernel cannot write through it
    reference: bool = False  # T& instead of T*


@dataclass(frozen=True)
class FunctionConstant:
    """A value that a pipeline is specialised by."""

    name: str
    type: str
    index: int
    file: str
    line: int


@dataclass(frozen=True)
class Kernel:
    """One kernel and where it is defined."""

    name: str
    file: str
    line: int
    arguments: tuple[Argument, ...]
    constants: tuple[str, ...]  # function constants that it uses, directly or through functions
    max_threads: int | None  # [[max_total_threads_per_threadgroup]]


@dataclass(frozen=True)
class Table:
    """What one shader file offers."""

    kernels: tuple[Kernel, ...]
    constants: tuple[FunctionConstant, ...]

    def json(self) -> dict[str, Any]:
        return asdict(self)
