import json
import re
from pathlib import Path
from typing import Any

import pytest
from shader_library import run_tool

pytestmark = pytest.mark.metal_bench

SHADER = """#include <metal_stdlib>
#include "shared.h"
using namespace metal;
#ifdef __METAL_VERSION__
constant uint format [[function_constant(0)]];
#else
#include <vector>
#endif
constant uint bits = format & 0xffu;
constant float table[2] = {0.5f,
                           2.0f};
inline float scaled(float x) { return x * table[bits & 1u]; }

// Two lines of a declaration.
kernel void scale(device const float* x [[buffer(0)]], device float* out [[buffer(1)]],
                  constant Sizes& sizes [[buffer(2)]], threadgroup half* scratch [[threadgroup(0)]],
                  uint2 position [[thread_position_in_grid]]) {
  threadgroup float sums[4], total;
  if (position.x < sizes.count) out[position.x] = scaled(x[position.x]);
}
kernel void clear(device float* out [[buffer(0)]]) { out[0] = 0.0f; }
"""
SHARED = """#pragma once
#include "shared.h"
struct Sizes {
  uint count;
};
"""


@pytest.fixture
def shader(tmp_path: Path) -> Path:
    (tmp_path / "shared.h").write_text(SHARED)
    path = tmp_path / "scale.metal"
    path.write_text(SHADER)
    return path


def table_of(shader: Path) -> dict[str, Any]:
    result = run_tool("translate.py", shader, "--kernels")
    assert result.returncode == 0, result.stderr
    table: dict[str, Any] = json.loads(result.stdout)
    return table


def lines_by_place(text: str) -> dict[tuple[str, int], str]:
    """The text's lines by the file and line that its markers give them."""
    lines = {}
    name, number = "", 0
    for line in text.split("\n"):
        marker = re.match(r'#line (\d+) "([^"]*)"', line)
        if marker:
            name, number = marker[2], int(marker[1])
        else:
            lines[name, number] = line
            number += 1
    return lines


def kept_words(line: str) -> set[str]:
    """The names of a line of Metal that stay when it becomes C++."""
    without_attributes = re.sub(r"\[\[.*?\]\]", "", line.split("//", maxsplit=1)[0])
    names = set(re.findall(r"[A-Za-z_]\w*", without_attributes))
    return names - {"device", "constant", "threadgroup", "kernel"}


@pytest.mark.parametrize("option", ["--flatten", "--include=."])
def test_every_line_keeps_its_place(shader: Path, option: str) -> None:
    output = run_tool("translate.py", shader, option).stdout
    places = lines_by_place(output)
    for path, text in ((shader, SHADER), (shader.parent / "shared.h", SHARED)):
        for number, line in enumerate(text.split("\n"), 1):
            if not line.startswith("#"):
                assert kept_words(line) <= kept_words(places.get((str(path), number), "")), line


def test_table_names_kernels_arguments_and_constants(shader: Path) -> None:
    table = table_of(shader)
    scale, clear = table["kernels"]
    assert (scale["name"], scale["file"], scale["line"]) == ("scale", str(shader), 15)
    rows = [
        (a["name"], a["kind"], a["index"], a["address_space"], a["constant"])
        for a in scale["arguments"]
    ]
    assert rows == [
        ("x", "buffer", 0, "device", True),
        ("out", "buffer", 1, "device", False),
        ("sizes", "buffer", 2, "constant", True),
        ("scratch", "threadgroup", 0, "threadgroup", False),
        ("position", "builtin", None, None, True),
    ]
    assert scale["arguments"][4]["builtin"] == "thread_position_in_grid"
    assert table["constants"] == {"format": 0}
    assert (scale["constants"], clear["constants"]) == (["format"], [])


def test_an_include_is_put_in_once(shader: Path) -> None:
    text = run_tool("translate.py", shader, "--flatten").stdout
    assert text.count("struct Sizes") == 1
    assert '#include "' not in text
    assert "#include <metal_stdlib>" in text


def test_branches_that_metal_does_not_take_are_left_out(shader: Path) -> None:
    assert "<vector>" not in run_tool("translate.py", shader, "--flatten").stdout


def test_flattened_text_translates_to_the_same_places(shader: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat.metal"
    run_tool("translate.py", shader, "--flatten", "-o", flat)
    assert table_of(flat) == table_of(shader)


def test_root_makes_names_relative(shader: Path) -> None:
    text = run_tool("translate.py", shader, "--flatten", "--root", shader.parent).stdout
    assert '#line 1 "scale.metal"' in text
    assert '#line 1 "shared.h"' in text
    assert str(shader.parent) not in text


def test_a_kernel_in_two_files_is_refused(shader: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.metal"
    other.write_text(SHADER)
    result = run_tool("translate.py", shader, other, "--kernels")
    assert result.returncode == 1
    assert f"{other}:15: error: kernel 'scale' is also in {shader}" in result.stderr


def test_a_constant_has_one_index_in_all_files(shader: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.metal"
    other.write_text("constant uint format [[function_constant(3)]];\n")
    result = run_tool("translate.py", shader, other, "--kernels")
    assert f"{other}:1: error: function constant 'format' has index 3, elsewhere 0" in result.stderr


def test_errors_name_the_included_file(shader: Path) -> None:
    (shader.parent / "shared.h").write_text(
        "#pragma once\nstruct Sizes { uint count; };\ninline double f();\n"
    )
    result = run_tool("translate.py", shader)
    assert (
        result.stderr == f"{shader.parent / 'shared.h'}:3: error: Metal has no double precision\n"
    )


def test_a_missing_include_is_named(tmp_path: Path) -> None:
    shader = tmp_path / "lost.metal"
    shader.write_text('\n#include "nowhere.h"\n')
    assert run_tool("translate.py", shader).stderr == f'{shader}:2: error: no file "nowhere.h"\n'
