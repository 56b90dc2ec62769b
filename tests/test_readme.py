"""The two commands of the README, run on a clean clone as a new user would."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def readme_command(name: str) -> str:
    """The one line of the README's block ```sh <name>."""
    blocks = re.findall(rf"^```sh {name}\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    assert len(blocks) == 1, f"README.md has {len(blocks)} blocks 'sh {name}', one is wanted"
    lines = blocks[0].strip().splitlines()
    assert len(lines) == 1, f"the block 'sh {name}' has {len(lines)} lines, one is wanted"
    return str(lines[0])


def clean_clone(folder: Path) -> Path:
    """A clone of the committed state of this checkout."""
    target = folder / "moeflux"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(target)], check=True)
    return target


@pytest.mark.readme
def test_run_command_prints_generated_text(tmp_path: Path) -> None:
    clone = clean_clone(tmp_path)
    run = subprocess.run(
        ["bash", "-c", readme_command("run")],
        cwd=clone,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert "decode" in run.stderr.splitlines()[-1]
    assert len(run.stdout.strip()) > 40


@pytest.mark.readme
def test_test_command_runs_every_test(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    clone = clean_clone(tmp_path)
    command = ["bash", "-c", readme_command("test")]
    lines: list[str] = []
    with subprocess.Popen(
        command, cwd=clone, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as run:
        assert run.stdout is not None
        for line in run.stdout:
            lines.append(line)
            with capfd.disabled():
                sys.stdout.write(line)
                sys.stdout.flush()
    output = "".join(lines)
    assert run.returncode == 0, output[-3000:]
    assert re.search(r"\d+ passed", output)
    assert re.search(r"100% tests passed", output)
