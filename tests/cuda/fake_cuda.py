"""The fake CUDA driver and compiler, built by the system's C++ compiler, and their controls."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from moeflux._core import CudaOptions

FAKE = Path(__file__).resolve().parent / "fake"
MSL = FAKE.parents[2] / "csrc" / "msl"
COMPILER = shutil.which("c++") or shutil.which("g++") or "c++"
FLAGS = ("-std=c++20", "-O1", "-shared", "-fPIC", "-fvisibility=hidden", "-pthread", f"-I{MSL}")


@dataclass(frozen=True)
class FakeCuda:
    """The built libraries and the folder of what their compiler made."""

    driver: Path
    compiler: Path

    def options(self, kernel_folder: Path | str = "", longest_wait: float = 60.0) -> CudaOptions:
        """What opens a device on the fake; `longest_wait` in seconds."""
        return CudaOptions(str(self.driver), [str(self.compiler)], str(kernel_folder), longest_wait)

    def fail(self, entry_point: str, result: int, *, after: int = 0, times: int = 1) -> None:
        """The call of a driver's function after so many that work gives `result`."""
        self._driver.fake_fail(entry_point.encode(), result, after, times)

    def fail_next_kernel(self, result: int) -> None:
        """It begins, and fails; every call after that gives its result, as on a GPU."""
        self._driver.fake_fail_next_kernel(result)

    def fail_next_compile(self, result: int) -> None:
        self._compiler.fake_fail_next_compile(result)

    def hang(self) -> None:
        """No stream that there is begins anything more until it goes on, or the reset."""
        self._driver.fake_hang(1)

    def go_on(self) -> None:
        """Streams that hang go on."""
        self._driver.fake_hang(0)

    def set(self, name: str, value: int) -> None:
        """capability (90 for 9.0), driver_version, n_devices or total_nbytes."""
        self._driver.fake_set(name.encode(), ctypes.c_long(value))

    def reset(self) -> None:
        """Undoes all that tests have asked for."""
        self._driver.fake_reset()
        self._compiler.fake_compile_count()

    def calls(self, entry_point: str) -> int:
        """Of a driver's function since the reset."""
        return int(self._driver.fake_calls(entry_point.encode()))

    def live(self, what: str) -> int:
        """How many there are: memory, host memory, stream, event, module, context, graph."""
        return int(self._driver.fake_live(what.encode()))

    def n_compiled(self) -> int:
        """Compilations since the reset or the last call."""
        return int(self._compiler.fake_compile_count())

    @property
    def context_depth(self) -> int:
        """Contexts that this thread has pushed and not popped."""
        return int(self._driver.fake_context_depth())

    @property
    def _driver(self) -> ctypes.CDLL:
        library = ctypes.CDLL(str(self.driver))
        library.fake_calls.restype = library.fake_live.restype = ctypes.c_long
        return library

    @property
    def _compiler(self) -> ctypes.CDLL:
        return ctypes.CDLL(str(self.compiler))


def build(folder: Path, *, major: int = 13, graphs: bool = True) -> FakeCuda:
    """Builds both libraries into a folder; `major` is the version of CUDA that NVRTC tells.

    Without `graphs` the driver has no functions for them.
    """
    kernels = folder / "kernels"
    kernels.mkdir(parents=True, exist_ok=True)
    driver, compiler = folder / "libcuda.so.1", folder / f"libnvrtc.so.{major}"
    definitions = {
        "FAKE_CACHE": f'"{kernels}"',
        "FAKE_MSL": f'"{MSL}"',
        "FAKE_COMPILER": f'"{COMPILER}"',
        "FAKE_PYTHON": f'"{sys.executable}"',
        "FAKE_MAJOR": str(major),
    }
    flags = [f"-D{name}={value}" for name, value in definitions.items()]
    names = ["driver.cpp", "control.cpp", "module.cpp", *(["graphs.cpp"] if graphs else [])]
    sources = [str(FAKE / name) for name in names]
    _compile(*sources, "-o", str(driver), "-ldl")
    _compile(*flags, str(FAKE / "compiler.cpp"), "-o", str(compiler))
    return FakeCuda(driver, compiler)


def _compile(*arguments: str) -> None:
    done = subprocess.run(
        [COMPILER, *FLAGS, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


if __name__ == "__main__":
    made = build(Path(sys.argv[1]).resolve())
    paths = f"MOEFLUX_CUDA_DRIVER={made.driver} MOEFLUX_CUDA_COMPILER={made.compiler}"
    sys.stdout.write(f"export {paths}\n")
