"""Writes the C++ file that holds the shaders: one string per file, its SHA-256, and its kernels.

embed_shaders.py shader_sources.cpp shaders/*.metal
"""

import argparse
import hashlib
import re
import subprocess
import sys
from pathlib import Path

TRANSLATE = Path(__file__).resolve().parent.parent / "msl" / "translate.py"
COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
KERNEL = re.compile(r"\bkernel\s+void\s+(\w+)")

HEAD = """// Generated from shaders/ by csrc/metal/embed_shaders.py.
#include "metal/shader_source.h"

namespace moeflux::metal {

const std::vector<ShaderSource>& shader_sources() {
  static const std::vector<ShaderSource> sources = {
"""
TAIL = """  };
  return sources;
}

}  // namespace moeflux::metal
"""


def flattened(shader: Path, folder: Path) -> str:
    """The shader with its quote includes put in."""
    output = folder / f"{shader.stem}.flattened.metal"
    command = [sys.executable, str(TRANSLATE), str(shader), "--flatten", "-o", str(output)]
    subprocess.run(command, check=True)
    return output.read_text(encoding="utf-8")


def row(shader: Path, text: str) -> str:
    """A ShaderSource of one file."""
    kernels = KERNEL.findall(COMMENT.sub(" ", text))
    digest = hashlib.sha256(text.encode()).hexdigest()
    names = ", ".join(f'"{kernel}"' for kernel in kernels)
    return f'      {{"{shader.stem}", R"metal({text})metal",\n       "{digest}", {{{names}}}}},\n'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("shaders", type=Path, nargs="+")
    arguments = parser.parse_args()
    folder = arguments.output.parent
    rows = [row(shader, flattened(shader, folder)) for shader in sorted(arguments.shaders)]
    arguments.output.write_text(HEAD + "".join(rows) + TAIL, encoding="utf-8")


if __name__ == "__main__":
    main()
