"""Writes the C++ file with the shaders translated for CUDA and the headers that they include.

    embed_kernels.py kernel_sources.cpp shaders/*.metal

Paths are relative to the working folder, so that the text is the same wherever it is built.
"""

import argparse
import hashlib
import re
import sys
from pathlib import Path

MSL = Path(__file__).resolve().parent.parent / "msl"
sys.path.insert(0, str(MSL))

from flatten import Flattener  # noqa: E402
from table import Kernel  # noqa: E402
from translate import Translation, translate  # noqa: E402

INCLUDE = re.compile(r'^\s*#include "([^"]+)"', re.MULTILINE)
NOT_FOR_CUDA = ("check.h", "host.h")
OPTIONS = ("-std=c++17", "--fmad=false")
"""Of the compiler. Products and sums are rounded one by one, as the shaders write them."""
PIECE = 12000
"""Characters of one string literal; compilers take longer ones, but not all of them any length."""

HEAD = """// Generated from shaders/ by csrc/cuda/embed_kernels.py.
#include "cuda/kernel_source.h"

namespace moeflux::cuda {

const std::vector<KernelSource>& kernel_sources() {
  static const std::vector<KernelSource> sources = {
"""
HEADERS = """  };
  return sources;
}

const std::vector<HeaderText>& kernel_headers() {
  static const std::vector<HeaderText> headers = {
"""
TAIL = """  };
  return headers;
}

const std::vector<std::string>& kernel_options() {
  static const std::vector<std::string> options = {OPTIONS};
  return options;
}

std::string_view kernel_sources_sha256() { return "SHA256"; }

}  // namespace moeflux::cuda
"""


def literal(text: str) -> str:
    """Adjacent raw strings."""
    pieces = [text[i : i + PIECE] for i in range(0, len(text), PIECE)]
    return "\n".join(f'R"cuda({piece})cuda"' for piece in pieces)


def headers() -> dict[str, str]:
    """The text of every header that a translated shader reads on CUDA."""
    found: dict[str, str] = {}
    waiting = ["prelude.h"]
    while waiting:
        name = waiting.pop()
        if name in found or name in NOT_FOR_CUDA:
            continue
        found[name] = (MSL / name).read_text(encoding="utf-8")
        waiting.extend(INCLUDE.findall(found[name]))
    return dict(sorted(found.items()))


def function(kernel: Kernel) -> str:
    """A KernelFunction: its name, for each buffer whether it can be written to, and the step."""
    buffers = [argument for argument in kernel.arguments if argument.kind == "buffer"]
    access = "".join("r" if buffer.constant else "w" for buffer in buffers)
    takes_step = "true" if any(buffer.type == "Step" for buffer in buffers) else "false"
    return f'{{"{kernel.name}", "{access}", {takes_step}}}'


def row(shader: Path, translation: Translation) -> str:
    """A KernelSource of one file."""
    functions = ", ".join(map(function, translation.table.kernels))
    return f'      {{"{shader.stem}",\n{literal(translation.text)},\n       {{{functions}}}}},\n'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("shaders", type=Path, nargs="+")
    arguments = parser.parse_args()
    shaders = sorted(arguments.shaders)
    translations = [
        translate(Flattener([], Path()).file(shader), str(shader)) for shader in shaders
    ]
    included = headers()
    texts = [*(translation.text for translation in translations), *included.values(), *OPTIONS]
    digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()
    rows = [row(*pair) for pair in zip(shaders, translations, strict=True)]
    header_rows = [f'      {{"{name}",\n{literal(text)}}},\n' for name, text in included.items()]
    options = ", ".join(f'"{option}"' for option in OPTIONS)
    tail = TAIL.replace("SHA256", digest).replace("{OPTIONS}", f"{{{options}}}")
    text = "".join([HEAD, *rows, HEADERS, *header_rows, tail])
    arguments.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
