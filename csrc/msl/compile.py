"""Compiles a .metal file to a shared object with the functions of run.h, and keeps the results.

    compile.py shaders/matmul.metal --mode race --cache DIR    prints the shared object's path
    compile.py shaders/matmul.metal --mode check --cache DIR   checks only, prints nothing
    compile.py --sanitizer-runtime                             what LD_PRELOAD needs for `address`

Diagnostics go to standard error with the shader's own file and line; the exit status is then 1.
"""

import argparse
import hashlib
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from flatten import Flattener
from source import ShaderError
from translate import translate

HERE = Path(__file__).resolve().parent
DEFAULT_COMPILER = "clang++-19"
RUNTIME_SOURCES = (
    "fiber.cpp",
    "threadgroup.cpp",
    "run.cpp",
    "race.cpp",
    "race_hooks.cpp",
    "shader_line.cpp",
)

# Contraction is off, for the reference rounds every operation; so is the aliasing rule, for Metal
# code reads vectors from memory of floats.
SHADER_FLAGS = (
    "-std=c++17",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-strict-aliasing",
    "-fsigned-char",
    "-gline-tables-only",
    "-Wno-unknown-pragmas",
)
CLANG_FLAGS = ("-Xclang", "-cl-single-precision-constant")
GCC_FLAGS = ("-fsingle-precision-constant", "-g1")
RUNTIME_FLAGS = ("-std=c++20", "-O2", "-fPIC", "-fvisibility=hidden", "-fsigned-char", "-pthread")


@dataclass(frozen=True)
class Mode:
    """Flags for the shader, for the runner's own files and for the linker."""

    shader: tuple[str, ...] = ()
    runtime: tuple[str, ...] = ()
    link: tuple[str, ...] = ()


SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
MODES = {
    "default": Mode(("-O2",)),
    # The hooks of ThreadSanitizer's instrumentation are our own, so its runtime is not linked. It
    # sees accesses of 1 to 16 bytes: wider vectors have to be kept from arising.
    "race": Mode(
        (
            "-O1",
            "-fsanitize=thread",
            "-fno-vectorize",
            "-fno-slp-vectorize",
            "-mllvm",
            "-tsan-instrument-atomics=0",
            "-mllvm",
            "-tsan-instrument-func-entry-exit=0",
            "-mllvm",
            "-tsan-instrument-read-before-write=1",
            "-DMSL_MODE_RACE",
        ),
        ("-DMSL_MODE_RACE",),
        ("-ldl",),
    ),
    "address": Mode(
        ("-O1", "-fno-omit-frame-pointer", *SANITIZE),
        ("-DMSL_MODE_ADDRESS",),
        (*SANITIZE, "-shared-libsan"),
    ),
}

# OpenCL's own words: names in Metal, or types with another meaning.
OPENCL_WORDS = (
    *("global", "local", "private", "generic", "pipe", "uniform"),
    *("atomic_int", "atomic_uint", "atomic_float"),
)
ADDRESS_SPACE_CHECK = (
    *("-x", "clcpp", "-cl-std=clc++2021", "-cl-no-stdinc", "-DMSL_MODE_CHECK"),
    *(f"-D{word}={word}_" for word in OPENCL_WORDS),
)
LANGUAGE_CHECK = (
    *("-std=c++14", "-Wall", "-Wextra", "-Wdouble-promotion", "-Werror", "-Wno-unknown-pragmas"),
    *CLANG_FLAGS,
)


class CompileError(Exception):
    """The compiler's own text."""


