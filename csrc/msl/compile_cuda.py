"""Compiles .metal files for CUDA with NVRTC, without a GPU, and reports what each kernel needs.

    compile_cuda.py shaders/*.metal --arch sm_90 --constant format=33570820

NVRTC comes from the package nvidia-cuda-nvrtc, or from a path given with --nvrtc.
"""

import argparse
import ctypes
import importlib.util
import json
import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from flatten import Flattener
from source import ShaderError
from translate import translate

HERE = Path(__file__).resolve().parent
RESOURCES = re.compile(
    r"Function properties for (?P<entry>\w+)\s*\n"
    r"[^\n]*?(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads\s*\n"
    r"[^\n]*Used (?P<registers>\d+) registers(?P<rest>[^\n]*)"
)


class NvrtcError(Exception):
    """NVRTC's log, or that there is no NVRTC."""


@dataclass(frozen=True)
class KernelResources:
    """What one kernel takes of a multiprocessor, per thread and per block."""

    kernel: str
    registers: int
    spilled_bytes: int  # stores and loads
    stack_bytes: int
    threadgroup_bytes: int


def find_nvrtc() -> Path:
    specification = importlib.util.find_spec("nvidia")
    places = specification.submodule_search_locations if specification else None
    for place in places or ():
        for found in sorted(Path(place).rglob("libnvrtc.so.*")):
            if "builtins" not in found.name and ".alt." not in found.name:
                return found
    raise NvrtcError("no NVRTC: install nvidia-cuda-nvrtc or give --nvrtc\n")


class Nvrtc:
    """The few functions of NVRTC that compiling needs."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))

    def compile(self, translated: str, name: str, options: list[str]) -> str:
        """The log, which holds the resources of all kernels; raises NvrtcError."""
        program = ctypes.c_void_p()
        headers = {path.name: path.read_bytes() for path in sorted(HERE.glob("*.h"))}
        texts = (ctypes.c_char_p * len(headers))(*headers.values())
        names = (ctypes.c_char_p * len(headers))(*(header.encode() for header in headers))
        self._check(
            self._library.nvrtcCreateProgram(
                ctypes.byref(program),
                translated.encode(),
                name.encode(),
                len(headers),
                texts,
                names,
            )
        )
        try:
            arguments = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
            status = self._library.nvrtcCompileProgram(program, len(options), arguments)
            size = ctypes.c_size_t()
            self._check(self._library.nvrtcGetProgramLogSize(program, ctypes.byref(size)))
            log = ctypes.create_string_buffer(size.value)
            self._check(self._library.nvrtcGetProgramLog(program, log))
        finally:
            self._check(self._library.nvrtcDestroyProgram(ctypes.byref(program)))
        text = log.value.decode()
        if status != 0:
            raise NvrtcError(text)
        return text

    @staticmethod
    def _check(status: int) -> None:
        if status != 0:
            raise NvrtcError(f"NVRTC failed with status {status}\n")


def resources(log: str) -> list[KernelResources]:
    found = []
    for match in RESOURCES.finditer(log):
        shared = re.search(r"(\d+) bytes smem", match["rest"])
        found.append(
            KernelResources(
                match["entry"].removeprefix("msl_"),
                int(match["registers"]),
                int(match["stores"]) + int(match["loads"]),
                int(match["stack"]),
                int(shared[1]) if shared else 0,
            )
        )
    return sorted(found, key=lambda row: row.kernel)


def compile_shader(
    nvrtc: Nvrtc, text: str, name: str, arch: str, constants: dict[str, int]
) -> list[KernelResources]:
    """Of flattened text; raises NvrtcError and ShaderError."""
    options = [
        f"--gpu-architecture={arch}",
        "-std=c++17",
        "--fmad=false",
        "--ptxas-options=-v",
        *(f"-DMSL_VALUE_{constant}={value}" for constant, value in constants.items()),
    ]
    return resources(nvrtc.compile(translate(text, name).text, name, options))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("shaders", nargs="+", type=Path)
    parser.add_argument("--arch", default="sm_90", help="a real architecture, sm_80 or later")
    parser.add_argument("--constant", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--nvrtc", type=Path, help="path of libnvrtc.so")
    parser.add_argument("-I", "--include", action="append", type=Path, default=[], metavar="DIR")
    options = parser.parse_args(arguments)
    try:
        nvrtc = Nvrtc(options.nvrtc or find_nvrtc())
        constants = {
            name: int(value) for name, value in (pair.split("=") for pair in options.constant)
        }
        rows = [
            row
            for shader in options.shaders
            for row in compile_shader(
                nvrtc,
                Flattener(options.include).file(shader),
                str(shader),
                options.arch,
                constants,
            )
        ]
    except (ShaderError, NvrtcError, OSError) as error:
        sys.stderr.write(f"{error}".rstrip() + "\n")
        return 1
    sys.stdout.write(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
