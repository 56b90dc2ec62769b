"""The shape of the tree: imports run downward, files stay small, one reader of the environment."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "python" / "moeflux"

# Lower number: lower layer. A module may import its own layer and those below it.
LAYERS = {
    "errors": 0,
    "settings": 0,
    "_core": 1,
    "memory": 1,
    "backends": 2,
    "quant": 2,
    "capture": 2,
    "ops": 3,
    "blocks": 4,
    "checkpoint": 4,
    "experts": 4,
    "experts.stream": 5,
    "profile": 5,
    "tokenizer": 5,
    "chat": 5,
    "hub": 5,
    "models": 6,
    "engine": 7,
    "doctor": 8,
    "evaluation": 8,
    "cli": 9,
    "server": 9,
}
TOP = 8  # moeflux/__init__.py: below the command line and the server, above all else


def _layer(module: str) -> int:
    """The layer of `moeflux.<module>`."""
    parts = module.split(".")
    for length in (2, 1):
        name = ".".join(parts[:length])
        if name in LAYERS:
            return LAYERS[name]
    return TOP


def _module_name(path: Path) -> str:
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts)


def _imports(path: Path) -> Iterator[str]:
    """Modules of ours that a file imports, without the leading package name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("moeflux."):
                inner = name.removeprefix("moeflux.")
                if (PACKAGE / Path(*inner.split("."))).with_suffix(".py").exists() or (
                    PACKAGE / Path(*inner.split(".")) / "__init__.py"
                ).exists():
                    yield inner


PYTHON_FILES = sorted(path for path in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", PYTHON_FILES, ids=_module_name)
def test_imports_run_downward_only(path: Path) -> None:
    own = _layer(_module_name(path))
    upward = [name for name in _imports(path) if _layer(name) > own]
    assert upward == []


@pytest.mark.parametrize("name", ["errors", "settings"])
def test_errors_and_settings_import_nothing_of_ours(name: str) -> None:
    assert list(_imports(PACKAGE / f"{name}.py")) == []


@pytest.mark.parametrize(
    ("folder", "patterns", "limit"),
    [
        ("python", ["*.py", "*.pyi"], 300),
        ("csrc", ["*.h", "*.cpp", "*.mm", "*.inc"], 300),
        ("shaders", ["*.metal", "*.h"], 400),
        ("tests", ["*.py", "*.cpp", "*.h"], 450),
        ("bench", ["*.py"], 450),
    ],
)
def test_files_stay_small(folder: str, patterns: list[str], limit: int) -> None:
    files = [path for pattern in patterns for path in (ROOT / folder).rglob(pattern)]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    assert {name: length for name, length in lengths.items() if length > limit} == {}


def test_environment_is_read_only_in_settings() -> None:
    readers = [
        path.name
        for path in PYTHON_FILES
        if "os.environ" in path.read_text() or "getenv" in path.read_text()
    ]
    assert readers == ["settings.py"]
    native = [*(ROOT / "csrc").rglob("*.cpp"), *(ROOT / "csrc").rglob("*.mm")]
    assert [path.name for path in native if "getenv" in path.read_text()] == []


def test_no_branch_on_the_backend_above_the_core() -> None:
    names = ('== "metal"', '== "cuda"', '== "cpu"', "== 'metal'", "== 'cuda'", "== 'cpu'")
    folders = ["ops", "blocks", "models", "engine", "experts"]
    files = [path for folder in folders for path in (PACKAGE / folder).rglob("*.py")]
    assert [path.name for path in files if any(name in path.read_text() for name in names)] == []