@dataclass(frozen=True)
class Compiler:
    """One compiler and the folder that keeps what it made."""

    command: str
    cache: Path

    @property
    def is_clang(self) -> bool:
        return "clang" in Path(self.command).name

    def shared_object(self, translated: str, mode_name: str) -> Path:
        mode = MODES[mode_name]
        if mode_name == "race" and not self.is_clang:
            raise CompileError(f"mode race needs clang++, got {self.command}\n")
        native = () if mode_name == "race" or platform.machine() != "x86_64" else ("-march=native",)
        own = CLANG_FLAGS if self.is_clang else GCC_FLAGS
        flags = tuple(f for f in SHADER_FLAGS if self.is_clang or f != "-gline-tables-only")
        shader_flags = (*flags, *own, *native, *mode.shader, f"-I{HERE}")
        key = self._key(translated, *shader_flags, *mode.runtime, *mode.link)
        result = self.cache / f"{key}.so"
        if result.exists():
            return result
        link = mode.link if self.is_clang else tuple(f for f in mode.link if f != "-shared-libsan")
        runtime = [self._runtime_object(name, mode) for name in RUNTIME_SOURCES]
        with tempfile.TemporaryDirectory(dir=self.cache) as folder:
            source = Path(folder) / "shader.cpp"
            source.write_text(translated, encoding="utf-8")
            shader = source.with_suffix(".o")
            self._run(*shader_flags, "-c", str(source), "-o", str(shader))
            made = source.with_suffix(".so")
            objects = [str(path) for path in (shader, *runtime)]
            self._run("-shared", *objects, "-o", str(made), *link, "-pthread")
            made.replace(result)
        return result

    def check(self, translated: str) -> None:
        """Address spaces and types, then warnings and the language's version; makes nothing."""
        if not self.is_clang:
            raise CompileError(f"mode check needs clang++, got {self.command}\n")
        with tempfile.TemporaryDirectory(dir=self.cache) as folder:
            source = Path(folder) / "shader.cpp"
            source.write_text(translated, encoding="utf-8")
            for flags in (ADDRESS_SPACE_CHECK, LANGUAGE_CHECK):
                self._run(*flags, "-fsyntax-only", "-isystem", str(HERE), str(source))

    def _runtime_object(self, name: str, mode: Mode) -> Path:
        flags = (*RUNTIME_FLAGS, *mode.runtime)
        result = self.cache / f"{Path(name).stem}-{self._key(*flags)}.o"
        if not result.exists():
            with tempfile.TemporaryDirectory(dir=self.cache) as folder:
                made = Path(folder) / "runtime.o"
                self._run(*flags, "-c", str(HERE / name), "-o", str(made))
                made.replace(result)
        return result

    def _key(self, *parts: str) -> str:
        """Depends on the compiler and on all that is included."""
        digest = hashlib.sha256()
        version = subprocess.run(
            [self.command, "--version"], capture_output=True, text=True, check=True
        )
        for part in (self.command, version.stdout, *parts):
            digest.update(part.encode() + b"\0")
        for path in sorted((*HERE.glob("*.h"), *HERE.glob("*.cpp"))):
            digest.update(path.read_bytes())
        return digest.hexdigest()[:32]

    def _run(self, *arguments: str) -> None:
        result = subprocess.run(
            [self.command, *arguments], capture_output=True, text=True, check=False
        )
        if result.returncode != 0:
            raise CompileError(result.stderr)


def sanitizer_runtime(command: str) -> str:
    clang = "clang" in Path(command).name
    name = f"libclang_rt.asan-{platform.machine()}.so" if clang else "libasan.so"
    found = subprocess.run(
        [command, f"-print-file-name={name}"], capture_output=True, text=True, check=True
    )
    return found.stdout.strip()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("shader", nargs="?", type=Path)
    parser.add_argument("--cache", type=Path, help="folder that keeps the results")
    parser.add_argument("--mode", choices=[*MODES, "check"], default="default")
    parser.add_argument("--compiler", default=DEFAULT_COMPILER)
    parser.add_argument("-I", "--include", action="append", type=Path, default=[], metavar="DIR")
    parser.add_argument("--sanitizer-runtime", action="store_true")
    options = parser.parse_args(arguments)
    if options.sanitizer_runtime:
        sys.stdout.write(sanitizer_runtime(options.compiler) + "\n")
        return 0
    if options.shader is None or options.cache is None:
        parser.error("a shader and --cache are needed")
    try:
        text = Flattener(options.include).file(options.shader)
        translated = translate(text, str(options.shader)).text
        options.cache.mkdir(parents=True, exist_ok=True)
        compiler = Compiler(options.compiler, options.cache)
        if options.mode == "check":
            compiler.check(translated)
        else:
            sys.stdout.write(os.fspath(compiler.shared_object(translated, options.mode)) + "\n")
    except (ShaderError, CompileError, OSError) as error:
        sys.stderr.write(f"{error}".rstrip() + "\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
