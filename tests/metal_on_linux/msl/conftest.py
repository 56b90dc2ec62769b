"""Fixtures that turn shader text into the error that it causes. The text begins on line 3."""

from pathlib import Path

import pytest
from shader_library import ErrorOf, run_tool

HEADER = "#include <metal_stdlib>\nusing namespace metal;\n"


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compiled_shaders")


@pytest.fixture
def check_error(tmp_path: Path, cache: Path) -> ErrorOf:
    """What mode `check` says of a text; empty if it is sound."""

    def check_error(text: str) -> str:
        shader = tmp_path / "planted.metal"
        shader.write_text(HEADER + text)
        result = run_tool("compile.py", shader, "--cache", cache, "--mode", "check")
        assert (result.returncode == 0) == (result.stderr == "")
        return result.stderr

    return check_error


@pytest.fixture
def translate_error(tmp_path: Path) -> ErrorOf:
    """What the translator says of a text; empty if it translates it."""

    def translate_error(text: str) -> str:
        shader = tmp_path / "planted.metal"
        shader.write_text(HEADER + text)
        result = run_tool("translate.py", shader, "-o", tmp_path / "planted.cpp")
        assert (result.returncode == 0) == (result.stderr == "")
        return result.stderr

    return translate_error
